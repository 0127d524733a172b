"""Training steps of other libraries, each in its fastest documented setting.

Only their SAE modules are timed: forward and loss as they compute it, backward, and torch's fused
Adam at the same settings as ours. float32, no auxiliary loss, no clipping, no logging.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.speed.case import Absent, Work


def module(name: str, install: str) -> Any:
    """Import a peer; raise Absent, saying how to install it, where it is not there."""
    try:
        return import_module(name)
    except ImportError as error:
        raise Absent(f"{install} ({error})") from None


def _saelens() -> Any:
    return module("sae_lens", "pip install '.[peers]'")


def saelens_topk(x: Tensor, d_sae: int, k: int) -> Work:
    """SAELens with sparse activations, its documented fast setting for float32.

    Its default `rescale_acts_by_decoder_norm` has no backward with them on a CPU and is slower
    without them, so it is off.
    """
    lens = _saelens()
    config = lens.TopKTrainingSAEConfig(
        d_in=x.shape[1],
        d_sae=d_sae,
        k=k,
        use_sparse_activations=True,
        rescale_acts_by_decoder_norm=False,
        normalize_activations="none",
        dtype="float32",
    )
    return _saelens_step(lens.TopKTrainingSAE(config), x, {})


def saelens_threshold(kind: str, x: Tensor, biases: Tensor, d_sae: int) -> Work:
    """SAELens's JumpReLU or standard (l1) SAE, at the biases given."""
    lens = _saelens()
    shared = {"d_in": x.shape[1], "d_sae": d_sae, "dtype": "float32"}
    if kind == "jumprelu":
        config = lens.JumpReLUTrainingSAEConfig(**shared, l0_coefficient=1e-3)
        sae, coefficients = lens.JumpReLUTrainingSAE(config), {"l0": 1e-3}
    else:
        config = lens.StandardTrainingSAEConfig(**shared, l1_coefficient=1e-3)
        sae, coefficients = lens.StandardTrainingSAE(config), {"l1": 1e-3}
    with torch.no_grad():
        sae.b_enc.copy_(biases)
    return _saelens_step(sae, x, coefficients)


def _saelens_step(sae: Any, x: Tensor, coefficients: dict[str, float]) -> Work:
    step_input = module("sae_lens.saes.sae", "pip install '.[peers]'").TrainStepInput(
        sae_in=x,
        coefficients=coefficients,
        dead_neuron_mask=None,
        n_training_steps=0,
        is_logging_step=False,
    )
    return _step(sae, lambda: sae.training_forward_pass(step_input).loss)


def dictionary_learning_topk(x: Tensor, d_sae: int, k: int) -> Work:
    install = "pip install --no-deps dictionary-learning==0.1.0"
    top_k = module("dictionary_learning.trainers.top_k", install)
    sae = top_k.AutoEncoderTopK(x.shape[1], d_sae, k)
    return _step(sae, lambda: (sae(x) - x).square().sum(1).mean())


def _step(sae: nn.Module, loss: Callable[[], Tensor]) -> Work:
    adam = torch.optim.Adam(sae.parameters(), lr=1e-7, fused=True)

    def work() -> None:
        adam.zero_grad(set_to_none=True)
        loss().backward()
        adam.step()

    return work
