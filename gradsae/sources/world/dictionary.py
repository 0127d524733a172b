"""True directions: random unit vectors, spread out by gradient steps; kept on disk if they cost."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from gradsae.records.record import content_id
from gradsae.seeds import make_generator
from gradsae.storage.cache import cache_root, cached_folder
from gradsae.storage.tensors import read_tensors

VERSION = 1

KEEP_FROM = 10**11
"""Multiply-adds from which a dictionary is worth a file: about 2 s on two cores."""


def spread_out(
    directions: Float[Tensor, "n_features d_in"], steps: int, lr: float
) -> Float[Tensor, "n_features d_in"]:
    """Return unit vectors after `steps` of Adam that lower the squared cosines of all pairs.

    The loss is sum over pairs i != j of (v_i v_j)^2 + n sum over i of (|v_i|^2 - 1)^2, as in
    sae-lens (`orthogonalize_embeddings`). Its gradient needs V^T V [d_in, d_in] only, and not the
    products of all pairs: n d_in^2 instead of n^2 d_in multiply-adds a step.
    """
    v = normalize(directions, dim=1).clone()
    if steps == 0:
        return v
    n, d_in = v.shape
    optimizer = torch.optim.Adam([v], lr=lr, fused=True)
    quiet = None if n * d_in**2 * steps > KEEP_FROM else True
    for _ in tqdm(range(steps), desc="spreading out directions", disable=quiet):
        squares = v.square().sum(1, keepdim=True)
        v.grad = v * (4 * n * (squares - 1) - 4 * squares)
        v.grad.addmm_(v, v.mT @ v, alpha=4)
        optimizer.step()
    return normalize(v, dim=1)


@lru_cache(maxsize=4)
def dictionary(
    n_features: int, width: int, steps: int, lr: float, seed: int
) -> Float[Tensor, "n_features d_in"]:
    """Return the unit directions that a seed fixes; callers must not write to them."""

    def made() -> Float[Tensor, "n_features d_in"]:
        directions = torch.randn(
            n_features, width, generator=make_generator(seed, "world/directions")
        )
        with torch.no_grad():
            return spread_out(directions, steps, lr)

    if n_features * width**2 * steps < KEEP_FROM:
        return made()
    recipe: dict[str, Any] = {
        **{"n_features": n_features, "width": width, "steps": steps, "lr": lr},
        **{"seed": seed, "version": VERSION},
    }

    def build(folder: Path) -> dict[str, Any]:
        save_file({"directions": made()}, folder / "directions.safetensors")
        return recipe

    folder = cache_root() / "dictionaries" / content_id(recipe)
    cached_folder(folder, build, verify=True)
    return read_tensors(folder / "directions.safetensors")["directions"]
