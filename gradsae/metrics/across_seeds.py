"""The consistency task: which other seeds are compared, on how many held-out rows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

from gradsae import checks
from gradsae.about import Score
from gradsae.interfaces import Candidate, Method, Scores, Skipped, Source, Task
from gradsae.metrics.consistency import consistency
from gradsae.metrics.selection import describe
from gradsae.sae.dictionary import Dictionary
from gradsae.seeds import Seeds


@final
@dataclass(frozen=True, kw_only=True)
class Consistency(Task):
    """The cell's SAE compared with one more for each other seed: see `metrics.consistency`.

    The others differ in data order and initial weights; the world is the cell's.
    """

    name: ClassVar[str] = "consistency"
    version: ClassVar[int] = 1
    question: ClassVar[str] = "Consistency: do two seeds find the same latents?"
    ranked_by: ClassVar[str] = "consistency/pw_mcc"
    headline: ClassVar[tuple[str, ...]] = ("consistency/mcs_0.9", "consistency/pw_mcc")
    SCORES: ClassVar[tuple[Score, ...]] = (
        Score(
            name="consistency/mcs_0.9",
            header="MCS .9",
            better="higher",
            low=0,
            high=1,
            over="seeds",
            meaning=(
                "Share of live latents that have a live latent of another seed at a signed cosine "
                "above 0.9; mean over ordered pairs of seeds."
            ),
        ),
        Score(
            name="consistency/max_cosine",
            header="nearest",
            better="higher",
            low=-1,
            high=1,
            over="seeds",
            meaning=(
                "Mean over live latents of the largest signed cosine with a live latent of another "
                "seed."
            ),
        ),
        Score(
            name="consistency/pw_mcc",
            header="pairwise MCC",
            better="higher",
            low=-1,
            high=1,
            over="seeds",
            meaning=(
                "Summed signed cosines of the best one-to-one matching of two seeds' live latents, "
                "over the larger number of live latents; mean over pairs."
            ),
        ),
    )

    others: Sequence[int]
    """Seeds of the further SAEs; each is trained unless it is there."""
    n_rows: int = 8192
    """Held-out activations that decide which latents are live and rank them."""

    def __post_init__(self) -> None:
        checks.whole("n_rows", self.n_rows, 1)
        for seed in self.others:
            checks.whole("others", seed, 0)
        if not self.others or len(set(self.others)) < len(self.others):
            raise ValueError(f"others must name at least one seed, each once; got {self.others}")

    def candidates(self, method: Method[Any], seeds: Seeds) -> list[tuple[Method[Any], Seeds]]:
        other_seeds = [replace(seeds, data=seed, init=seed) for seed in self.others]
        return [(method, each) for each in (seeds, *other_seeds)]

    def measure_all(
        self, candidates: Sequence[Candidate], source: Source, seed: int
    ) -> Scores | Skipped:
        saes = [each.sae for each in candidates if not isinstance(each.sae, Skipped)]
        return self.compare(saes, source, seed)

    def compare(self, saes: Sequence[Dictionary], source: Source, seed: int) -> Scores:
        """Return the scores of some SAEs; `seed` fixes the held-out rows and random controls."""
        held = source.held_out(self.n_rows, seed)
        x = held.x if held.outlier is None else held.x[~held.outlier]
        runs = [describe(sae, x, f"run {i}") for i, sae in enumerate(saes)]
        return consistency(runs, seed)
