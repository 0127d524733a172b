"""In what precision a training step multiplies. Weights, loss and optimiser are fp32 in both."""

from typing import Literal, get_args

import torch
from torch import Tensor

Precision = Literal["fp32", "bf16"]
"""bf16: the factors of the encoder's and decoder's products, and of their gradients, are rounded
to bfloat16; sums are taken in fp32. Pre-activations (with their biases) are rounded too, before any
latent opens. Where codes are dense, so are the products' results, gradients of weights included."""
PRECISIONS: tuple[str, ...] = get_args(Precision)


def factor(tensor: Tensor, precision: Precision) -> Tensor:
    """Return the tensor as a factor of a product."""
    return tensor.to(torch.bfloat16) if precision == "bf16" else tensor
