"""Bring activations to the scale that a method presumes, and back.

Constants come from training data only and travel with the SAE, so an SAE maps raw activations to
raw activations whatever its method wanted inside.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, final, get_args

import torch
from jaxtyping import Float
from torch import Tensor

Mode = Literal["none", "unit", "sqrt_d", "token"]
MODES: tuple[str, ...] = get_args(Mode)


class Scaled(NamedTuple):
    x: Float[Tensor, "batch d_in"]
    scale: Float[Tensor, "batch 1"]
    """Raw norm of what is one unit inside the SAE."""


@final
@dataclass(frozen=True, kw_only=True)
class Normaliser:
    """x -> (x - mean) / scale.

    Modes: `none` (scale 1), `unit` (one scalar, mean squared norm 1), `sqrt_d` (one scalar, mean
    squared norm d_in; Anthropic, April 2024 update), `token` (each row to norm 1: what the GBA
    paper's bias clamp presumes).
    """

    mode: Mode
    mean: Float[Tensor, " d_in"]
    scale: Float[Tensor, ""]

    def apply(self, x: Float[Tensor, "batch d_in"]) -> Scaled:
        centred = x - self.mean
        if self.mode == "token":
            scale = centred.norm(dim=1, keepdim=True).clamp_min(1e-12)
        else:
            scale = self.scale.expand(len(x), 1)
        return Scaled(centred.div_(scale), scale)

    def undo(
        self, x: Float[Tensor, "batch d_in"], scale: Float[Tensor, "batch 1"]
    ) -> Float[Tensor, "batch d_in"]:
        return x * scale + self.mean


def fit_normaliser(
    sample: Float[Tensor, "batch d_in"], mode: Mode, *, centre: bool = False
) -> Normaliser:
    """Return the normaliser whose constants come from `sample` (training activations)."""
    mean = sample.mean(0) if centre else torch.zeros_like(sample[0])
    mean_square = (sample - mean).square().sum(1).mean()
    target = {"unit": 1.0, "sqrt_d": float(sample.shape[1])}.get(mode)
    scale = torch.ones(()) if target is None else (mean_square / target).sqrt()
    return Normaliser(mode=mode, mean=mean, scale=scale.to(sample))
