"""Nested GBA: GBA's encoder, thresholds by odds instead of target rates, nested losses; no k."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from gradsae import checks
from gradsae.about import About
from gradsae.interfaces import Loss, Progress, Trainer
from gradsae.optim import Optim
from gradsae.sae import kernels
from gradsae.sae.dictionary import Pass
from gradsae.sae.directions import random_directions
from gradsae.sae.kernels.gates.threshold import JumpGate
from gradsae.sae.model import SAE, Architecture, scaled
from gradsae.sae.normalise import MODES, Mode, fit_normaliser
from gradsae.seeds import make_generator
from gradsae.trainers.common import fvu, l0
from gradsae.trainers.nested import (
    check_prefixes,
    decode_groups,
    ends_of,
    follow_rates,
    groups_of,
    rank_by_rate,
    row_errors,
)
from gradsae.trainers.odds import Closed, closed_moments, odds_threshold


@final
@dataclass(frozen=True, kw_only=True)
class NestedGBA(Trainer):
    """JumpReLU whose thresholds weigh the odds that a latent is active; no sparsity is set.

    The encoder is GBA's: y = w.x opens a latent above -b, b is moved by counting and never by
    gradient, and an output scale is learned. GBA moves b until the latent fires at a target rate.
    Here b is set where active is as likely as closed, given the latent's own rate, its usual value
    and the noise in y while it is closed (`odds_threshold`).

    Loss: half the squared error of the whole SAE + inner_weight / 2 * the sum of those of inner
    prefixes. Latents are sorted by rate, so a prefix holds the most frequent ones. A frequent
    latent that leaves rows to a rarer one (absorption) then costs error in its own prefix.

    A dead latent is started again as the residual of some row, as in `Peel`. Ours; relatives are
    GBA (https://arxiv.org/abs/2506.14002) and Matryoshka (https://arxiv.org/abs/2503.17547).
    """

    d_sae: int
    optim: Optim
    start_high: float = 0.05
    """Rate at which the first latent starts; rates between are geometric."""
    start_low: float = 0.002
    """Rate at which the last latent starts."""
    scale_init: float = 0.1
    """Output scale at the start. Small values decouple the latents, as in GBA."""
    margin: float = 0.75
    """Weight of the odds: 0 puts the threshold halfway between closed and active, 1 where both are
    as likely. Lower values find more of a rare latent's rows; much lower ones open latents that
    have no feature yet on far too many rows (a normal y of variance v then settles where its
    threshold is sqrt(v / (1 - margin)))."""
    prefixes: Sequence[float] = (1 / 32, 1 / 8, 1 / 4, 1 / 2, 1.0)
    """Share of all latents in each prefix; the last is 1. (1.0,) alone has no inner loss."""
    inner_weight: float = 0.5
    detach: bool = True
    """Let the error of an inner prefix train only the latents that the prefix before lacks."""
    sort_every: int = 50
    """Steps between sortings of the latents by rate."""
    memory: int = 5_000
    """Rows over which rates and values are averaged."""
    closed_rows: int = 64
    """Rows of a batch on which the noise of closed latents is measured."""
    closed_memory: int = 2_000
    """Rows over which that noise is averaged."""
    pace: float = 0.1
    """Share of the way to its new value that a threshold goes in a step."""
    least_rate: float = 2e-4
    """Rates below count as this one in the odds."""
    revive_every: int = 50
    """Steps between searches for dead latents."""
    dead_below: float = 2e-4
    """Rate under which a latent is dead."""
    revive_share: float = 0.8
    """Share of all steps after which dead latents are no longer started again."""
    normalise: Mode = "unit"

    def __post_init__(self) -> None:
        checks.whole("d_sae", self.d_sae, 1)
        for name in ("sort_every", "memory", "closed_rows", "closed_memory", "revive_every"):
            checks.whole(name, getattr(self, name), 1)
        for name in (
            "start_high",
            "start_low",
            "pace",
            "least_rate",
            "dead_below",
            "revive_share",
        ):
            checks.share(name, getattr(self, name))
        for name in ("margin", "inner_weight"):
            checks.number(name, getattr(self, name), low=0)
        if not 0 < self.start_low <= self.start_high:
            raise ValueError(
                f"need 0 < start_low <= start_high, got {self.start_low}, {self.start_high}"
            )
        checks.number("scale_init", self.scale_init, above=0)
        checks.number("least_rate", self.least_rate, above=0)
        checks.flag("detach", self.detach)
        checks.one_of("normalise", self.normalise, MODES)
        check_prefixes(self.prefixes, self.d_sae)

    @property
    def name(self) -> str:
        return "nested_gba"

    @property
    def about(self) -> About:
        return About(label="nested GBA", family="bias_rule")

    @property
    def tied(self) -> bool:
        return False

    def start_rates(self) -> Float[Tensor, " d_sae"]:
        """Return the rate at which each latent starts, falling from the first to the last."""
        place = torch.arange(self.d_sae) / max(1, self.d_sae - 1)
        return self.start_high * (self.start_low / self.start_high) ** place

    @torch.no_grad()
    def build(self, sample: Float[Tensor, "batch d_in"], generator: torch.Generator) -> SAE:
        d_in, d_sae = sample.shape[1], self.d_sae
        arch = Architecture(d_in=d_in, d_sae=d_sae, scaled=True, normalise=self.normalise)
        sae = SAE(arch, JumpGate())
        sae.set_normaliser(fit_normaliser(sample, self.normalise))
        x, rates = sae.normaliser.apply(sample).x, self.start_rates()
        directions = random_directions(d_sae, d_in, generator)
        assert sae.W_dec is not None and sae.output_scale is not None
        sae.output_scale.fill_(self.scale_init)
        sae.W_enc.copy_(directions)
        sae.W_dec.copy_(directions)
        sae.b_dec.copy_(x.mean(0))
        y = (x - sae.b_dec) @ directions.mT
        falling = y.sort(dim=0, descending=True).values
        rank = (rates * len(x)).round().long().clamp(1, len(x)) - 1
        threshold = falling.gather(0, rank[None])[0]
        sae.b_enc.copy_(-threshold).requires_grad_(False)  # moved by counting, never by gradient
        is_open = y > threshold
        size = (y * is_open).sum(0) / is_open.sum(0).clamp_min(1)
        sae.register_buffer("state_rate", rates)
        sae.register_buffer("state_sum", rates * size)
        sae.register_buffer("state_closed", torch.stack(closed_moments(y, is_open)))
        sae.register_buffer("state_rank", torch.arange(d_sae))
        return sae

    def groups(self, sae: SAE) -> Int[Tensor, " d_sae"]:
        """Return for each latent the first prefix that has it."""
        return groups_of(sae.get_buffer("state_rank"), ends_of(self.prefixes, self.d_sae))

    def loss(self, sae: SAE, out: Pass, progress: Progress) -> Loss:
        codes, W_dec = scaled(out.codes, sae.output_scale), sae.decoder_weights()
        n_groups = len(self.prefixes)
        written = decode_groups(codes, W_dec, self.groups(sae), n_groups, out.precision)
        squared = row_errors(out.x_in, written, sae.b_dec, detach=self.detach).sum(1)
        total = squared[-1] + self.inner_weight * squared[:-1].sum()
        unexplained = fvu(out.x_in, squared.detach())
        parts = {"fvu": unexplained[-1], "fvu_first": unexplained[0], "l0": l0(out.codes)}
        return Loss(0.5 * total / codes.n_rows, parts)

    def after_step(self, sae: SAE, out: Pass, progress: Progress) -> None:
        kernels.unit_rows_(sae.W_enc)
        kernels.unit_rows_(sae.decoder_weights())
        self._count(sae, out)
        n_done = progress.step + 1
        if n_done % self.sort_every == 0:
            sae.get_buffer("state_rank").copy_(rank_by_rate(sae.get_buffer("state_rate")))
        sae.b_enc.lerp_(-self.thresholds(sae), self.pace)
        if n_done % self.revive_every == 0 and n_done <= self.revive_share * progress.n_steps:
            self._revive(sae, out, progress)

    def thresholds(self, sae: SAE) -> Float[Tensor, " d_sae"]:
        """Return where the odds put the threshold of each latent, at least 0."""
        rate, total = sae.get_buffer("state_rate"), sae.get_buffer("state_sum")
        closed = Closed(*sae.get_buffer("state_closed"))
        odds_rate = rate.clamp(self.least_rate, 0.5)
        return odds_threshold(
            odds_rate, total / rate.clamp_min(1e-9), closed, self.margin
        ).clamp_min(0)

    def _count(self, sae: SAE, out: Pass) -> None:
        """Move the running means of rates, values and closed latents towards those of a batch."""
        n_rows = out.codes.n_rows
        weight = min(1.0, n_rows / self.memory)
        follow_rates(sae.get_buffer("state_rate"), out.codes, weight)
        sae.get_buffer("state_sum").lerp_(out.codes.total() / n_rows, weight)
        x = out.x_in[: self.closed_rows]
        y = (x - sae.b_dec) @ sae.W_enc.mT
        moments = torch.stack(closed_moments(y, y + sae.b_enc > 0))
        sae.get_buffer("state_closed").lerp_(moments, min(1.0, len(x) / self.closed_memory))

    def _revive(self, sae: SAE, out: Pass, progress: Progress) -> None:
        """Start dead latents as residuals of rows, drawn by their energy, with the usual counts."""
        rate = sae.get_buffer("state_rate")
        is_dead = rate < self.dead_below
        dead = is_dead.nonzero().squeeze(1)[: len(out.x_in) // 4]
        if len(dead) == 0 or bool(is_dead.all()):
            return
        residual = out.x_in - out.recon_in
        energy = residual.square().sum(1).nan_to_num(0, 0, 0) + 1e-12
        draws = make_generator(progress.step, "rows that seed latents")
        rows = energy.cpu().multinomial(len(dead), generator=draws).to(rate.device)
        direction = normalize(residual[rows], dim=1)
        sae.W_enc[dead] = direction
        sae.decoder_weights()[dead] = direction
        assert sae.output_scale is not None
        total, closed = sae.get_buffer("state_sum"), sae.get_buffer("state_closed")
        live = ~is_dead
        size = total[live].sum() / rate[live].sum()
        sae.output_scale[dead] = sae.output_scale[live].median()
        rate[dead] = rate[live].median()
        total[dead] = rate[dead] * size
        closed[:, dead] = closed[:, live].mean(1, keepdim=True)
        sae.b_enc[dead] = -self.thresholds(sae)[dead]
