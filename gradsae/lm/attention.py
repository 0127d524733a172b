"""The attention of a pass, and its exact change if one position has other keys and values.

If only position p changes (k, v -> k', v'), a head's output at a later position q changes by

    out' - out = (a' (v' - out) - a (v - out)) / (1 + a' - a),     a = exp(score - log Z)

with the score and the sum Z of the clean pass. That is a few products per head instead of a run.
Kramar et al. 2024 (AtP*, https://arxiv.org/abs/2403.00745, section 3.1.1) do this for keys and
queries alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradsae.errors import UserError

NAME = "gradsae_watched"
LARGEST_LOG_RATIO = 60.0
"""In float32, a score this far above the clean log Z takes all of the attention."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Heads:
    """The attention of one block in one pass of one prompt."""

    query: Float[Tensor, "heads pos d_head"]
    key: Float[Tensor, "kv_heads pos d_head"]
    value: Float[Tensor, "kv_heads pos d_value"]
    out: Float[Tensor, "1 heads pos d_value"]
    """With its graph, so that a target can be differentiated with respect to it."""
    log_z: Float[Tensor, "heads pos"]
    bias: Float[Tensor, "mask_heads pos pos"]
    """Added to the scores; the smallest number of its dtype where a position may not be read."""
    scaling: float
    softcap: float | None
    added: Float[Tensor, "pos d_in"] | None = None
    """What the block adds to the stream because of `out`. None where that is not linear in `out`:
    with a norm in between (Gemma), a change of a small `out` counts far less than `gain` says."""

    @property
    def gain(self) -> Float[Tensor, " pos"]:
        """|added| / |out|: roughly the factor from a change of `out` to a change of the stream."""
        out = self.out[0].detach().float().square().sum((0, 2)).sqrt()
        length = out.new_zeros(len(out)) if self.added is None else self.added.float().norm(dim=1)
        return length / out.clamp_min(1e-30)

    def change(
        self,
        at: int,
        key: Float[Tensor, "rows kv_heads d_head"],
        value: Float[Tensor, "rows kv_heads d_value"],
    ) -> Float[Tensor, "rows heads later d_value"]:
        """Return out' - out at the positions after `at`."""
        clean_weight, clean_way = self._read(at, self.key[None, :, at], self.value[None, :, at])
        weight, way = self._read(at, key, value)
        left = (1 + weight - clean_weight).clamp_min(1e-30)
        return (weight * way - clean_weight * clean_way) / left

    def _read(
        self, at: int, key: Tensor, value: Tensor
    ) -> tuple[Float[Tensor, "rows heads later 1"], Float[Tensor, "rows heads later d_value"]]:
        """Return exp(score - log Z) of one position's keys, and value - out, at later positions."""
        later = slice(at + 1, None)
        keys, values = (_for_heads(x.float(), len(self.query), dim=1) for x in (key, value))
        score = torch.einsum("hqd,rhd->rhq", self.query[:, later].float(), keys)
        score = _capped(score * self.scaling, self.softcap) + self.bias[:, later, at].float()
        weight = (score - self.log_z[:, later]).clamp_max(LARGEST_LOG_RATIO).exp()
        return weight[..., None], values[:, :, None] - self.out[0, :, later].detach().float()


@contextmanager
def watched(model: nn.Module) -> Iterator[dict[int, Heads]]:
    """Collect the attention of every block in a pass of one prompt without a cache, by block.

    transformers' own switch of implementations is set for the length of the `with` block and then
    set back. The model's own kernels give the same output, to rounding. Raises UserError for
    attention that has more than scores, a soft cap and a mask.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(NAME, _record)
    AttentionMaskInterface.register(NAME, eager_mask)
    found: dict[int, Heads] = {}
    _watches.append(found)
    modules = (module for module in model.modules() if hasattr(module, "config"))
    configs: dict[int, Any] = {id(module.config): module.config for module in modules}
    own = {key: config._attn_implementation for key, config in configs.items()}
    try:
        for config in configs.values():
            config._attn_implementation = NAME
        yield found
    finally:
        _watches.pop()
        for key, config in configs.items():
            config._attn_implementation = own[key]


_watches: list[dict[int, Heads]] = []
"""The active watchers. transformers keeps the registered function for good, so that function must
not hold a pass: it writes to the last of these."""


def _record(module: nn.Module, *args: Any, **settings: Any) -> tuple[Tensor, Tensor]:
    heads, weights = _attend(module, *args, **settings)
    _watches[-1][int(module.layer_idx)] = heads  # type: ignore[arg-type]  # a plain int
    return heads.out.transpose(1, 2).contiguous(), weights


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    **settings: Any,
) -> tuple[Heads, Tensor]:
    for name in ("s_aux", "position_bias"):
        if settings.get(name) is not None:
            kind = type(module).__name__
            raise UserError(
                f"attention with {name}, as {kind} has it, cannot be watched: take an estimator "
                "that does not read attention, for example gradsae"
            )
    n_heads, n_pos = query.shape[1:3]
    if len(query) != 1 or key.shape[2] != n_pos:
        raise ValueError(f"one prompt without a cache, got {tuple(query.shape)}, {key.shape[2]}")
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    if mask is None:
        never = torch.finfo(query.dtype).min
        mask = query.new_full((n_pos, n_pos), never).triu(1)[None, None]
    keys, values = (_for_heads(x, n_heads, dim=1) for x in (key, value))
    scores = _capped(query @ keys.mT * factor, softcap) + mask
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    heads = Heads(
        query=query[0].detach(),
        key=key[0].detach(),
        value=value[0].detach(),
        out=weights @ values,
        log_z=scores[0].detach().float().logsumexp(-1),
        bias=mask[0].detach(),
        scaling=factor,
        softcap=softcap,
    )
    return heads, weights


def _for_heads(x: Tensor, n_heads: int, *, dim: int) -> Tensor:
    """Repeat key-value heads, once for each query head that shares them."""
    return x.repeat_interleave(n_heads // x.shape[dim], dim)


def _capped(scores: Tensor, softcap: float | None) -> Tensor:
    return scores if softcap is None else (scores / softcap).tanh() * softcap
