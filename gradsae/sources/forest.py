"""A realistic world: Zipf rates, trees of exclusive features, correlation, superposition, bias."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from gradsae import checks
from gradsae.about import About
from gradsae.interfaces import HeldOut, KnownSource
from gradsae.seeds import make_generator
from gradsae.sources.common import check_world
from gradsae.sources.streams import DrawnStream
from gradsae.sources.world import laws
from gradsae.sources.world.dictionary import dictionary
from gradsae.sources.world.parts import World
from gradsae.sources.world.sampler import Sampler

VERSION = 1


@final
@dataclass(frozen=True, kw_only=True)
class Forest(KnownSource):
    """x = bias + h V, where features form trees: a child fires only where its parent fires.

    Reference: SynthSAEBench (https://decoderesearch.github.io/SAELens, `docs/synth_sae_bench.md`)
    and the generator of sae-lens 6.54, whose law this is. `gradsae.sources.world.parts.World`
    states it. Differs in how it is drawn (only what fires) and in the random numbers, so a seed
    gives another world there; `gradsae.sources.saved_world` reads and writes theirs.
    """

    name: ClassVar[str] = "forest"

    n_features: int
    """True directions."""
    width: int
    """d_in of the activations."""
    n_roots: int
    """Trees; 0 for independent features. Features beyond the trees stand alone."""
    branching: int = 4
    """Children of a feature that is not at the bottom of its tree."""
    depth: int = 3
    """Levels below the roots."""
    exclusive: int | float = 1.0
    """Share of the parents whose children never fire together."""
    compensate: bool = True
    """Raise a child's chances to make up for its parent's and its rivals'."""
    scale_children: bool = True
    """Multiply a child's magnitude by its parent's over the parent's mean."""
    rate_exponent: int | float = 0.5
    """Rates fall with the feature's number as (i + 1)^-exponent ..."""
    highest_rate: int | float = 0.4
    """... from here (feature 0) ..."""
    lowest_rate: int | float = 5e-4
    """... to here (the last feature), before trees take their part: see `rates`."""
    correlation_rank: int = 25
    """Dimensions of the factor that all features of a row share; 0 for none."""
    correlation_scale: int | float = 0.1
    """Standard deviation of a feature's weights on the shared factor."""
    orthogonal_steps: int = 100
    """Adam steps that spread the directions out."""
    orthogonal_lr: int | float = 3e-4
    first_mean: int | float = 5.0
    """Mean magnitude of feature 0 ..."""
    last_mean: int | float = 4.0
    """... falling linearly to that of the last. Before trees scale it, and before draws below 0
    are taken as not firing."""
    spread_mean: int | float = 0.5
    """Each feature's standard deviation of magnitudes is |N(spread_mean, spread_std^2)|."""
    spread_std: int | float = 0.5
    bias: int | float = 0.5
    """Norm of the bias that is added to every row."""
    seed: int = 0
    """Fixes the world. Samples come from the seeds of `stream` and `held_out`."""

    def __post_init__(self) -> None:
        check_world(self.n_features, self.width, self.seed)
        self._check_trees()
        self._check_rates()
        checks.whole("correlation_rank", self.correlation_rank, 0)
        checks.whole("orthogonal_steps", self.orthogonal_steps, 0)
        for name in ("orthogonal_lr", "first_mean", "last_mean"):
            checks.number(name, getattr(self, name), above=0)
        for name in ("correlation_scale", "spread_mean", "spread_std", "bias"):
            checks.number(name, getattr(self, name), low=0)

    def _check_trees(self) -> None:
        checks.whole("n_roots", self.n_roots, 0)
        checks.whole("branching", self.branching, 2)
        checks.whole("depth", self.depth, 1)
        checks.share("exclusive", self.exclusive)
        checks.flag("compensate", self.compensate)
        checks.flag("scale_children", self.scale_children)
        if self.n_roots > self.n_features:
            raise ValueError(
                f"n_roots={self.n_roots} is more than the n_features={self.n_features} there are"
            )
        needed = laws.forest_size(self.n_roots, self.branching, self.depth)
        if needed > self.n_features:
            raise ValueError(
                f"{self.n_roots} trees with branching={self.branching} and depth={self.depth} need "
                f"{needed} features, but n_features={self.n_features}: lower one of the three"
            )

    def _check_rates(self) -> None:
        checks.number("rate_exponent", self.rate_exponent, above=0)
        checks.number("lowest_rate", self.lowest_rate, above=0)
        checks.share("highest_rate", self.highest_rate)
        if self.highest_rate <= self.lowest_rate:
            raise ValueError(
                f"rates run from highest_rate={self.highest_rate} down to lowest_rate="
                f"{self.lowest_rate}: that band is empty, highest_rate must be the larger"
            )

    @property
    def about(self) -> About:
        return About(
            label="forest (SynthSAEBench)", paper="https://decoderesearch.github.io/SAELens"
        )

    @property
    def d_in(self) -> int:
        return self.width

    def stream(self, batch_size: int, seed: int, device: torch.device) -> DrawnStream:
        return sampler(self).stream(batch_size, seed, device)

    def held_out(self, n: int, seed: int) -> HeldOut:
        return sampler(self).held_out(n, seed)

    def features(self) -> Float[Tensor, "n_features d_in"]:
        return self.world().directions

    def rates(self) -> Float[Tensor, " n_features"]:
        """Exact for features without a parent; see `gradsae.sources.world.marginals` for others."""
        return sampler(self).rates

    def edges(self) -> Int[Tensor, "n_edges 2"]:
        return self.world().trees.edges()

    def offset(self) -> Float[Tensor, " d_in"]:
        return self.world().bias

    def identity(self) -> dict[str, Any]:
        return {"name": self.name, "version": VERSION, **vars(self)}

    def provenance(self) -> dict[str, Any]:
        return {"kind": "synthetic"}

    def world(self) -> World:
        """Return the tensors of this world; callers must not write to them."""
        return sampler(self).world


@lru_cache(maxsize=2)
def sampler(source: Forest) -> Sampler:
    """Return the drawn-up world of a source, made once a process."""
    n, seed = source.n_features, source.seed
    tree_shape = (source.n_roots, source.branching, source.depth)
    generator = make_generator(seed, "world/exclusive")
    trees = laws.grown_trees(n, *tree_shape, source.exclusive, source.scale_children, generator)
    rates = laws.zipf(n, source.rate_exponent, source.highest_rate, source.lowest_rate)
    spreads = laws.folded_normal(n, source.spread_mean, source.spread_std, spread_generator(source))
    bias = torch.randn(source.width, generator=make_generator(seed, "world/bias"))
    directions = dictionary(n, source.width, source.orthogonal_steps, source.orthogonal_lr, seed)
    factor = laws.correlation_factor(
        n,
        source.correlation_rank,
        source.correlation_scale,
        make_generator(seed, "world/correlation"),
    )
    return Sampler(
        World(
            directions=directions,
            bias=source.bias * normalize(bias, dim=0),
            probabilities=laws.compensated(rates, trees) if source.compensate else rates,
            factor=factor,
            means=torch.linspace(source.first_mean, source.last_mean, n),
            spreads=spreads,
            trees=trees,
        )
    )


def spread_generator(source: Forest) -> torch.Generator:
    """Return the generator of the spreads of magnitudes, which sae-lens does not store."""
    return make_generator(source.seed, "world/spreads")
