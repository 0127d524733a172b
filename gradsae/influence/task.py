"""Influence: does a cheap estimate find the latents whose ablation moves the model's output?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from tqdm import tqdm

from gradsae import checks
from gradsae.about import LATER, About, Score
from gradsae.influence import scores
from gradsae.influence.case import Case, Question, study
from gradsae.influence.estimator import Estimator
from gradsae.influence.panel import SINGLES, Panel
from gradsae.influence.summary import summarise
from gradsae.influence.target import ANY_SCALAR, AnyScalar, make_target, prob
from gradsae.influence.truth import PreparedTruth, PromptContext, Truth
from gradsae.interfaces import ModelSource, ModelTask, Scores, Skipped, Source
from gradsae.prompts.seen import NoActiveLatentError, SeenPrompt, check_weights, see_from
from gradsae.prompts.sets import Prompt, PromptSet
from gradsae.sae.dictionary import Dictionary
from gradsae.seeds import make_generator


@final
@dataclass(frozen=True, kw_only=True)
class Influence(ModelTask):
    """Agreement of estimates with all-position ablation, per prompt, then averaged over prompts.

    Scores of an estimator E are named `influence/SCORE/E`, of a further truth or scalar
    `influence/SCORE.TRUTH.SCALAR/E`. `gradsae.influence.scores` says what each means, `agreement`
    has the formulas. Intervals: 95 % bootstrap over prompts.

    The series influence/recall_after_checks has the recall of the true top k after exact checks of
    the first latents of each ranking, and the cost of both. Of the first `n_pages` prompts,
    influence/tokens and influence/latents hold what a page shows.
    """

    name: ClassVar[str] = "influence"
    version: ClassVar[int] = 2
    question: ClassVar[str] = (
        "Influence: does an estimate find the latents whose ablation moves the model?"
    )
    compares_estimators: ClassVar[bool] = True
    ranked_by: ClassVar[str] = "influence/spearman"
    headline: ClassVar[tuple[str, ...]] = (
        "influence/spearman",
        "influence/pearson",
        "influence/sign_agreement",
        "influence/precision_at_10",
        "influence/cost",
    )
    REFERENCES: ClassVar[Mapping[str, About]] = {
        "ablation": About(label="ablation (truth)", family="truth", member=1, is_control=True),
        "no_op_edit": About(label="an edit of nothing", family="chance", is_control=True),
    }
    """What its scores name besides estimators, by name."""
    SCORES: ClassVar[tuple[Score, ...]] = (*scores.ALWAYS, *scores.at_k(10))
    COUNT: ClassVar[str] = "influence/prompts"

    prompts: PromptSet
    estimators: Sequence[Estimator]
    scalar: AnyScalar = "log_prob"
    """The scalar of the target that is explained, over all tokens of a whole answer."""
    also: Sequence[AnyScalar] = field(default=(), metadata=LATER)
    """Further scalars of the same ablation runs; their scores are named measure.scalar/E."""
    truths: Sequence[Truth] = field(default=(), metadata=LATER)
    """Measured besides ablation at all positions. Their scores are named measure.truth/E, and those
    of further scalars measure.truth.scalar/E. "ablation" then stands among the estimators."""
    also_max_cost: float | None = field(default=None, metadata=LATER)
    """Estimators that cost more forward-equivalents than this have no scores for further scalars
    and truths; None for no limit. Each of these costs their runs again, but no new ablations."""
    ks: Sequence[int] = (10,)
    """Values of k of the measures of the first k latents."""
    batch_rows: int = 32
    """Prompts run at once, one of them unedited: the memory budget."""
    max_latents: int | None = None
    """Ablate a random part of a prompt's active latents; then there is no precision_at_k."""
    n_scatter: int = 2000
    """Latents in the table that the scatter figure draws."""
    n_pages: int = field(default=3, metadata=LATER)
    """Prompts whose tokens and first latents are kept for a page each."""

    def __post_init__(self) -> None:
        for name in (self.scalar, *self.also):
            checks.one_of("scalar", name, ANY_SCALAR)
        _once("scalars", [self.scalar, *self.also])
        _once("truths", ["latent", *(truth.name for truth in self.truths)])
        for k in self.ks:
            checks.whole("ks", k, 1)
        if self.also_max_cost is not None:
            checks.number("also_max_cost", self.also_max_cost, low=0)
        checks.whole("batch_rows", self.batch_rows, 2)
        if self.max_latents is not None:
            checks.whole("max_latents", self.max_latents, 3)
        checks.whole("n_scatter", self.n_scatter, 1)
        checks.whole("n_pages", self.n_pages, 0)
        names = [estimator.name for estimator in self.estimators]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"estimators must be at least one, each once; got {names}")
        if SINGLES in names:
            raise ValueError(
                f"{SINGLES} is the name of the truth, so no estimator may have it; got {names}"
            )

    def declared(self) -> tuple[Score, ...]:
        truths = [truth.name for truth in self.truths]
        scalars = [*self.also, *(f"{truth}.{scalar}" for truth in truths for scalar in self.also)]
        return scores.every(self.ks, [*truths, *scalars])

    def measure(self, sae: Dictionary, source: Source, seed: int) -> Scores | Skipped:
        """Study every prompt and summarise.

        `seed` fixes the prompts, the random estimator, every subsample and the bootstrap.
        """
        if not isinstance(source, ModelSource):
            return Skipped(f"{type(source).__name__} has no language model whose output could move")
        check_weights(sae)
        sample = self.prompts.draw(source, seed)
        cases = []
        for i, prompt in enumerate(tqdm(sample.prompts, desc="influence", disable=None)):
            try:
                cases.append(self._study(source, sae, prompt, i, seed))
            except NoActiveLatentError:
                continue
        if not cases:
            return Skipped(f"no latent fires on any of {len(sample.prompts)} prompts")
        out = summarise(
            cases, source.lm(), seed=seed, n_scatter=self.n_scatter, n_pages=self.n_pages
        )
        out.n["influence/prompts_without_latents"] = len(sample.prompts) - len(cases)
        spent = out.forward_equivalents + sample.n_tried
        return Scores(**{**vars(out), "forward_equivalents": spent})

    def _study(
        self, source: ModelSource, sae: Dictionary, prompt: Prompt, index: int, seed: int
    ) -> Case:
        tokens = (prompt.target, *prompt.rest)
        forced = prompt.token_ids.new_tensor(tokens[:-1])  # the answer but for its last token
        seen = see_from(source, sae, torch.cat([prompt.token_ids, forced]))
        with torch.no_grad():
            clean = seen.rerun.logits(seen.clean[None], range(-len(tokens), 0))[0]
        question = Question(
            index=index,
            prompt=prompt,
            target=make_target(self.scalar, tokens, clean),
            target_prob=prob(clean[:1], prompt.target).item(),
            also={scalar: make_target(scalar, tokens, clean) for scalar in self.also},
            truths=self._prepared(source, sae, seen, index, seed),
        )
        panel = Panel(
            estimators=self.estimators, ks=self.ks, seed=seed, also_max_cost=self.also_max_cost
        )
        return study(
            seen, question, panel, batch_rows=self.batch_rows, max_latents=self.max_latents
        )

    def _prepared(
        self, source: ModelSource, sae: Dictionary, seen: SeenPrompt, index: int, seed: int
    ) -> dict[str, PreparedTruth | Skipped]:
        if not self.truths:
            return {}
        is_kept = ~source.dropped(seen.token_ids[None], seen.rerun.clean[None])[0]
        context = PromptContext(
            seen=seen,
            is_kept=is_kept,
            sae=sae,
            source=source,
            seed=seed,
            max_units=self.max_latents,
        )
        return {
            truth.name: truth.prepare(context, make_generator(seed, f"eval {truth.name} {index}"))
            for truth in self.truths
        }


def _once(field: str, names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise ValueError(f"{field} must not repeat, got {names}")
