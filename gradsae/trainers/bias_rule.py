"""GBA's rule: biases move towards target firing rates, group by group.

Several architectures can use it, so the effects of rule and architecture can be separated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae import checks
from gradsae.interfaces import KnownSource, Progress
from gradsae.sae.codes import Codes
from gradsae.sae.model import SAE

TARGETS = {"v1": (0.1, 0.001), "iclr": (0.5, 0.001)}
"""Highest and lowest target rate of each version of the paper."""
FROM_SOURCE = "from_source"
STATE = ("state_rows", "state_fired", "state_peak")

Rates = Sequence[float] | str | None


@final
@dataclass(frozen=True, kw_only=True)
class BiasRule:
    """Every `bias_every` steps, a latent that fired above its target rate gets a lower bias, a
    silent one a higher bias; one between stays.

    Reference: Chen et al. 2025, https://arxiv.org/abs/2506.14002, Algorithm 1. A latent fires where
    y = u + bias is above 0; whoever holds the rule says what u and the bias are.
    """

    variant: Literal["v1", "iclr"] = "v1"
    """Version of the paper whose target rates are used where `htf`, `ltf` are None."""
    groups: int = 10
    """The paper's K, in both versions."""
    htf: float | None = None
    """Target rate of the first group, the highest; with groups=1 the only one."""
    ltf: float | None = None
    """Target rate of the last group, the lowest. Rates between are geometric."""
    rates: Rates = None
    """Targets spread over the latents from the highest to the lowest, instead of htf and ltf.
    `from_source`: the true rates, an oracle that only a source with known features allows."""
    rates_factor: float = 1.0
    """Target over rate, where `rates` is set: the theorem wants targets above the rates."""
    bias_init: Literal["zero", "quantile"] = "zero"
    """quantile: each latent starts at its target rate on the sample (our extension)."""
    bias_every: int = 50
    """Training steps between bias steps (the paper)."""
    gamma_up: float = 0.01
    """Share of a group's mean peak by which the bias of a silent latent rises (the paper)."""
    gamma_down: float = 0.01
    """Share of its own peak by which the bias of a latent falls (the paper)."""
    dead_below: float = 1e-6
    """Firing rate under which a latent counts as silent (a public re-implementation)."""
    bias_low: float = -1.0
    """The paper clamps biases to [-1, 0]."""
    bias_high: float = 0.0
    freeze_share: float = 0.0
    """Share of all steps, at the end, in which biases stay (our extension)."""

    def __post_init__(self) -> None:
        checks.whole("groups", self.groups, 1)
        checks.whole("bias_every", self.bias_every, 1)
        checks.one_of("variant", self.variant, tuple(TARGETS))
        checks.one_of("bias_init", self.bias_init, ("zero", "quantile"))
        checks.share("freeze_share", self.freeze_share)
        for name in ("gamma_up", "gamma_down", "dead_below", "rates_factor"):
            checks.number(name, getattr(self, name), above=0)
        self._check_rates()
        if not self.bias_low < self.bias_high <= 0:
            raise ValueError(
                f"need bias_low < bias_high <= 0, got {self.bias_low}, {self.bias_high}"
            )

    def _check_rates(self) -> None:
        for name in ("htf", "ltf"):
            if getattr(self, name) is not None:
                checks.number(name, getattr(self, name), above=0)
        high, low = self.rates_range()
        if not 0 < low <= high <= 1:
            raise ValueError(f"need 0 < ltf <= htf <= 1, got ltf={low}, htf={high}")
        if isinstance(self.rates, str) and self.rates != FROM_SOURCE:
            raise ValueError(f"rates must be numbers or {FROM_SOURCE}, got {self.rates!r}")
        if self.rates is None:
            return
        if self.htf is not None or self.ltf is not None:
            raise ValueError("rates and htf, ltf exclude each other: set htf=null ltf=null")
        if isinstance(self.rates, str):
            return
        bad = [rate for rate in self.rates if not 0 < rate <= 1]
        if bad or not self.rates:
            offending = bad[0] if bad else "none"
            raise ValueError(f"each of rates must be above 0 and at most 1, got {offending}")

    @property
    def is_oracle(self) -> bool:
        return self.rates == FROM_SOURCE

    def rates_range(self) -> tuple[float, float]:
        """Return the highest and the lowest target rate of the geometric rule."""
        high, low = TARGETS[self.variant]
        high = high if self.htf is None else self.htf
        low = low if self.ltf is None else self.ltf
        return high, min(low, high) if self.ltf is None else low

    def group(self, d_sae: int) -> Int[Tensor, " d_sae"]:
        """Return the group of each latent; groups are equal in size up to one."""
        return torch.arange(d_sae) * self.groups // d_sae

    def targets(self, d_sae: int, truth: KnownSource | None = None) -> Float[Tensor, " d_sae"]:
        """Return the target rate of each latent: p_k = htf (ltf / htf)^((k - 1) / (K - 1)) in
        group k, or the given rates in falling order, each for as many latents."""
        if self.rates is None:
            high, low = self.rates_range()
            return high * (low / high) ** (self.group(d_sae) / max(1, self.groups - 1))
        rates = self._given_rates(truth).sort(descending=True).values
        place = (torch.arange(d_sae) * len(rates) + len(rates) // 2) // d_sae
        return (self.rates_factor * rates[place]).clamp_max(1.0)

    def _given_rates(self, truth: KnownSource | None) -> Float[Tensor, " rates"]:
        if not isinstance(self.rates, str):
            assert self.rates is not None
            return torch.tensor([float(rate) for rate in self.rates])
        if truth is None:
            raise ValueError(f"rates={FROM_SOURCE} needs a source whose features are known")
        return truth.rates()

    def prepare(self, sae: SAE, targets: Float[Tensor, " d_sae"]) -> None:
        """Give the SAE the counters of the rule, and its targets where they are given rates."""
        d_sae = sae.d_sae
        sae.register_buffer("state_rows", torch.zeros((), dtype=torch.int64))
        sae.register_buffer("state_fired", torch.zeros(d_sae, dtype=torch.int64))
        sae.register_buffer("state_peak", torch.zeros(d_sae))
        if self.rates is not None:
            sae.register_buffer("state_targets", targets)

    def start(
        self,
        x: Float[Tensor, "batch d_in"],
        W_enc: Float[Tensor, "d_sae d_in"],
        targets: Float[Tensor, " d_sae"],
    ) -> Float[Tensor, " d_sae"]:
        """Return the first biases: 0, or those at which each latent fires at its target on `x`."""
        if self.bias_init == "zero":
            return torch.zeros_like(targets)
        biases = []
        for rows, rates in zip(W_enc.split(1024), targets.split(1024), strict=True):
            u = (x @ rows.mT).sort(dim=0, descending=True).values
            rank = (rates * len(x)).round().long().clamp(1, len(x)) - 1
            biases.append(-u.gather(0, rank[None])[0])
        return torch.cat(biases).clamp(self.bias_low, self.bias_high)

    def step(
        self,
        sae: SAE,
        codes: Codes,
        peak: Float[Tensor, " d_sae"],
        bias: Float[Tensor, " d_sae"],
        progress: Progress,
    ) -> Float[Tensor, " d_sae"] | None:
        """Count a batch; return the moved biases where a bias step is due, else None.

        `peak` is the largest y of each latent in the batch, at least 0.
        """
        self.count(sae, codes, peak)
        if (progress.step + 1) % self.bias_every:
            return None
        frozen = progress.step >= progress.n_steps * (1 - self.freeze_share)
        moved = None if frozen else self.moved(sae, bias)
        for name in STATE:
            sae.get_buffer(name).zero_()
        return moved

    def count(self, sae: SAE, codes: Codes, peak: Float[Tensor, " d_sae"]) -> None:
        """Keep the counts and maxima that the bias step needs: O(d_sae), no buffer of samples."""
        sae.get_buffer("state_rows").add_(codes.n_rows)
        sae.get_buffer("state_fired").add_(codes.fired())
        state = sae.get_buffer("state_peak")
        torch.maximum(state, peak.to(state), out=state)

    def moved(self, sae: SAE, bias: Float[Tensor, " d_sae"]) -> Float[Tensor, " d_sae"]:
        """Return the biases after one bias step (Algorithm 1, lines 11 to 19)."""
        d_sae = sae.d_sae
        targets = self.targets(d_sae) if self.rates is None else sae.get_buffer("state_targets")
        group, targets = self.group(d_sae).to(bias.device), targets.to(bias)
        peak = sae.get_buffer("state_peak")
        rate = sae.get_buffer("state_fired") / sae.get_buffer("state_rows")
        lowered = (bias - self.gamma_down * peak).clamp_min(self.bias_low)
        raised = (bias + self.gamma_up * self._group_peak(peak, group)).clamp_max(self.bias_high)
        moved = torch.where(rate > targets, lowered, bias)
        return torch.where(rate < self.dead_below, raised, moved)

    def _group_peak(
        self, peak: Float[Tensor, " d_sae"], group: Int[Tensor, " d_sae"]
    ) -> Float[Tensor, " d_sae"]:
        """Return for each latent T_k, the mean peak of its group's latents that fired."""
        total = peak.new_zeros(self.groups).index_add(0, group, peak)
        count = peak.new_zeros(self.groups).index_add(0, group, (peak > 0).to(peak))
        return (total / count.clamp_min(1))[group]
