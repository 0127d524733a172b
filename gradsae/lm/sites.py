"""Where in a decoder an activation is read or changed, found from the model's architecture."""

from dataclasses import dataclass
from typing import Any, Literal, final, get_args

from torch import nn

from gradsae.errors import UserError

SiteKind = Literal["resid_post", "mlp_out", "attn_out"]

ATTENTION = (
    *("self_attn", "attn", "attention", "self_attention", "multi_head_attention"),
    *("linear_attn", "mamba", "conv", "temporal_block"),
)
"""Attention, and what stands in its place in some blocks of hybrids."""
MLP = (
    *("mlp", "feed_forward", "ffn", "block_sparse_moe", "moe", "mlp_block"),
    *("fc2", "output_layer"),
)
"""MLPs, and the last layer of those that are no module of their own."""

# Blocks that normalise an output before it joins the residual stream: Gemma 2 and 3, OLMo 2, GLM 4.
# The last MLP norm tells them apart from the pre-norm blocks that use the same attention names.
POST_NORMS = (
    ("post_attention_layernorm", "post_mlp_layernorm"),
    ("post_attention_layernorm", "post_feedforward_layernorm"),
    ("post_self_attn_layernorm", "post_mlp_layernorm"),
)


@final
@dataclass(frozen=True)
class Site:
    """One place of one block: the residual stream after it, or what one half adds to the stream."""

    kind: SiteKind
    layer: int
    """Block index from 0."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(SiteKind):
            raise UserError(
                f"site kind must be one of {', '.join(get_args(SiteKind))}: {self.kind!r}"
            )
        if not isinstance(self.layer, int) or isinstance(self.layer, bool) or self.layer < 0:
            raise UserError(f"site layer must be an integer from 0 on, got {self.layer!r}")

    def __str__(self) -> str:
        return f"{self.kind}.{self.layer}"


def parse_site(text: str) -> Site:
    """Read what `str(site)` writes, for example "resid_post.15"."""
    kind, _, layer = text.partition(".")
    if not layer.isdecimal() or kind not in get_args(SiteKind):
        raise UserError(
            f"a site reads kind.layer, for example resid_post.15 (kinds: "
            f"{', '.join(get_args(SiteKind))}), got {text!r}"
        )
    return Site(kind=kind, layer=int(layer))  # pyright: ignore[reportArgumentType]


@final
@dataclass(frozen=True, kw_only=True)
class Layout:
    """Module paths of one block. In a hybrid they differ from block to block."""

    blocks: str
    """The list of decoder blocks."""
    attn_path: str | None
    """Set by hand; wins over what is found."""
    mlp_path: str | None
    attn: str | None
    """Inside a block: the attention itself."""
    mlp: str | None
    """Inside a block: the MLP itself."""
    attn_out: str | None
    """Inside a block: the module whose output attention adds to the residual stream."""
    mlp_out: str | None
    """Inside a block: the module whose output the MLP adds to the residual stream."""


def find_layout(
    model: nn.Module,
    n_layers: int,
    *,
    block_path: str | None = None,
    attn_path: str | None = None,
    mlp_path: str | None = None,
) -> Layout:
    """Resolve the sites' modules; given paths win.

    Raises UserError where there is no single list of `n_layers` blocks, or a given path leads
    nowhere. A missing attention or MLP is no error until that site is asked for.
    """
    blocks = block_path or _find_blocks(model, n_layers)
    block = _child(_child(model, blocks, "block_path"), "0", "block_path")
    for path, field in ((attn_path, "attn_path"), (mlp_path, "mlp_path")):
        if path is not None:
            _child(block, path, field)
    return layout_of(block, blocks, attn_path=attn_path, mlp_path=mlp_path)


def layout_of(
    block: nn.Module, blocks: str, *, attn_path: str | None, mlp_path: str | None
) -> Layout:
    """Return the module paths of one block; given paths win where the block has them."""
    attn, mlp = _first_of(block, ATTENTION), _first_of(block, MLP)
    attn_out, mlp_out = attn, mlp
    for norms in POST_NORMS:
        if all(hasattr(block, norm) for norm in norms):
            attn_out, mlp_out = norms
    return Layout(
        blocks=blocks,
        attn_path=attn_path,
        mlp_path=mlp_path,
        attn=attn,
        mlp=mlp,
        attn_out=attn_path or attn_out,
        mlp_out=mlp_path or mlp_out,
    )


def find_module(model: nn.Module, layout: Layout, site: Site) -> nn.Module:
    """Return the module whose output is the site's activation. UserError if it is not known.

    `layout` is that of the site's block.
    """
    block = model.get_submodule(layout.blocks)[site.layer]  # pyright: ignore[reportIndexIssue]
    match site.kind:
        case "resid_post":
            return block
        case "attn_out":
            path, field = layout.attn_out, "attn_path"
        case "mlp_out":
            path, field = layout.mlp_out, "mlp_path"
    if path is None:
        names = [name for name, _ in block.named_children()]
        raise UserError(
            f"{type(model).__name__} is an unknown architecture: cannot tell which module makes "
            f"{site}. Set model.{field} to the one whose output is added to the residual "
            f"stream; a {type(block).__name__} holds: {', '.join(names)}."
        )
    return _child(block, path, field)


def _find_blocks(model: nn.Module, n_layers: int) -> str:
    lists = {n: m for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m)}
    fitting = [name for name, modules in lists.items() if len(modules) == n_layers]
    decoders = [name for name in fitting if _first_of(lists[name][0], ATTENTION + MLP)]
    candidates = decoders or fitting
    if len(candidates) == 1:
        return candidates[0]
    listed = ", ".join(f"{n} ({len(m)})" for n, m in lists.items()) or "none"
    raise UserError(
        f"{type(model).__name__} is an unknown architecture: found {len(candidates)} lists of "
        f"{n_layers} decoder blocks, need 1. Set model.block_path to the right module list; there "
        f"are (with lengths): {listed}."
    )


def _child(module: nn.Module, path: str, field: str) -> Any:
    try:
        return module.get_submodule(path)
    except AttributeError as error:
        names = [name for name, _ in module.named_modules() if name and name.count(".") < 3]
        raise UserError(
            f"model.{field}: {type(module).__name__} has no module {path!r}; it holds: "
            f"{', '.join(names[:40])}"
        ) from error


def _first_of(block: nn.Module, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if isinstance(getattr(block, name, None), nn.Module)), None)
