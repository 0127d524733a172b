"""How well cheap estimates find what ablation says matters: every SAE, scalar and estimator.

python -m benchmarks.influence_table           docs/results/influence{,_all}.md: short, and whole
python -m benchmarks.influence_table --check   fail if one of them and the records differ
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.launch.command import command
from benchmarks.render.markdown import RESULTS, plain, replaced, write_or_check
from benchmarks.results.reading import LOCAL_ORIGIN, OWN_ORIGIN
from benchmarks.results.rows import variants
from benchmarks.results.settings import (
    Estimate,
    Setting,
    most_asked_first,
    sae_config,
    sae_title,
    site_order,
    variants_of,
)
from gradsae.errors import UserError
from gradsae.records.record import content_id
from gradsae.tables.printing import markdown_table

EXPERIMENT = "influence_table"
WHOLE, SHORT_PAGE = RESULTS / "influence_all.md", RESULTS / "influence.md"
RANK, FIRST = "influence/spearman", "influence/precision_at_10"
SHORT = {
    "grad_times_act": "gradient x activation",
    "hop_lean10_10fe": "hops, 10 passes",
    "hop_lean10_20fe": "20 passes",
    "screen_by_size_verify_10fe": "largest ablated, 10",
    "released_gradsae": "released GradSAE",
    "mean_act": "mean activation",
}
"""Columns of the short form; those in `BARS` with their intervals."""
BARS = ("grad_times_act", "hop_lean10_10fe")


@dataclass(frozen=True, eq=False)
class Asked:
    """All that one SAE was asked about prompts of one kind."""

    settings: Sequence[Setting]
    """By `most_asked_first`: where two have a score, the first counts."""

    @property
    def first(self) -> Setting:
        return self.settings[0]

    @property
    def title(self) -> str:
        """`smollm2, resid_post.7, TopK, prose`."""
        setting = self.first
        parts = [sae_title(setting)]
        parts += [f"answers of {self.answer} tokens"] if self.answer > 1 else []
        parts += [] if setting.origin in (OWN_ORIGIN, LOCAL_ORIGIN) else [f"by {setting.origin}"]
        return ", ".join(parts)

    @property
    def scalar(self) -> str:
        """What of the target is explained, unless a question says otherwise."""
        return self.first.setup.ask.scalar or "log_prob"

    @property
    def answer(self) -> int:
        """Tokens that a prompt's target has."""
        return (self.first.setup.ask.prompts or {}).get("answer_length") or 1

    @property
    def order(self) -> tuple[Any, ...]:
        """By model, the stream before what an MLP adds, method as everywhere, and depth."""
        return *site_order(self.first), self.answer, self.first.depth or 0, self.title

    def estimators(self) -> list[str]:
        """The best by rank correlation first."""
        names = dict.fromkeys(name for setting in self.settings for name in variants(setting))
        found = {name: self.estimate(f"{RANK}/{name}") for name in names}
        known = {name: one.mean for name, one in found.items() if one is not None}
        return sorted(known, key=lambda name: -known[name])

    def questions(self) -> list[str]:
        """The usual scalar and truth as "", others as ".logit" or ".mean", as scores name them."""
        names = [
            name
            for setting in self.settings
            for record in setting.records
            for name in record.scores
        ]
        found = {name.split("/")[1] for name in names if name.startswith(f"{RANK}.")}
        return ["", *sorted(name.removeprefix("spearman") for name in found)]

    def estimate(self, score: str) -> Estimate | None:
        found = (setting.estimate(score) for setting in self.settings)
        return next((one for one in found if one is not None), None)


def asked(settings: Iterable[Setting]) -> list[Asked]:
    """Group the settings of the experiment by origin, SAE, kind of prompt and scalar."""
    groups: dict[str, list[Setting]] = {}
    for setting in settings:
        if setting.task == "influence" and setting.setup.experiment == EXPERIMENT:
            prompts = {**(setting.setup.ask.prompts or {}), "n_prompts": None}
            prompts.setdefault("answer_length", 1)  # records from before there was a choice
            what = [setting.origin, sae_config(setting), prompts, setting.setup.ask.scalar]
            groups.setdefault(content_id(what), []).append(setting)
    if not groups:
        raise UserError(f"no records of experiment={EXPERIMENT} among those read")
    found = [Asked(most_asked_first(group)) for group in groups.values()]
    return sorted(found, key=lambda one: one.order)


