"""The design: which sets of latents are masked on every question."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from jaxtyping import Float, Int
from torch import Tensor

from gradsae.interfaces import Skipped
from gradsae.masking.interplay import Interplay, from_drops, groups_of
from gradsae.masking.rankings import ORACLE
from gradsae.masking.sets import K, LatentSet, count, sets_of, top
from gradsae.prompts.seen import SeenPrompt
from gradsae.seeds import make_generator
from gradsae.steering.matched import match, strength

MAIN = "grad_times_act"
"""The ranking that random_matched is matched to."""
MATCHED = "random_matched"


@final
@dataclass(frozen=True, kw_only=True)
class Design:
    """Chooses the sets of latents from the rankings of a question. `Masking` explains the fields of
    the same names."""

    ks: Sequence[K]
    main_k: K
    kinds: Sequence[str]
    n_paired: int
    n_nearest: int
    seed: int
    """Fixes the sets of random_matched."""

    def sets(
        self, seen: SeenPrompt, scores: Mapping[str, Float[Tensor, " active"]]
    ) -> list[LatentSet]:
        """Return the sets of every ranking, kind and K, with those of random_matched."""
        chosen = sets_of(seen, scores, self.ks, self.kinds)
        return [*chosen, *self._matched(seen, scores[MAIN])]

    def _matched(self, seen: SeenPrompt, scores: Float[Tensor, " active"]) -> Iterator[LatentSet]:
        """Yield random sets as large and as strong as the first K of the main ranking.

        There is none where too few latents are left to match.
        """
        for k in self.ks if "top" in self.kinds else ():
            generator = make_generator(self.seed, f"eval masking matched {k}")
            chosen = top(scores, count(seen, k))
            matched = match(strength(seen), chosen, generator, n_nearest=self.n_nearest)
            if not isinstance(matched, Skipped):
                yield LatentSet(ranking=MATCHED, kind="top", k=k, columns=matched.columns)

    def tops(
        self, seen: SeenPrompt, scores: Mapping[str, Float[Tensor, " active"]]
    ) -> dict[str, Int[Tensor, " main_k"]]:
        """Return the sets whose interplay is measured: of the main ranking and of the truth."""
        n = count(seen, self.main_k)
        return {name: top(scores[name], n) for name in (MAIN, ORACLE) if name in scores}

    def groups(self, tops: Mapping[str, Int[Tensor, " main_k"]]) -> list[list[int]]:
        """Return the groups of latents whose drops give the interplay of `tops`."""
        return [group for columns in tops.values() for group in groups_of(columns, self.n_paired)]

    def interplays(
        self, drop: Float[Tensor, " groups"], tops: Mapping[str, Int[Tensor, " main_k"]]
    ) -> dict[str, Interplay]:
        """Return the interplay of each of `tops`, from the drops that `groups` cause."""
        interplays, start = {}, 0
        for name, columns in tops.items():
            stop = start + len(groups_of(columns, self.n_paired))
            interplays[name] = from_drops(drop[start:stop], len(columns), self.n_paired)
            start = stop
        return interplays
