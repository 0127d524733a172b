"""Backward rules: other gradients than the true ones, under the same forward values.

Each rule is a forward hook on some modules of the later blocks. It hands on the module's own
output, bit for bit, with another gradient:

    norms      the denominator of every RMSNorm and LayerNorm is a constant
    secants    an activation function f counts as multiplication by the constant f(x) / x
    halves     each factor of a gated MLP's product gets half of the gradient
    attention  no gradient through queries and keys: attention patterns are constants
    switch     what one block adds to the stream has no gradient, one block at a time (GradDrop)

References: layer norm rule, secants and halves: RelP, https://arxiv.org/abs/2508.21258, after
Achtibat et al. 2024, https://arxiv.org/abs/2402.05602; GradDrop: Kramar et al. 2024,
https://arxiv.org/abs/2403.00745.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradsae.errors import UserError
from gradsae.influence.gradient import gradient
from gradsae.influence.target import Target
from gradsae.lm.rerun import Rerun
from gradsae.prompts.seen import SeenPrompt

Hook = tuple[nn.Module, Callable[..., Any]]

SMALL = 1e-4
"""Inputs below this get the secant at SMALL, which is the slope at 0 to rounding."""


@dataclass
class Switch:
    """The block whose contribution has no gradient. Read during the backward pass."""

    layer: int | None = None


@final
@dataclass(frozen=True, kw_only=True)
class Rules:
    """Which rules hold; the module's docstring describes each."""

    norms: bool = False
    secants: bool = False
    halves: bool = False
    attention: bool = False
    switch: Switch | None = None

    def in_block(self, layer: int, block: nn.Module, adds: list[nn.Module]) -> Iterator[Hook]:
        """Yield the hooks of one block; `adds` are the modules whose outputs join the stream."""
        for module in block.modules() if self.norms else ():
            if is_norm(module):
                yield module, frozen_norm
        if self.secants or self.halves:
            yield from _mlp_hooks(block, secants=self.secants, halves=self.halves)
        if self.attention:
            yield from _attention_hooks(block)
        if self.switch is not None:
            for module in adds:
                yield module, _switched(self.switch, layer)

    def outside(self, model: nn.Module, blocks: str) -> Iterator[Hook]:
        """Yield the hooks outside the blocks: the final norm."""
        for name, module in model.named_modules() if self.norms else ():
            if is_norm(module) and not name.startswith(f"{blocks}."):
                yield module, frozen_norm


@contextmanager
def changed_backward(rerun: Rerun, rules: Rules) -> Iterator[None]:
    """Let gradients through the later blocks and the final norm follow other rules for a while."""
    hooks = list(rules.outside(rerun.decoder.model, rerun.decoder.layout.blocks))
    for layer in rerun.later_blocks:
        block, layout = rerun.decoder.block(layer), rerun.decoder.layout_of(layer)
        halves = [path for path in (layout.attn_out, layout.mlp_out) if path is not None]
        hooks += rules.in_block(layer, block, [block.get_submodule(path) for path in halves])
    edited = rerun.decoder.module(rerun.site)  # its output is the edit, which no rule may touch
    with rerun.decoder.hooked((module, hook) for module, hook in hooks if module is not edited):
        yield


def scores_under(seen: SeenPrompt, target: Target, rules: Rules) -> Float[Tensor, " active"]:
    """Return gradient x activation under these rules, summed over positions."""
    with changed_backward(seen.rerun, rules):
        grad = gradient(seen, target, seen.codes[None])[0]
    return (grad * seen.codes).sum(0)


def is_norm(module: nn.Module) -> bool:
    """Return True for LayerNorm and for every class whose name ends in RMSNorm."""
    return isinstance(module, nn.LayerNorm) or type(module).__name__.endswith("RMSNorm")


def frozen_norm(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Return the norm's own output, with the gradient of x / constant * gain: a forward hook."""
    x = args[0].to(output.dtype)
    if isinstance(module, nn.LayerNorm):
        centred = x - x.mean(-1, keepdim=True)
        scale = (x.var(-1, keepdim=True, unbiased=False) + module.eps).sqrt()
        gain = 1.0 if module.weight is None else module.weight
        return _same_value(output, centred / scale.detach() * gain)
    eps = float(getattr(module, "variance_epsilon", getattr(module, "eps", 0.0) or 0.0))
    scale = (x.square().mean(-1, keepdim=True) + eps).sqrt()
    # Apply the norm to ones: some classes keep the gain in their weights, some the gain less one.
    gain = module.forward(torch.ones_like(x[..., :1, :])) * (1 + eps) ** 0.5
    return _same_value(output, x / scale.detach() * gain.detach())


def _mlp_hooks(block: nn.Module, *, secants: bool, halves: bool) -> Iterator[Hook]:
    for mlp in block.modules():
        act = getattr(mlp, "act_fn", getattr(mlp, "act", None))
        if not isinstance(act, nn.Module):
            continue
        gated = isinstance(getattr(mlp, "gate_proj", None), nn.Module)
        if secants:
            yield act, _secant
        if halves and gated:
            yield act, _half
            yield mlp.get_submodule("up_proj"), _half
        return
    raise UserError(
        f"a {type(block).__name__} has no activation module act_fn or act: no rule for its MLP"
    )


def _attention_hooks(block: nn.Module) -> Iterator[Hook]:
    projections = [m for name, m in block.named_modules() if name.endswith(("q_proj", "k_proj"))]
    if len(projections) != 2:
        raise UserError(
            f"a {type(block).__name__} has no q_proj and k_proj: its attention cannot be frozen"
        )
    for module in projections:
        yield module, lambda _module, _args, output: output.detach()


def _secant(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    x = args[0]
    away = torch.where(x.abs() < SMALL, SMALL, x).detach()
    return _same_value(output, x * (module.forward(away) / away))


def _half(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return _same_value(output, output / 2)


def _switched(switch: Switch, layer: int) -> Callable[..., Any]:
    def drop(grad: Tensor) -> Tensor | None:
        return torch.zeros_like(grad) if switch.layer == layer else None

    def hook(_module: nn.Module, _args: Any, output: Any) -> None:
        added = output[0] if isinstance(output, tuple) else output
        if added.requires_grad:
            added.register_hook(drop)

    return hook


def _same_value(output: Tensor, path: Tensor) -> Tensor:
    """Return the value of `output` with the gradient of `path`; not a bit changes."""
    return output.detach() + (path - path.detach())
