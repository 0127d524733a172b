"""Peel: sparse coding whose thresholds, sizes and rates come from the data; no sparsity is set."""

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
from gradsae.sae.codes import Codes, SparseCodes
from gradsae.sae.dictionary import Pass
from gradsae.sae.directions import random_directions
from gradsae.sae.normalise import MODES, Mode, fit_normaliser
from gradsae.sae.pursuit import PeelCoder
from gradsae.seeds import make_generator
from gradsae.trainers.common import fvu, l0, squared_error

NEVER = 1e9
"""Threshold of a latent that does not exist yet, far beyond any row."""
NOISE_RATE = 0.1
"""Weight of the newest batch in the running estimate of the noise."""


@final
@dataclass(frozen=True, kw_only=True)
class Peel(Trainer[PeelCoder]):
    """Hard EM of spike-and-slab sparse coding, with a dictionary that grows.

    The model: latent j is active with probability p_j and then has a size near m, the same for all;
    the residual is noise of variance s^2 per dimension. Latents are taken one after another, the
    one furthest above its threshold first, while being active is likelier than not
    (`gradsae.sae.kernels.peel`):

        threshold_j = m / 2 + s^2 / m * log((1 - p_j) / p_j)

    p_j, m and s^2 are running means over the latest rows. A direction moves by the mean
    residual of the rows where its latent is active, a Newton step on the diagonal of the squared
    error. Only b_dec is trained by gradient.

    The method presumes that features have about the same size. With a size for each latent, one
    latent for a parent and its child together explains more at once than one for each, and
    absorption wins.

    Training begins with few latents, which learn the frequent features. Their number doubles, and a
    new one starts as the residual of some row. A dead latent is started again in the same way.

    Ours. Near relatives: binary sparse coding by EM (Henniges et al. 2010), online dictionary
    learning (Mairal et al. 2009, https://arxiv.org/abs/0908.0050).
    """

    d_sae: int
    optim: Optim
    """Of b_dec."""
    most: int | None = None
    """Most open latents of a row, a bound on the cost; None is d_in / 3."""
    first: int = 16
    """Latents at the start."""
    grow_share: float = 0.6
    """Share of all steps after which all latents exist."""
    memory: int = 50_000
    """Rows over which p_j and m are averaged."""
    eager: float = 15.0
    """Step of a direction at the start over its step at the end, which is batch / memory."""
    revive_every: int = 20
    """Steps between searches for dead latents."""
    dead_below: int = 10
    """A latent is dead if it is active on fewer of `memory` rows."""
    revive_share: float = 0.8
    """Share of all steps after which dead latents are no longer started again."""
    normalise: Mode = "unit"

    def __post_init__(self) -> None:
        checks.whole("d_sae", self.d_sae, 1)
        for name in ("first", "memory", "revive_every", "dead_below"):
            checks.whole(name, getattr(self, name), 1)
        if self.most is not None:
            checks.whole(f"most (with d_sae={self.d_sae})", self.most, 1, self.d_sae)
        checks.share("grow_share", self.grow_share)
        checks.share("revive_share", self.revive_share)
        checks.number("eager", self.eager, above=0)
        checks.one_of("normalise", self.normalise, MODES)

    @property
    def name(self) -> str:
        return "peel"

    @property
    def about(self) -> About:
        return About(
            label="peel", family="pursuit", member=0, paper="https://arxiv.org/abs/0908.0050"
        )

    @property
    def tied(self) -> bool:
        return True

    def size(self, progress: Progress) -> int:
        """Return the number of latents that exist at a step."""
        doublings = max(0, (self.d_sae - 1).bit_length() - (self.first - 1).bit_length())
        pace = max(1.0, self.grow_share * progress.n_steps) / max(1, doublings)
        return min(self.d_sae, self.first << min(doublings, int(progress.step / pace)))

    def build(self, sample: Float[Tensor, "batch d_in"], generator: torch.Generator) -> PeelCoder:
        d_in, n_first = sample.shape[1], min(self.first, self.d_sae)
        k = self.most or min(self.d_sae, max(1, d_in // 3))
        sae = PeelCoder(d_in, self.d_sae, k, self.normalise)
        sae.set_normaliser(fit_normaliser(sample, self.normalise))
        x = sae.normaliser.apply(sample).x
        with torch.no_grad():
            sae.W_enc.copy_(random_directions(self.d_sae, d_in, generator))
            sae.b_dec.copy_(x.mean(0))
        for fixed in (sae.W_enc, sae.threshold, sae.size):
            fixed.requires_grad_(False)  # moved by counting, never by gradient
        variance = (x - sae.b_dec).square().mean().detach()
        size = 3 * variance.sqrt()
        rates = torch.where(torch.arange(self.d_sae) < n_first, 1 / (2 * n_first), 0.0)
        sae.register_buffer("state_noise", variance)
        sae.register_buffer("state_rate", rates)
        sae.register_buffer("state_sum", rates * size)
        sae.register_buffer("state_square", rates * size**2)
        set_thresholds(sae)
        return sae

    def loss(self, sae: PeelCoder, out: Pass, progress: Progress) -> Loss:
        unexplained = fvu(out.x_in, squared_error(out.x_in, out.recon_in))
        return Loss(unexplained, {"fvu": unexplained.detach(), "l0": l0(out.codes)})

    def after_step(self, sae: PeelCoder, out: Pass, progress: Progress) -> None:
        residual = out.x_in - out.recon_in
        count(sae, out.codes, residual, min(1.0, out.codes.n_rows / self.memory))
        self._turn(sae, out.codes, residual, progress)
        now, later = self.size(progress), self.size(progress._replace(step=progress.step + 1))
        index = torch.arange(self.d_sae, device=residual.device)
        if later > now:
            self._seed(sae, index[now:later], residual, progress)
        looks_for_dead = (progress.step + 1) % self.revive_every == 0
        if looks_for_dead and progress.step < self.revive_share * progress.n_steps:
            is_dead = sae.get_buffer("state_rate")[:now] < self.dead_below / self.memory
            self._seed(sae, index[:now][is_dead][: len(residual) // 4], residual, progress)
        set_thresholds(sae)

    def _turn(
        self,
        sae: PeelCoder,
        codes: Codes,
        residual: Float[Tensor, "batch d_in"],
        progress: Progress,
    ) -> None:
        """Move every direction towards the residual of the rows where its latent is active."""
        assert isinstance(codes, SparseCodes)
        pull = kernels.scatter_outer(codes, residual) / len(residual)
        pull /= sae.get_buffer("state_square").clamp_min(1e-9)[:, None]
        share_done = progress.step / max(1, progress.n_steps - 1)
        sae.W_enc.add_(
            pull, alpha=min(1.0, len(residual) / self.memory) * self.eager ** (1 - share_done)
        )
        kernels.unit_rows_(sae.W_enc)

    def _seed(
        self,
        sae: PeelCoder,
        latents: Int[Tensor, " n"],
        residual: Float[Tensor, "batch d_in"],
        progress: Progress,
    ) -> None:
        """Start latents as residuals of rows, drawn by their energy, in the usual size."""
        if len(latents) == 0:
            return
        energy = residual.square().sum(1).nan_to_num(0, 0, 0) + 1e-12
        row_generator = make_generator(progress.step, "rows that seed latents")
        rows = energy.cpu().multinomial(
            len(latents), len(latents) > len(residual), generator=row_generator
        )
        sae.W_enc[latents] = normalize(residual[rows.to(residual.device)], dim=1)
        rate = sae.get_buffer("state_rate")
        present = rate[: self.size(progress)]
        usual = present.median(), mean_size(sae)
        for power, name in enumerate(("state_rate", "state_sum", "state_square")):
            sae.get_buffer(name)[latents] = usual[0] * usual[1] ** power


def count(
    sae: PeelCoder, codes: Codes, residual: Float[Tensor, "batch d_in"], weight: float
) -> None:
    """Move the running means of rates, sizes and noise towards those of a batch."""
    assert isinstance(codes, SparseCodes)
    zeros = residual.new_zeros(sae.d_sae)
    means = {
        "state_rate": codes.fired().to(residual),
        "state_sum": zeros.index_add(0, codes.latents, codes.values),
        "state_square": zeros.index_add(0, codes.latents, codes.values.square()),
    }
    for name, total in means.items():
        sae.get_buffer(name).lerp_(total / codes.n_rows, weight)
    sae.get_buffer("state_noise").lerp_(residual.square().mean(), NOISE_RATE)


def mean_size(sae: PeelCoder) -> Float[Tensor, ""]:
    """Return the mean value of an open latent, m."""
    return sae.get_buffer("state_sum").sum() / sae.get_buffer("state_rate").sum().clamp_min(1e-9)


@torch.no_grad()
def set_thresholds(sae: PeelCoder) -> None:
    """Set the thresholds above which each latent is likelier active than not; NEVER at rate 0."""
    rate, size = sae.get_buffer("state_rate").clamp_max(0.5), mean_size(sae)
    odds = torch.log((1 - rate) / rate.clamp_min(1e-9))
    threshold = size / 2 + sae.get_buffer("state_noise") / size.clamp_min(1e-9) * odds
    sae.size.copy_(size)
    sae.threshold.copy_(torch.where(rate > 0, threshold, NEVER))