def whole(found: Sequence[Asked]) -> str:
    """A section for each SAE: a row per estimator, a column per scalar or further truth."""
    return "\n\n".join([INTRODUCTION, *(_section(one) for one in found)])


INTRODUCTION = """# How well cheap estimates find what matters

Written by `python -m benchmarks.influence_table` from `results/records/`; commands are in
`conf/experiment/influence_table.yaml`. Truth: the target with a latent ablated at every position,
SAE error kept; `log_prob` is of the model's own most likely next token. Spearman / precision@10
over the active latents of a prompt, mean over prompts and its 95 % bootstrap interval over them.
Cost is in forward passes of the whole model per prompt and question. Names after a dot are other
scalars of the same runs, or other truths (`mean`, `resample`: put in place of the code; `entry`:
one position; `joint_8`: sets of 8; `shapley_2`: share by sampled orders; `dose_1`: added)."""


def _section(one: Asked) -> str:
    active, price = (one.estimate(f"influence/{name}") for name in ("n_active", "cost/ablation"))
    prompts = one.first.setup.ask.prompts or {}
    about = f"Prompts of {prompts.get('length')} tokens"
    about += f"; {active.mean:.0f} active latents" if active else ""
    about += f"; ablating all of them costs {price.mean:.0f}." if price else "."
    questions = one.questions()
    heads = ["estimator", "cost", "n", *(q.removeprefix(".") or one.scalar for q in questions)]
    rows: list[list[str]] = []
    for name in one.estimators():
        rank = one.estimate(f"{RANK}/{name}")
        assert rank is not None  # of `estimators`
        cost = one.estimate(f"influence/cost/{name}")
        texts = [
            variants_of(one.settings, [name])[name].label,
            plain(cost.mean, 1) if cost else "-",
            str(rank.n),
        ]
        rows.append(texts + [_pair(one, name, q, rank.n) for q in questions])
    return "\n".join([f"## {one.title}", "", about, "", markdown_table(heads, rows)])


def short(found: Sequence[Asked]) -> str:
    """A row for each SAE that was asked about the estimators of `SHORT`."""
    heads = ["SAE of", "n", "ablation", *SHORT.values()]
    rows: list[list[str]] = []
    for one in found:
        ranks = [one.estimate(f"{RANK}/{name}") for name in SHORT]
        price = one.estimate("influence/cost/ablation")
        known = [rank.n for rank in ranks if rank is not None]
        if len(known) > 2 and price is not None:  # more than gradient and mean activation
            about = [one.title, str(max(known)), f"{price.mean:.0f}"]
            pairs = [_pair(one, name, "", max(known), bars=name in BARS) for name in SHORT]
            rows.append(about + pairs)
    return markdown_table(heads, rows)


def _pair(one: Asked, name: str, question: str, n: int, *, bars: bool = True) -> str:
    """`.981 [.977, .984] / .952 [.939, .965]`; prompts in brackets if not as many as in the row."""
    found = [one.estimate(f"{score}{question}/{name}") for score in (RANK, FIRST)]
    known = [each for each in found if each is not None]
    if not known:
        return "-"
    text = " / ".join(number(each) if bars else plain(each.mean, 3) for each in known)
    return text if known[0].n == n else f"{text} (n {known[0].n})"


def number(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return plain(estimate.mean, 3)
    mean, low, high = (plain(x, 3) for x in (estimate.mean, estimate.low, estimate.high))
    return mean if low == mean == high else f"{mean} [{low}, {high}]"


def pages(settings: Sequence[Setting]) -> dict[Path, str]:
    found = asked(settings)
    page = replaced(SHORT_PAGE.read_text(), EXPERIMENT, short(found))
    return {WHOLE: whole(found) + "\n", SHORT_PAGE: page}


def main() -> None:
    write_or_check("influence_table", __doc__, pages)


if __name__ == "__main__":
    sys.exit(command(main))
