"""A world ready to draw from; what the sources over a world share."""

from functools import cached_property
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.interfaces import HeldOut
from gradsae.sae import kernels
from gradsae.sae.codes import SparseCodes
from gradsae.seeds import make_generator
from gradsae.sources.streams import DrawnStream
from gradsae.sources.world.draw import Plan
from gradsae.sources.world.marginals import true_rates
from gradsae.sources.world.parts import World

CPU = torch.device("cpu")


@final
class Sampler:
    def __init__(self, world: World) -> None:
        self.world = world
        self._plan = Plan(world)
        self._moved: dict[torch.device, tuple[Tensor, Tensor]] = {}

    @cached_property
    def rates(self) -> Float[Tensor, " n_features"]:
        return true_rates(self.world).float()

    def stream(self, batch_size: int, seed: int, device: torch.device) -> DrawnStream:
        """Return batches; the codes are drawn on the CPU and summed up on `device`."""

        def draw(n: int, generator: torch.Generator) -> Float[Tensor, "n d_in"]:
            return self.draw(n, generator, device).x

        return DrawnStream(draw, batch_size, seed, device, ahead=device == CPU)

    def held_out(self, n: int, seed: int) -> HeldOut:
        return self.draw(n, make_generator(seed, "eval"), CPU)

    @torch.no_grad()
    def draw(self, n: int, generator: torch.Generator, device: torch.device) -> HeldOut:
        """Return rows x = bias + codes @ directions and their codes, both on `device`."""
        codes = self._plan.draw(n, generator)
        if device != CPU:
            codes = SparseCodes(
                values=codes.values.to(device, non_blocking=True),
                latents=codes.latents.to(device, non_blocking=True),
                offsets=codes.offsets.to(device, non_blocking=True),
                d_sae=codes.d_sae,
            )
        if device not in self._moved:
            self._moved[device] = (self.world.directions.to(device), self.world.bias.to(device))
        directions, bias = self._moved[device]
        return HeldOut(kernels.decode(codes, directions).add_(bias), codes)
