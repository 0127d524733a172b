"""Steering: do the latents that a ranking picks move the target, and what else do they move?"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, final

from tqdm import tqdm

from gradsae import checks
from gradsae.about import About, Score
from gradsae.errors import UserError
from gradsae.interfaces import ModelSource, ModelTask, Scores, Skipped, Source
from gradsae.lm.model import LM
from gradsae.prompts.seen import NoActiveLatentError
from gradsae.prompts.sets import Prompt, PromptSet
from gradsae.sae.dictionary import Dictionary
from gradsae.seeds import make_generator
from gradsae.steering import scores
from gradsae.steering.interventions import OFF, Intervention, Text, read
from gradsae.steering.samples import Sample, sample_texts
from gradsae.steering.selectors import MAIN, Selection, check_selectors, select
from gradsae.steering.side_effects import read_unrelated
from gradsae.steering.summary import summarise
from gradsae.steering.trial import DoseSeries, Trial


@final
@dataclass(frozen=True, kw_only=True)
class Steering(ModelTask):
    """Effect and side effects of steering the k latents that each selector picks on a prompt.

    Scores of a selector S are named `steering/SCORE/S`: its latents are switched off at every
    position; means over prompts, 95 % bootstrap intervals. `gradsae.steering.scores` says what each
    means. The same names without S are those of grad_times_act; slope and slope_gap are of
    grad_times_act alone, match_gap and advantage of random_matched beside it.

    Series `steering/dose_response`: a row per selector and intervention, where effect is
    log p(target | edited) - log p(target | clean): positive = more likely, at most
    -log p(target | clean), so that little is left to gain on a target that is already likely. At
    dose 0 of mode scale it is minus `steering/effect`.
    """

    name: ClassVar[str] = "steering"
    version: ClassVar[int] = 1
    question: ClassVar[str] = (
        "Steering: do the chosen latents move the target, and what else do they move?"
    )
    compares_estimators: ClassVar[bool] = True
    ranked_by: ClassVar[str] = "steering/effect"
    headline: ClassVar[tuple[str, ...]] = (
        "steering/effect",
        "steering/kl_rest",
        "steering/selectivity",
        "steering/ppl_ratio",
    )
    REFERENCES: ClassVar[Mapping[str, About]] = {
        "random_direction": About(
            label="random direction", family="chance", member=2, is_control=True
        ),
    }
    """What its scores name besides estimators, by name."""
    SCORES: ClassVar[tuple[Score, ...]] = scores.SCORES
    COUNT: ClassVar[str] = "steering/prompts"

    prompts: PromptSet
    k: int = 5
    """Number of latents steered together."""
    scale_doses: Sequence[int | float] = (0.0, 0.5, 1.0, 2.0, 4.0)
    """Factors on the latents' own values: 0 is off, 1 changes nothing."""
    set_doses: Sequence[int | float] = (0.5, 1.0, 2.0)
    """Constant values at every position, in units of each latent's largest on the prompt."""
    selectors: Sequence[str] = (MAIN, "mean_act", "random_matched")
    n_nearest: int = 3
    """Number of nearest latents in strength that a matched latent is drawn from."""
    n_unrelated: int = 4
    """Number of windows of unrelated text."""
    unrelated_length: int = 64
    """Number of tokens in such a window."""
    n_samples: int = 2
    """Number of prompts with text samples: off, and the largest dose of each mode."""
    sample_tokens: int = 20
    batch_rows: int = 8
    """Texts run at once, one of them unedited: the memory budget."""

    def __post_init__(self) -> None:
        least = {"k": 1, "n_nearest": 1, "n_unrelated": 1, "unrelated_length": 2, "n_samples": 0}
        for name, low in (least | {"sample_tokens": 1, "batch_rows": 2}).items():
            checks.whole(name, getattr(self, name), low)
        check_selectors(self.selectors)
        if OFF not in self.interventions():
            raise ValueError(f"scale_doses must hold 0 (off), got {list(self.scale_doses)}")
        if len(set(self.interventions())) < len(self.interventions()):
            raise ValueError(f"doses must not repeat, got {self.scale_doses} and {self.set_doses}")

    def interventions(self) -> list[Intervention]:
        """Return what is done to the latents, in the order of the dose-response."""
        scale = [Intervention(mode="scale", dose=float(dose)) for dose in self.scale_doses]
        return scale + [Intervention(mode="set", dose=float(dose)) for dose in self.set_doses]

    def measure(self, sae: Dictionary, source: Source, seed: int) -> Scores | Skipped:
        """Steer every prompt by every selector and summarise.

        `seed` fixes prompts, unrelated text, controls and bootstrap.
        """
        if not isinstance(source, ModelSource):
            return Skipped(f"{type(source).__name__} has no language model whose output could move")
        sample = self.prompts.draw(source, seed)
        self._check_room(source.lm(), sample.prompts)
        unrelated = read_unrelated(
            source, sae, sample.prompts, self.n_unrelated, self.unrelated_length, seed
        )
        doses = DoseSeries(
            interventions=self.interventions(), unrelated=unrelated, batch_rows=self.batch_rows
        )
        setup = _Setup(sae, source, doses, seed)
        bar = tqdm(sample.prompts, desc="steering", disable=None)
        tried = [self._try(setup, prompt, i) for i, prompt in enumerate(bar)]
        trials = [trial for outcome in tried for trial in outcome.trials]
        left_out = [reason for outcome in tried for reason in outcome.left_out]
        if not trials:
            return Skipped(f"none of {len(tried)} prompts can be steered; first: {left_out[0][1]}")
        out = summarise(trials, self.interventions(), seed)
        out.n["steering/prompts"] = sum(bool(outcome.trials) for outcome in tried)
        _add_samples(out, [sample for outcome in tried for sample in outcome.samples])
        _add_left_out(out, left_out, self.selectors)
        reading = sample.n_tried + (unrelated.read_cost if unrelated else 0.0)
        spent = (
            out.forward_equivalents
            + reading
            + sum(outcome.forward_equivalents for outcome in tried)
        )
        return replace(out, forward_equivalents=spent)

    def _check_room(self, lm: LM, prompts: Sequence[Prompt]) -> None:
        """Raise UserError now, not after the work, if a sample would not fit the context."""
        longest = max(len(prompt.token_ids) for prompt in prompts)
        if self.n_samples and longest + self.sample_tokens > lm.max_context:
            raise UserError(
                f"sample_tokens={self.sample_tokens} after a prompt of {longest} tokens exceed the "
                f"context of {lm.name} ({lm.max_context})"
            )

    def _try(self, setup: "_Setup", prompt: Prompt, index: int) -> "_Tried":
        """Steer one prompt by every selector, or note why not."""
        text = self._read(setup, prompt)
        if isinstance(text, Skipped):
            return _Tried([], [], [(name, text.reason) for name in self.selectors], 0.0)
        chosen = select(
            text,
            prompt.target,
            self.selectors,
            make_generator(setup.seed, f"eval steering {index}"),
            k=self.k,
            n_nearest=self.n_nearest,
        )
        left_out = [(name, s.reason) for name, s in chosen.items() if isinstance(s, Skipped)]
        selections = {name: s for name, s in chosen.items() if not isinstance(s, Skipped)}
        trials = [
            setup.doses.steer(text, prompt.target, name, selection, prompt=index)
            for name, selection in selections.items()
        ]
        samples = self._samples(setup, prompt, selections) if index < self.n_samples else []
        written = len(samples) + bool(samples)  # the text before, too
        return _Tried(trials, samples, left_out, text.read_cost + written * self.sample_tokens)

    def _read(self, setup: "_Setup", prompt: Prompt) -> Text | Skipped:
        try:
            text = read(setup.source, setup.sae, prompt.token_ids)
        except NoActiveLatentError:
            return Skipped("no latent fires on the prompt")
        if text.seen.n_active < self.k:
            return Skipped(f"fewer than k={self.k} latents are active on the prompt")
        return text

    def _samples(
        self, setup: "_Setup", prompt: Prompt, selections: Mapping[str, Selection]
    ) -> list[Sample]:
        strongest = [Intervention(mode="scale", dose=float(max(self.scale_doses)))]
        if self.set_doses:
            strongest.append(Intervention(mode="set", dose=float(max(self.set_doses))))
        return sample_texts(
            setup.source,
            setup.sae,
            prompt.token_ids,
            {name: selection.chosen for name, selection in selections.items()},
            [OFF, *strongest],
            self.sample_tokens,
        )


