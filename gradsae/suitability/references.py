"""Features of activations whose truth is unknown: two families of dictionaries that fail apart.

A TopK autoencoder may hold more features than dimensions, but its k and its width decide how many
are active and how many there are. ICA is told neither, but has at most one component for each
dimension, so in superposition its components are mixtures.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.errors import UserError
from gradsae.interfaces import HeldOut, KnownSource, Source
from gradsae.metrics.common import directions, encode
from gradsae.optim import Optim
from gradsae.sae.codes import SparseCodes, from_dense
from gradsae.sae.dictionary import Dictionary
from gradsae.seeds import Seeds, make_generator
from gradsae.stats.ica import fast_ica
from gradsae.suitability.evidence import Evidence, merged
from gradsae.suitability.quantities import MAX_PAIRS
from gradsae.trainers.topk import TopK
from gradsae.training.fit import FitSettings, Training, fit
from gradsae.training.sample import initial_sample

MORE_ROWS = 1 << 19
"""Rows of true codes that are drawn: rho_2 of 512 features with rate .01 to a third of itself."""
SEED_STEP = 1_000_003
"""Between the seeds of further held-out rows: far beyond any seed a person sets."""
LEAST_ENERGY = 0.01
"""Share of a row's squared norm under which a latent's part of it does not count as active: TopK
fills its k places whether or not the row has so many features."""
CORE_SIGMAS = 3.0
"""A component is active this many standard deviations of its core above its median; a Gaussian
core passes it on 1 row in 700."""
LEAST_SIGMAS = 0.1
"""And at least this many of its whole deviation, where the core has no width: less is under 1 % of
its variance."""
MAX_COMPONENTS = 256
"""Leading principal dimensions that are unmixed."""
MAD = 1.4826
"""Standard deviation of a Gaussian over its median absolute deviation."""


def known(source: KnownSource, sample: HeldOut, seed: int) -> Evidence | None:
    """Return the true features with their codes; None if held-out rows come without codes.

    The codes are those of `drawn` and of further rows, up to MORE_ROWS and MAX_PAIRS pairs of
    active features: rare pairs need them, and activations need not be kept for them.
    """
    if sample.truth is None:
        return None
    parts, n_rows = [sample.truth], sample.truth.n_rows
    pairs = int(sample.truth.n_open().square().sum())
    step = seed + SEED_STEP
    while n_rows < MORE_ROWS and pairs < MAX_PAIRS:
        extra = source.held_out(sample.truth.n_rows, step).truth
        if extra is None or extra.n_rows == 0:
            break
        parts.append(extra)
        n_rows += extra.n_rows
        pairs += int(extra.n_open().square().sum())
        step += SEED_STEP
    return Evidence(
        family="true features",
        directions=source.features(),
        codes=_stacked(parts),
        rates=source.rates(),
    )


def topk(
    source: Source,
    x: Float[Tensor, "batch d_in"],
    trainer: TopK,
    settings: FitSettings,
    seeds: Seeds,
    device: torch.device,
) -> Evidence:
    """Train a TopK autoencoder on the source and return its latents' part of each row of `x`."""
    sample = initial_sample(source, settings.init_rows, seeds.data)
    sae = trainer.build(sample, make_generator(seeds.init, "init")).to(device)
    training = Training(trainer, sae)
    stream = source.stream(settings.batch_size, seeds.data, device)
    fit([training], stream, settings, log=lambda *_: None)
    if training.error:
        raise training.error
    caveat = f"circular: k={trainer.k} bounds s, d_sae={trainer.d_sae} bounds n, and what it "
    caveat += "does not find is not counted"
    evidence = replace(latents(sae, x), family="topk", ceiling=trainer.k, caveat=caveat)
    return _some(merged(evidence))


def latents(sae: Dictionary, x: Float[Tensor, "batch d_in"]) -> Evidence:
    """Return an SAE's latents and their part of each row, in normalised units; on the CPU."""
    atoms = directions(sae).cpu()
    codes = _stacked([from_dense(rows.codes.to_dense().cpu()) for rows in encode(sae, x)])
    lengths = codes.values.detach().clamp_min(0) * atoms.norm(dim=1)[codes.latents]
    inside = sae.inside(x.to(sae.device, sae.dtype))
    energy = inside.square().sum(1).cpu()[codes.rows]
    large = torch.where(lengths.square() >= LEAST_ENERGY * energy, lengths, 0.0)
    return Evidence(
        family="latents",
        directions=atoms,
        codes=codes.with_values(large),
        ceiling=sae.most_open,
        n_ceiling=sae.d_sae,
    )


def ica(x: Float[Tensor, "batch d_in"], seed: int) -> Evidence:
    """Return the independent components of `x` and where they stand out of their core."""
    unmixed = fast_ica(x, make_generator(seed, "eval ica"), most=MAX_COMPONENTS)
    sources = ((x.double() - unmixed.centre) @ unmixed.unmixing.mT).float()
    sign = torch.where(sources.pow(3).mean(0) < 0, -1.0, 1.0)  # the long tail is the feature
    sources, directions = sources * sign, unmixed.mixing.float() * sign[:, None]
    core = sources.median(0).values
    spread = MAD * (sources - core).abs().median(0).values
    least = (CORE_SIGMAS * spread).clamp_min(LEAST_SIGMAS)
    lengths = torch.where(sources - core > least, sources - core, 0.0)
    lengths = lengths * directions.norm(dim=1)
    caveat = f"circular: n cannot exceed {sources.shape[1]} dimensions; in superposition "
    caveat += "components are mixtures, and the threshold decides what is active"
    if not unmixed.converged:
        caveat += "; did not converge"
    return _some(
        Evidence(
            family="ica",
            directions=directions,
            codes=from_dense(lengths),
            n_ceiling=sources.shape[1],
            caveat=caveat,
        )
    )


def trainer_of(d_sae: int, k: int, lr: float) -> TopK:
    """Return the trainer of the TopK family: conf/trainer/topk.yaml at this width and k."""
    optim = Optim(lr=lr, warmup=0.02, decay="linear", decay_share=0.2, clip=1.0)
    return TopK(d_sae=d_sae, k=k, optim=optim)


def _some(evidence: Evidence) -> Evidence:
    if evidence.n < 2 or int(evidence.codes.fired().sum()) == 0:
        raise UserError(
            f"the {evidence.family} reference finds {evidence.n} features that are ever active, "
            "and the conditions are about two or more: train longer (fit.steps), widen it "
            "(d_sae), or look at the activations"
        )
    return evidence


def _stacked(parts: list[SparseCodes]) -> SparseCodes:
    """Return the rows of several codes as one."""
    sizes = torch.cat([part.offsets.diff() for part in parts])
    return SparseCodes(
        values=torch.cat([part.values for part in parts]),
        latents=torch.cat([part.latents for part in parts]),
        offsets=torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]),
        d_sae=parts[0].d_sae,
    )
