"""Masking: do the latents that a ranking names carry the answer to a question?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, permutations
from typing import ClassVar, final, get_args

from tqdm import tqdm

from gradsae import checks
from gradsae.about import LATER, About, Score
from gradsae.influence.estimator import Estimator
from gradsae.interfaces import ModelSource, ModelTask, Scores, Skipped, Source
from gradsae.masking import scores
from gradsae.masking.design import MAIN, Design
from gradsae.masking.rankings import Ranker
from gradsae.masking.sets import K, Kind, count, top
from gradsae.masking.summary import summarise
from gradsae.masking.swap import Side, swap
from gradsae.masking.tables import Swapped
from gradsae.masking.trial import Trial, attempt
from gradsae.masking.writing import Writer
from gradsae.prompts.questions.question import Question, Questions
from gradsae.prompts.seen import NoActiveLatentError
from gradsae.sae.dictionary import Dictionary
from gradsae.steering.interventions import Text, read


@final
@dataclass(frozen=True, kw_only=True)
class Masking(ModelTask):
    """The experiments of the GradSAE paper on questions that the unedited model answers right.

    Scores of a ranking R are named `masking/SCORE/R`: at `main_k` latents, means over contexts with
    a 95 % bootstrap over contexts. `gradsae.masking.scores` says what each means. Additivity,
    interaction and backup are those of grad_times_act and of the oracle alone; written answers
    those of the first `n_written` questions.

    Rankings are the estimators, random_matched (matched to grad_times_act), oracle (true effect of
    each latent alone; of those that were not checked, grad_times_act), oracle_greedy (see n_greedy)
    and released_mark (the release's score of the format's mark). A mask that several rankings name
    is run once.
    Series: curve, overlaps, questions; of the first questions: latents, tokens, swaps (the page).
    """

    name: ClassVar[str] = "masking"
    version: ClassVar[int] = 2
    question: ClassVar[str] = (
        "Masking: do the latents that a ranking names carry the answer to a question?"
    )
    compares_estimators: ClassVar[bool] = True
    ranked_by: ClassVar[str] = "masking/drop"
    headline: ClassVar[tuple[str, ...]] = (
        "masking/drop",
        "masking/mark_drop",
        "masking/em",
        "masking/f1",
        "masking/deletion_area",
        "masking/insertion_area",
        "masking/oracle_overlap",
        "masking/swap_gain",
        "masking/swap_em",
    )
    REFERENCES: ClassVar[Mapping[str, About]] = {
        "oracle": About(label="true effect", family="truth", member=0, is_control=True),
        "oracle_greedy": About(label="true effect, greedy", family="truth", is_control=True),
        "released_mark": About(label="released, on the bracket", family="gradient", member=4),
    }
    """What its scores name besides estimators, by name."""
    SCORES: ClassVar[tuple[Score, ...]] = scores.SCORES
    COUNT: ClassVar[str] = "masking/questions"
    """Name of the number of questions in `n` of a record."""

    questions: Questions
    rankings: Sequence[Estimator]
    ks: Sequence[K] = (1, 10, 20, 30, 0.5)
    """Whole numbers, or shares of the latents that are open at the last position."""
    main_k: K = 10
    kinds: Sequence[str] = ("top", "bottom", "keep")
    oracle: bool = True
    """Rank by true effects, too: ablate latents one at a time. The largest part of the cost."""
    n_checked: int | None = None
    """Number of latents whose true effect is measured, alternately the best by gradient x
    activation and by write norm (catches what the gradient misses); None measures all of them."""
    n_greedy: int = field(default=0, metadata=LATER)
    """Number of the oracle's first latents that the ranking oracle_greedy orders anew: each is
    chosen given those that are off already. Costs half its square in reruns; 0 for none."""
    n_written: int | None = None
    """Questions on which the model writes under every mask of kind top and bottom, and under every
    swap; None for all."""
    swaps: bool = True
    """Local steering between the questions of one context."""
    n_paired: int = 4
    """Number of latents whose pairwise interactions are measured."""
    n_nearest: int = 3
    """Number of nearest latents in strength that a matched latent is drawn from."""
    n_pages: int = 4
    """Number of questions whose latents are listed in the record."""
    batch_rows: int = 16

    def __post_init__(self) -> None:
        for name, low in (("n_paired", 0), ("n_nearest", 1), ("n_pages", 0), ("batch_rows", 2)):
            checks.whole(name, getattr(self, name), low)
        checks.whole("n_greedy", self.n_greedy, 0)
        if self.n_greedy and not self.oracle:
            raise ValueError(f"n_greedy={self.n_greedy} needs oracle=true: it begins from there")
        for name in ("oracle", "swaps"):
            checks.flag(name, getattr(self, name))
        for name, low in (("n_checked", 1), ("n_written", 0)):
            if getattr(self, name) is not None:
                checks.whole(name, getattr(self, name), low)
        for kind in self.kinds:
            checks.one_of("kinds", kind, get_args(Kind))
        for k in self.ks:
            _check_k(k)
        if self.main_k not in self.ks or "top" not in self.kinds:
            raise ValueError(f"ks must hold main_k={self.main_k} and kinds top, got {self.ks!r}")
        names = [estimator.name for estimator in self.rankings]
        if MAIN not in names or len(set(names)) < len(names):
            raise ValueError(f"rankings must hold {MAIN}, each ranking once; got {names}")

    def measure(self, sae: Dictionary, source: Source, seed: int) -> Scores | Skipped:
        """Mask and swap latents on every question and summarise.

        `seed` fixes questions, random rankings and bootstrap.
        """
        if not isinstance(source, ModelSource):
            return Skipped(f"{type(source).__name__} has no language model that could answer")
        sample, design = self.questions.draw(source, seed), self._design(seed)
        bar = tqdm(total=len(sample.questions), desc="masking", disable=None)
        trials: list[Trial] = []
        swaps: list[Swapped] = []
        for _, group in groupby(sample.questions, key=lambda q: q.candidate.context_index):
            tried: list[tuple[Trial, Text]] = []
            for question in group:
                tried += self._attempt(source, sae, question, len(trials) + len(tried), design)
                bar.update()
            trials += [trial for trial, _ in tried]
            swaps += self._swap(source, sae, tried) if self.swaps else []
        if not trials:
            return Skipped(f"no latent fires on any of {len(sample.questions)} questions")
        out = summarise(trials, swaps, source.lm(), self.main_k, self.n_pages, seed)
        out.n["masking/questions_without_latents"] = len(sample.questions) - len(trials)
        spent = sample.n_tried + sum(trial.forward_equivalents for trial in trials)
        spent += sum(swapped.swap.forward_equivalents for swapped in swaps)
        return replace(out, forward_equivalents=spent)

    def _attempt(
        self,
        source: ModelSource,
        sae: Dictionary,
        question: Question,
        index: int,
        design: Design,
    ) -> list[tuple[Trial, Text]]:
        try:
            text = read(source, sae, question.token_ids)
        except NoActiveLatentError:
            return []
        writer = self._writer(source, sae, question, index)
        return [(attempt(question, text, index, writer, self._ranker, design), text)]

    def _swap(
        self, source: ModelSource, sae: Dictionary, tried: Sequence[tuple[Trial, Text]]
    ) -> list[Swapped]:
        """Steer each question of a context to the answer of every other one.

        Pairs of questions with equal answers are left out.
        """
        swapped: list[Swapped] = []
        for into, donor in permutations(tried, 2):
            question, index = into[0].question, into[0].index
            if question.answer_ids == donor[0].question.answer_ids:
                continue
            names = list(into[0].scores)
            sides = [(self._side(*into, name), self._side(*donor, name)) for name in names]
            writer = self._writer(source, sae, question, index)
            swaps = swap(source, sae, sides, batch_rows=self.batch_rows, writer=writer)
            for name, effects in zip(names, swaps, strict=True):
                swapped.append(Swapped(name, index, donor[0].index, effects))
        return swapped

    def _writer(
        self, source: ModelSource, sae: Dictionary, question: Question, index: int
    ) -> Writer | None:
        """Return what lets the model write its answers, for the first questions."""
        if self.n_written is not None and index >= self.n_written:
            return None
        return Writer(source=source, sae=sae, question=question, format=self.questions.format)

    def _side(self, trial: Trial, text: Text, name: str) -> Side:
        columns = top(trial.scores[name], count(text.seen, self.main_k))
        return Side(trial.question, text, columns.to(text.seen.codes.device))

    @property
    def _ranker(self) -> Ranker:
        return Ranker(
            estimators=self.rankings,
            oracle=self.oracle,
            n_checked=self.n_checked,
            n_greedy=self.n_greedy,
            batch_rows=self.batch_rows,
        )

    def _design(self, seed: int) -> Design:
        return Design(
            ks=self.ks,
            main_k=self.main_k,
            kinds=self.kinds,
            n_paired=self.n_paired,
            n_nearest=self.n_nearest,
            seed=seed,
        )


def _check_k(k: K) -> None:
    if isinstance(k, int):
        checks.whole("ks", k, 1)
    else:
        checks.share("ks (a share)", k)
