"""Train an SAE in a notebook: the command's methods and sources, in memory."""

import time
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from gradsae import checks
from gradsae.api import presets
from gradsae.api.saes import PlacedSAE
from gradsae.errors import UserError
from gradsae.interfaces import Method, ModelSource, Source, Trainer
from gradsae.seeds import make_generator
from gradsae.sources.activations import Activations
from gradsae.storage.cache import cache_root
from gradsae.training.fit import FitSettings, Training, fit
from gradsae.training.sample import initial_sample

SHARED = ("d_sae", "k", "lr")
"""Settings that several parts of a recipe take from one word."""


def train(
    method: str | Method[Any],
    source: str | Source | Tensor,
    *,
    steps: int = 2000,
    batch_size: int = 512,
    seed: int = 0,
    device: str = "auto",
    init_rows: int = 8192,
    **settings: Any,
) -> PlacedSAE:
    """Train a sparse autoencoder, as `python -m benchmarks.run` would, and return it.

    Nothing is written to disk, except the activations of a language model (in the user's cache)
    where the source is one of its layers.

    Args:
        method: Name of a recipe ("topk", "batchtopk", "jumprelu", "gated", "l1", "gba", ...), or
            a method object, whose fields are then its settings.
        source: Name of a source ("superposition", "two_sparsity", "lm_layer", ...), a source
            object, or activations as a matrix of shape [n, d_in].
        steps: Optimiser steps.
        batch_size: Activations in a batch.
        seed: Fixes the world of a named source, the order of the data and the initial weights.
        device: "auto" (CUDA where there is one), "cpu" or "cuda".
        init_rows: Activations that set normalisation, centre and initial biases.
        settings: Of a named method: `d_sae` (latents; needed), `k` (active latents per row), `lr`
            (peak learning rate), and any other field of the recipe. What is not given is as in
            the recipe.

    Returns:
        The SAE with its place (of a layer of a language model), the `curve` of its losses and
        the `seconds` it took.

    Raises:
        UserError: Method, source or setting is unknown, the method does not apply to the source, or
            the training diverged.

    Example:
        >>> sae = gradsae.train("topk", activations, d_sae=4096, k=32, steps=5000)
        >>> sae.save("my_sae")
    """
    place, chosen = make_source(source, seed), make_method(method, settings)
    if reason := chosen.why_not(place):
        raise UserError(f"method {chosen.name} does not apply: {reason}")
    if isinstance(place, Activations):
        init_rows, batch_size = min(init_rows, len(place.x)), min(batch_size, len(place.x))
    length = FitSettings(steps=steps, batch_size=batch_size, init_rows=init_rows)
    return _made(chosen.bind(place), place, length, seed, checks.device(device))


def _made(
    method: Method[Any], source: Source, length: FitSettings, seed: int, device: torch.device
) -> PlacedSAE:
    """Return the SAE that a cell of these settings would measure, frozen and with its place."""
    sample = initial_sample(source, length.init_rows, seed)
    started = time.perf_counter()
    sae = method.build(sample, make_generator(seed, "init")).to(device)
    seconds = time.perf_counter() - started
    curve: dict[str, list[Any]] = {"step": []}
    if isinstance(method, Trainer):
        training = Training(method, sae)
        batches = source.stream(length.batch_size, seed, device)
        fit([training], batches, length, log=lambda *_: None)
        if training.error:
            raise training.error
        curve, seconds = training.curve, training.seconds
    sae.requires_grad_(False)
    is_layer = isinstance(source, ModelSource)
    return PlacedSAE(
        sae=sae,
        name=method.name,
        site=source.site() if is_layer else None,
        model=source.names()["model"]["name"] if is_layer else None,
        curve=curve,
        seconds=seconds,
    )


def make_method(method: str | Method[Any], settings: dict[str, Any]) -> Method[Any]:
    """Return a method by the name of its recipe; UserError for a setting that it does not have."""
    if isinstance(method, Method):
        return presets.changed(method, settings, f"method {method.name}")
    if "d_sae" not in settings:
        raise UserError(f'give the number of latents: train("{method}", ..., d_sae=4096)')
    shared = {name: settings[name] for name in SHARED if name in settings}
    rest = {name: value for name, value in settings.items() if name not in shared}
    trainer = presets.build("trainer", method, words=shared, changes=rest)
    names = {field.name for field in fields(trainer)}
    if "k" in shared and "k" not in names:
        raise UserError(f"method {method} does not fix the number of active latents: it has no k")
    if "lr" in shared and "optim" in names:
        return presets.changed(trainer, {"optim.lr": shared["lr"]}, f"method {method}")
    return trainer


def make_source(source: str | Source | Tensor, seed: int) -> Source:
    """Return a source by name, from activations, or as it is."""
    if isinstance(source, Source):
        return source
    if isinstance(source, Tensor):
        return Activations(x=source, seed=seed)
    if isinstance(source, str):
        words = {"seed": seed, "results": str(cache_root())}
        return presets.build("source", source, words=words)
    raise UserError(
        f"a source is a name, a source object or a tensor of activations, got a {type(source)}"
    )