class _Setup(NamedTuple):
    """Everything that the prompts of one measurement share."""

    sae: Dictionary
    source: ModelSource
    doses: DoseSeries
    seed: int


class _Tried(NamedTuple):
    """The outcome of one prompt."""

    trials: list[Trial]
    samples: list[Sample]
    left_out: list[tuple[str, str]]
    """Selector and reason."""
    forward_equivalents: float
    """Cost of reading and writing; each trial states its own."""


def _add_samples(out: Scores, samples: Sequence[Sample]) -> None:
    if samples:
        columns = zip(Sample._fields, zip(*samples, strict=True), strict=True)
        out.series["steering/samples"] = {name: list(values) for name, values in columns}


def _add_left_out(
    out: Scores, left_out: Sequence[tuple[str, str]], selectors: Sequence[str]
) -> None:
    """Count the prompts that a selector could not serve; skip the scores that none gave."""
    if not left_out:
        return
    counts = Counter(left_out)
    out.series["steering/left_out"] = {
        "selector": [selector for selector, _ in counts],
        "reason": [reason for _, reason in counts],
        "n_prompts": list(counts.values()),
    }
    for selector in selectors:
        if f"steering/effect/{selector}" not in out.scores:
            reason = next(why for name, why in left_out if name == selector)
            for score in ("effect", "kl_rest", "ppl_ratio", "selectivity"):
                out.skipped[f"steering/{score}/{selector}"] = f"on every prompt; first: {reason}"
