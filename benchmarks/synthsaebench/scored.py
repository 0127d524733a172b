"""Our numbers beside sae-lens's own, as a table."""

from collections.abc import Mapping

from benchmarks.synthsaebench import lens
from benchmarks.synthsaebench.asked import Asked
from benchmarks.synthsaebench.terms import TERMS, in_their_terms
from gradsae.errors import UserError
from gradsae.interfaces import Metric, Skipped, Source
from gradsae.metrics.latents import Latents
from gradsae.metrics.reconstruction import Reconstruction
from gradsae.metrics.recovery import Recovery
from gradsae.metrics.splitting import Splitting
from gradsae.metrics.task import measure_metrics
from gradsae.metrics.truth import known_rows
from gradsae.sae.dictionary import Dictionary
from gradsae.tables.printing import console_table

TOLERANCE = 1e-6
ROUNDED = (
    "Differences above 1e-6 come from activations at a threshold, which another order of sums "
    "puts on its other side."
)


def table(asked: Asked, *, has_lens: bool) -> str:
    """Score one SAE and return a table under a line that says what was scored."""
    ours = measured(asked.sae, asked.source, asked.n_rows, asked.seed)
    columns: dict[str, Mapping[str, float]] = {"ours": ours}
    title = f"{asked.title}, {asked.n_rows:,} held-out rows, seed {asked.seed}"
    note = ""
    if has_lens:
        truth = known_rows(asked.source, asked.n_rows, asked.seed)
        if isinstance(truth, Skipped):
            raise UserError(f"{asked.title}: {truth.reason}")
        evaluation = lens.evaluate(asked.sae, truth)
        columns |= {"sae-lens": evaluation.scores, "difference": _gap(ours, evaluation.scores)}
        title += f"; {evaluation.encoder}"
        note = f"\n{ROUNDED}" if max(columns["difference"].values()) > TOLERANCE else ""
    if asked.recorded:
        columns["record"] = asked.recorded
    rows = [
        [term.header, *(_cell(head, term.name, scores) for head, scores in columns.items())]
        for term in TERMS
    ]
    return f"{title}\n{console_table(['score', *columns], rows)}{note}"


def measured(sae: Dictionary, source: Source, n_rows: int, seed: int) -> dict[str, float]:
    """Return what our metrics give on `n_rows` held-out rows, under their names."""
    metrics: dict[str, Metric] = {
        "recovery": Recovery(n_rows=n_rows),
        "splitting": Splitting(),
        "latents": Latents(n_rows=n_rows),
        "reconstruction": Reconstruction(n_rows=n_rows),
    }
    return in_their_terms(measure_metrics(metrics, sae, source, seed).scores, sae.d_sae)


def _gap(ours: Mapping[str, float], theirs: Mapping[str, float]) -> dict[str, float]:
    """Return the absolute differences of the scores that both have."""
    return {name: abs(value - theirs[name]) for name, value in ours.items()}


def _cell(head: str, name: str, scores: Mapping[str, float]) -> str:
    if name not in scores:
        return "-"
    return f"{scores[name]:.1e}" if head == "difference" else f"{scores[name]:.6f}"
