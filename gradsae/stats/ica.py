"""Independent component analysis: a dictionary that no sparsity and no width shaped."""

import warnings
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

LEAST_VARIANCE = 1e-6
"""Principal dimensions with a smaller share of the largest variance are rounding."""
MAX_STEPS = 500
STARTS = 3
"""Random starts, of which the one with the least Gaussian sources is kept: from a single one the
iteration may end at a saddle point, where two components are mixtures of the same two sources."""
GAUSSIAN = 0.374567
"""E[log cosh] of a standard normal variable."""


class Components(NamedTuple):
    """x - centre is about (x - centre) @ unmixing.mT @ mixing."""

    centre: Float[Tensor, " d_in"]
    mixing: Float[Tensor, "components d_in"]
    """What one unit of each source adds to a row; not of unit norm."""
    unmixing: Float[Tensor, "components d_in"]
    """Gives sources of variance 1."""
    converged: bool


def fast_ica(
    x: Float[Tensor, "batch d_in"], generator: torch.Generator, *, most: int | None = None
) -> Components:
    """Return at most `most` components of `x`, of its leading principal dimensions, in float64.

    scikit-learn's FastICA, all components together with E[log cosh]. Reference: Hyvarinen 1999,
    https://doi.org/10.1109/72.761722.
    """
    from sklearn.decomposition import FastICA  # takes a second to import
    from sklearn.exceptions import ConvergenceWarning

    x = x.detach().cpu().double()
    variance = torch.linalg.eigvalsh((x - x.mean(0)).mT @ (x - x.mean(0)))
    rank = int((variance > LEAST_VARIANCE * variance[-1]).sum())
    best, contrast, converged = None, -1.0, False
    for seed in torch.randint(2**31, (STARTS,), generator=generator).tolist():
        ica = FastICA(
            n_components=rank if most is None else min(rank, most),
            whiten="unit-variance",
            random_state=seed,
            max_iter=MAX_STEPS,
        )
        with warnings.catch_warnings(record=True) as raised:
            warnings.simplefilter("always", ConvergenceWarning)
            sources = ica.fit_transform(x.numpy())
        distance = float(np.square(_log_cosh(sources).mean(0) - GAUSSIAN).sum())
        if distance > contrast:
            best, contrast = ica, distance
            converged = not any(issubclass(w.category, ConvergenceWarning) for w in raised)
    assert best is not None
    return Components(
        centre=torch.from_numpy(best.mean_),
        mixing=torch.from_numpy(np.asarray(best.mixing_)).mT,
        unmixing=torch.from_numpy(best.components_),
        converged=converged,
    )


def _log_cosh(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(x, -x) - np.log(2)
