"""Influence: does a cheap estimate find the latents whose ablation moves the model's output?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from tqdm import tqdm

from gradsae import checks
from gradsae.influence.case import Case, Question, Settings, study
from gradsae.influence.estimator import Estimator
from gradsae.influence.summary import summarise
from gradsae.influence.target import SCALARS, NextToken, Scalar, prob, runner_up
from gradsae.interfaces import Metric, ModelSource, Scores, Skipped, Source
from gradsae.prompt import NoActiveLatentError, SeenPrompt, see_from
from gradsae.prompts import Prompt, PromptSet
from gradsae.sae import SAE

VERSION = 2
"""Of the scores' formulas; part of every record."""


@final
@dataclass(frozen=True, kw_only=True)
class Influence(Metric):
    """Agreement of estimates with all-position ablation, per prompt, then averaged over prompts.

    For each estimator E (range, best; formulas in `agreement`):
        influence/spearman/E        [-1, 1], 1     influence/spearman_abs/E    [-1, 1], 1
        influence/pearson/E         [-1, 1], 1     influence/sign_agreement/E  [0, 1], 1
        influence/precision_at_k/E  [0, 1], 1
        influence/cost/E            full forward passes per prompt, a backward counts as two; of a
                                    re-run only the share of blocks and positions that is run
    Intervals: 95 % bootstrap over prompts. Beside them:
        influence/cost/ablation      of the truth
        influence/n_active           latents open at some position of a prompt, mean
        influence/target_prob        the model's probability of the target, mean
        influence/median_abs_effect  over the latents of a prompt, mean; in units of the target
        influence/noise_floor        what the model's rounding does to the target (root mean square,
                                     see `rounding_noise`), mean; in units of the target
        influence/above_noise        [0, 1]: share of latents whose |effect| is above their
                                     prompt's noise; low = the dtype is too coarse for this model
    """

    prompts: PromptSet
    estimators: Sequence[Estimator]
    scalar: Scalar = "log_prob"
    """What of the target token is explained."""
    ks: Sequence[int] = (10,)
    """Of precision_at_k."""
    batch_rows: int = 32
    """Prompts run at once, one of them unedited: the memory budget."""
    max_latents: int | None = None
    """Ablate a random part of a prompt's active latents; then there is no precision_at_k."""
    n_scatter: int = 2000
    """Latents in the table that the scatter figure draws."""

    def __post_init__(self) -> None:
        checks.one_of("scalar", self.scalar, SCALARS)
        for k in self.ks:
            checks.whole("ks", k, 1)
        checks.whole("batch_rows", self.batch_rows, 2)
        if self.max_latents is not None:
            checks.whole("max_latents", self.max_latents, 3)
        checks.whole("n_scatter", self.n_scatter, 1)
        names = [estimator.name for estimator in self.estimators]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"estimators must be at least one, each once; got {names}")

    def measure(self, sae: SAE, source: Source, seed: int) -> Scores | Skipped:
        """`seed` fixes the prompts, the random estimator, every subsample and the bootstrap."""
        if not isinstance(source, ModelSource):
            return Skipped(f"{type(source).__name__} has no language model whose output could move")
        drawn = self.prompts.draw(source, seed)
        cases = []
        for i, prompt in enumerate(tqdm(drawn.prompts, desc="influence", disable=None)):
            try:
                seen = see_from(source, sae, prompt.token_ids)
            except NoActiveLatentError:
                continue
            cases.append(self._study(seen, prompt, i, seed))
        if not cases:
            return Skipped(f"no latent fires on any of {len(drawn.prompts)} prompts")
        out = summarise(cases, source.lm(), seed=seed, n_scatter=self.n_scatter)
        out.n["influence/prompts_without_latents"] = len(drawn.prompts) - len(cases)
        spent = out.forward_equivalents + drawn.n_tried
        return Scores(**{**vars(out), "forward_equivalents": spent})

    def _study(self, seen: SeenPrompt, prompt: Prompt, index: int, seed: int) -> Case:
        with torch.no_grad():
            logits = seen.suffix.logits(seen.clean[None], [-1])
        foil = runner_up(logits[0, 0], prompt.target) if self.scalar == "logit_diff" else None
        target = NextToken(token=prompt.target, scalar=self.scalar, foil=foil)
        question = Question(prompt, target, prob(logits[0], prompt.target).item())
        settings = Settings(self.estimators, self.ks, self.batch_rows, self.max_latents, seed)
        return study(seen, question, index, settings)
