"""Superposition: sparse non-negative codes times more directions than dimensions."""

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, final, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from gradsae import checks
from gradsae.about import LATER, About, is_shown
from gradsae.interfaces import HeldOut, KnownSource
from gradsae.sae import kernels
from gradsae.sae.codes import SparseCodes, from_rows
from gradsae.seeds import make_generator
from gradsae.sources.common import (
    Directions,
    bernoulli_support,
    check_world,
    exact_support,
    true_directions,
)
from gradsae.sources.streams import DrawnStream

VERSION = 1

Support = Literal["exact", "bernoulli"]
Law = Literal["balanced", "constant", "uniform", "half_normal", "exponential"]


@final
@dataclass(frozen=True, kw_only=True)
class Superposition(KnownSource):
    """x = h V + noise, with h sparse and non-negative.

    References: Elhage et al. 2022, https://arxiv.org/abs/2209.10652, section 2 (Bernoulli support,
    uniform coefficients); Chen et al. 2025, https://arxiv.org/abs/2506.14002, section 5 (exact
    support, balanced coefficients). Differs from both: rates may follow a power law, and x is the
    observed activation itself, without a toy model before it.
    """

    name: ClassVar[str] = "superposition"

    n_features: int
    """True directions. More than `width` of them means superposition."""
    width: int
    """d_in of the activations."""
    l0: int | float
    """Active features of a row: exactly (support=exact) or on average (support=bernoulli)."""
    support: Support = "exact"
    """`exact`: a uniformly random set of l0 features; `bernoulli`: independent features."""
    exponent: int | float = 0.0
    """Rate of feature i is proportional to (i + 1)^-exponent, with mean l0; 0 is uniform."""
    coefficients: Law = "balanced"
    """`balanced`: 1 / sqrt(active features of the row); `constant`: 1; `uniform`: between `low` and
    `high`; `half_normal`: |N(0, 1)|; `exponential`: mean 1."""
    low: int | float = 0.0
    high: int | float = 1.0
    normalise_rows: bool = False
    """Scale the coefficients of each row to norm 1."""
    directions: Directions = "unit"
    """Law of V: see `gradsae.sources.common.true_directions`."""
    noise: int | float = 0.0
    """Standard deviation of Gaussian noise in each dimension, in units of x."""
    seed: int = 0
    """Fixes V. Samples come from the seeds of `stream` and `held_out`."""
    paired: int | float = field(default=0.0, metadata=LATER)
    """Probability that a row is made of whole pairs (features 0 and 1, 2 and 3, ...) in place of
    single features. Rates stay equal, and of the rows where a feature is active its partner is so
    on a share paired + (1 - paired) (l0 - 1) / (n_features - 1), which is the paper's rho_2."""

    def __post_init__(self) -> None:
        check_world(self.n_features, self.width, self.seed)
        checks.one_of("support", self.support, get_args(Support))
        checks.one_of("coefficients", self.coefficients, get_args(Law))
        checks.one_of("directions", self.directions, get_args(Directions))
        checks.number("l0", self.l0, above=0)
        for name in ("exponent", "low", "noise"):
            checks.number(name, getattr(self, name), low=0)
        checks.number("high", self.high, above=self.low)
        checks.flag("normalise_rows", self.normalise_rows)
        checks.share("paired", self.paired)
        if self.paired > 0:
            self._check_paired()
        if self.support == "exact":
            self._check_exact()
        elif (highest := float(self._rates().max())) >= 1:
            raise ValueError(
                f"l0={self.l0} with exponent={self.exponent} gives feature 0 a rate of "
                f"{highest:.3g}; rates must be below 1: lower l0 or exponent, or raise n_features"
            )

    def _check_exact(self) -> None:
        if self.l0 != int(self.l0) or self.l0 > self.n_features:
            raise ValueError(
                f"with support=exact, l0 must be a whole number from 1 to n_features="
                f"{self.n_features}, got {self.l0!r}"
            )
        if self.exponent != 0:
            raise ValueError(
                f"support=exact has equal rates, so exponent must be 0, got {self.exponent!r}; "
                "other rates need support=bernoulli"
            )

    def _check_paired(self) -> None:
        if self.support != "exact":
            raise ValueError(f"paired={self.paired} needs support=exact, got {self.support!r}")
        for name in ("l0", "n_features"):
            if (number := getattr(self, name)) % 2:
                raise ValueError(f"paired={self.paired} needs an even {name}, got {number!r}")

    @property
    def about(self) -> About:
        return About(label="superposition", paper="https://arxiv.org/abs/2209.10652")

    @property
    def d_in(self) -> int:
        return self.width

    def stream(self, batch_size: int, seed: int, device: torch.device) -> DrawnStream:
        return DrawnStream(lambda n, g: self._draw(n, g).x, batch_size, seed, device)

    def held_out(self, n: int, seed: int) -> HeldOut:
        return self._draw(n, make_generator(seed, "eval"))

    def features(self) -> Float[Tensor, "n_features d_in"]:
        return normalize(self._directions(), dim=1)

    def rates(self) -> Float[Tensor, " n_features"]:
        return self._rates().float()

    def identity(self) -> dict[str, Any]:
        shown = {f.name: getattr(self, f.name) for f in fields(self) if is_shown(f, self)}
        return {"name": self.name, "version": VERSION, **shown}

    def provenance(self) -> dict[str, Any]:
        return {"kind": "synthetic"}

    def _rates(self) -> Float[Tensor, " n_features"]:
        ranks = torch.arange(1, self.n_features + 1, dtype=torch.float64)
        weights = ranks**-self.exponent
        return self.l0 * weights / weights.sum()

    def _directions(self) -> Float[Tensor, "n_features d_in"]:
        return true_directions(self.n_features, self.width, self.directions, self.seed)

    @torch.no_grad()
    def _draw(self, n: int, generator: torch.Generator) -> HeldOut:
        codes = self._codes(n, generator)
        x = kernels.decode(codes, self._directions())
        if self.noise > 0:
            x = x + self.noise * torch.randn(x.shape, generator=generator)
        if self.directions != "gaussian":
            return HeldOut(x, codes)
        # The features have norm 1, so the length of a direction counts with its coefficient.
        lengths = self._directions().norm(dim=1)
        return HeldOut(x, codes.with_values(codes.values * lengths[codes.latents]))

    def _codes(self, n: int, generator: torch.Generator) -> SparseCodes:
        if self.support == "exact":
            latents = self._exact_support(n, generator)
            codes = from_rows(torch.ones(latents.shape), latents, self.n_features)
        else:
            latents, offsets = bernoulli_support(n, self._rates(), generator)
            codes = SparseCodes(
                values=torch.ones(len(latents)),
                latents=latents,
                offsets=offsets,
                d_sae=self.n_features,
            )
        values = self._coefficients(codes, generator)
        return codes.with_values(_unit_rows(codes, values) if self.normalise_rows else values)

    def _exact_support(self, n: int, generator: torch.Generator) -> Int[Tensor, "n l0"]:
        """Return the l0 active features of each row, in no order."""
        size = int(self.l0)
        single = exact_support(n, self.n_features, size, generator)
        if self.paired == 0:
            return single
        first = 2 * exact_support(n, self.n_features // 2, size // 2, generator)
        is_paired = torch.rand(n, 1, generator=generator) < self.paired
        return torch.where(is_paired, torch.cat([first, first + 1], dim=1), single)

    def _coefficients(
        self, codes: SparseCodes, generator: torch.Generator
    ) -> Float[Tensor, " nnz"]:
        """Draw one coefficient for each stored entry of `codes`, whose values are ones."""
        ones = codes.values
        match self.coefficients:
            case "balanced":
                return codes.n_open().rsqrt()[codes.rows]
            case "constant":
                return ones
            case "uniform":
                # From the top, so that low=0 never gives an active feature a 0.
                u = torch.rand(ones.shape, generator=generator)
                return self.high - (self.high - self.low) * u
            case "half_normal":
                return torch.randn(ones.shape, generator=generator).abs()
            case "exponential":
                return torch.empty_like(ones).exponential_(generator=generator)


def _unit_rows(codes: SparseCodes, values: Float[Tensor, " nnz"]) -> Float[Tensor, " nnz"]:
    squares = values.new_zeros(codes.n_rows).index_add(0, codes.rows, values.square())
    return values / squares.sqrt()[codes.rows]
