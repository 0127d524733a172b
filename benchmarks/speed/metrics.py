"""Speed of the metrics that compare two dictionaries, at the sizes of today's SAEs."""

from collections.abc import Callable
from functools import partial

from benchmarks.speed.case import Case, Work

WHOLE = 2**40
"""More pairs than any shape here: `one_to_one` then holds the table of all cosines."""


def cases() -> list[Case]:
    nearest = [
        Case(
            name="nearest",
            shape=shape,
            unit="largest cosines of true features and latents, both ways, 256 dims",
            ours=partial(_nearest, n_features, n_latents, 4096),
            contenders={"unchunked": partial(_nearest, n_features, n_latents, WHOLE)},
            bars={},
        )
        for shape, n_features, n_latents in (
            ("4096 features, 16384 latents", 4096, 16_384),
            ("16384 features, 65536 latents", 16_384, 65_536),
        )
    ]
    matching = [
        Case(
            name="matching",
            shape=f"{n_features} features, {n_latents} {kind} latents",
            unit="best one-to-one matching of true features and latents, 256 dims",
            ours=partial(_matching, n_features, n_latents, kind, 1),
            contenders={"scipy": partial(_matching, n_features, n_latents, kind, WHOLE)},
            bars={},
            pairs=5,
        )
        for n_features, n_latents in ((4096, 4096), (4096, 16_384), (8192, 8192))
        for kind in ("trained", "random")
    ]
    return nearest + matching


def dictionaries(n_features: int, n_latents: int, kind: str):
    """Return true features, and latents drawn at random or like those of a trained SAE.

    A trained-like latent is a feature with noise between nothing and 1.5 times its norm; some
    features have several such latents, and some none.
    """
    import torch
    from torch.nn.functional import normalize

    generator = torch.Generator().manual_seed(0)
    features = normalize(torch.randn(n_features, 256, generator=generator), dim=1)
    latents = normalize(torch.randn(n_latents, 256, generator=generator), dim=1)
    if kind == "trained":
        copied = torch.randint(n_features, (n_latents,), generator=generator)
        noise = 1.5 * torch.rand(n_latents, 1, generator=generator)
        latents = features[copied] + noise * latents
    return features, latents


def _nearest(n_features: int, n_latents: int, block: int) -> Work:
    from gradsae.metrics.matching import max_cosines

    features, latents = dictionaries(n_features, n_latents, "trained")
    return partial(max_cosines, features, latents, block=block)


def _matching(n_features: int, n_latents: int, kind: str, max_pairs: int) -> Work:
    from gradsae.metrics.matching import one_to_one

    features, latents = dictionaries(n_features, n_latents, kind)
    work: Callable[[], object] = partial(one_to_one, features, latents, max_pairs=max_pairs)
    return work
