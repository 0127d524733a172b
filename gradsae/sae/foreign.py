"""SAEs of other libraries that are in memory already: sae-lens, dictionary_learning, your own."""

from collections.abc import Callable
from typing import Any, cast, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradsae.errors import UserError
from gradsae.sae.codes import Codes, DenseCodes
from gradsae.sae.dictionary import Dictionary
from gradsae.seeds import make_generator

TOLERANCE = 1e-3
"""Largest error of codes @ decoder + constant, as a share of the norm of what is decoded."""
N_PROBES = 4
"""Rows on which it is tried out."""


@final
class Foreign(Dictionary):
    """A module with `encode` and `decode`, under the surface that tasks use."""

    def __init__(
        self, module: nn.Module, directions: Callable[[], Float[Tensor, "d_sae d_in"]]
    ) -> None:
        d_sae, d_in = directions().shape
        super().__init__(d_in, d_sae)
        self.module = module
        self._directions = directions

    def encode(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_sae"]:
        return _call(self.module, "encode")(x)

    def decoder(self) -> Float[Tensor, "d_sae d_in"]:
        return self._directions()

    def decode(self, codes: Codes) -> Float[Tensor, "batch d_in"]:
        return _call(self.module, "decode")(codes.to_dense())


def adopt(
    module: nn.Module, decoder: Callable[[], Float[Tensor, "d_sae d_in"]] | None = None
) -> Dictionary:
    """Return an SAE in memory as one that every task measures.

    It needs `encode(x)` (codes [batch, d_sae], none negative) and `decode(codes)`; `decoder`
    returns the direction of each latent, where it is neither `W_dec` [d_sae, d_in] nor
    `decoder.weight` [d_in, d_sae]. An SAE in a format that is known here is better loaded from its
    files, since it then has the fast kernels.

    Raises UserError, saying what is missing, for a module that is no SAE, or whose reconstruction
    is not its codes times its directions plus a constant.
    """
    if isinstance(module, Dictionary):
        return module
    for name in ("encode", "decode"):
        _call(module, name)
    adopted = Foreign(module, decoder or _directions_of(module))
    _check(adopted)
    return adopted


def _call(module: nn.Module, name: str) -> Callable[[Tensor], Tensor]:
    method = getattr(module, name, None)
    if not callable(method):
        raise UserError(
            f"{type(module).__name__} has no method {name}; an SAE in memory needs encode(x) and "
            "decode(codes)"
        )
    return cast("Callable[[Tensor], Tensor]", method)


def _directions_of(module: nn.Module) -> Callable[[], Tensor]:
    W_dec = getattr(module, "W_dec", None)
    if isinstance(W_dec, Tensor) and W_dec.dim() == 2:
        return lambda: _tensor(module.W_dec)
    inner: Any = getattr(module, "decoder", None)
    if isinstance(getattr(inner, "weight", None), Tensor) and inner.weight.dim() == 2:
        return lambda: _tensor(inner.weight).mT
    raise UserError(
        f"{type(module).__name__} has neither W_dec [d_sae, d_in] nor decoder.weight "
        "[d_in, d_sae]; pass decoder=, which returns the direction of each latent"
    )


def _tensor(value: Any) -> Tensor:
    return value


@torch.no_grad()
def _check(sae: Foreign) -> None:
    """Raise UserError unless codes fit and decode(codes) is codes @ decoder plus a constant."""
    generator = make_generator(0, "probes of an adopted SAE")
    name = type(sae.module).__name__
    x = torch.randn(N_PROBES, sae.d_in, generator=generator).to(sae.device, sae.dtype)
    codes = sae.codes(x).values
    if tuple(codes.shape) != (N_PROBES, sae.d_sae):
        raise UserError(
            f"{name}.encode returned shape {tuple(codes.shape)} for {N_PROBES} rows; with "
            f"directions of shape {tuple(sae.decoder().shape)} it must be {(N_PROBES, sae.d_sae)}"
        )
    probes = torch.rand(N_PROBES, sae.d_sae, generator=generator).to(x)
    nothing = sae.decode(DenseCodes(values=torch.zeros_like(probes)))
    linear = probes @ sae.decoder()
    error = (sae.decode(DenseCodes(values=probes)) - nothing - linear).norm() / linear.norm()
    if not error <= TOLERANCE:
        raise UserError(
            f"{name}.decode is not its codes times its directions plus a constant (error "
            f"{float(error):.2g} of the norm); tasks edit codes through these directions, so they "
            "would measure another SAE. Pass decoder= with the directions that decode writes"
        )
