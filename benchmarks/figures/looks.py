"""Colour, marker and dash of every method and estimator, so that no two in a figure look alike."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any, NamedTuple

# Okabe and Ito's palette, which colour-blind readers can tell apart; its yellow is too pale for
# lines on white, and the grey is dark enough not to be taken for the green.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#666666"
PALETTE = (BLUE, ORANGE, GREEN, VERMILLION, SKY, PURPLE, BLACK)
"""For names without a place; grey is left to controls and to chance."""

MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "p", "h", "*", "d")
DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)))
SHADES = ((0.0, 1.0), (0.0, 0.45), (1.0, 0.45))
"""Grey mixed in, and weight of the colour: as it is, darker, paler."""


class Look(NamedTuple):
    colour: Any
    marker: str
    dash: Any = "-"


METHODS = {
    "topk": Look(BLUE, "o"),
    "topk_rule": Look(BLUE, "X", "--"),
    "batchtopk": Look(SKY, "v"),
    "peel": Look(SKY, "*", "--"),
    "matryoshka": Look(BLACK, "P"),
    "pretrained": Look(BLACK, "h", "-."),
    "l1": Look(ORANGE, "s"),
    "panneal": Look(ORANGE, "d", "--"),
    "gated": Look(PURPLE, "p", "--"),
    "ba": Look(PURPLE, "^"),
    "jumprelu": Look(VERMILLION, ">"),
    "jumprelu_tanh": Look(VERMILLION, "<", "--"),
    "jumprelu_rule": Look(VERMILLION, "X", ":"),
    "gba": Look(GREEN, "D"),
    "gba_oracle": Look(GREEN, "8", "--"),
    "untrained": Look(GREY, "+"),
    "random": Look(GREY, "x", "--"),
    "pca": Look(GREY, "1", ":"),
    "ica": Look(GREY, "2", "-."),
    "ceiling_linear": Look(BLACK, "4", "--"),
    "ceiling": Look(BLACK, "3", ":"),
}
RANKINGS = {
    # gradient times activation, and what the GradSAE paper and its release make of it
    "grad_times_act": Look(VERMILLION, "o"),
    "abs_grad": Look(VERMILLION, "X", ":"),
    "positive_mean": Look(BLUE, "p", "--"),
    "released_gradsae": Look(BLUE, "s"),
    "released_mark": Look(SKY, "D", "--"),
    "norm_exact": Look(VERMILLION, "v", "--"),
    # another backward pass
    "norm_frozen": Look(GREEN, ">", "--"),
    "relp": Look(GREEN, "<"),
    "relp_frozen_attention": Look(GREEN, "d", ":"),
    "grad_drop": Look(GREEN, "h", "-."),
    # more than one point or direction
    "ig_#": Look(PURPLE, "v"),
    "path_ig_#x#": Look(PURPLE, "P", "--"),
    "curvature_#": Look(PURPLE, "D", ":"),
    # the first of a list checked exactly, and the truth
    "screen_verify_#": Look(BLACK, "^"),
    "screen_size_verify_#": Look(BLACK, "s", "--"),
    "screen_by_size_verify_#": Look(BLACK, "v", ":"),
    "part_verify_#": Look(BLACK, "D", "-."),
    "hop_lean#_#": Look(ORANGE, "D", "--"),
    "oracle": Look(BLACK, "*"),
    "ablation": Look(BLACK, "*"),
    # no gradient
    "mean_act": Look(ORANGE, "^"),
    "output_score": Look(SKY, "v"),
    "random": Look(GREY, "x", "--"),
    "random_matched": Look(GREY, "+"),
    "random_direction": Look(GREY, "1", ":"),
}
"""Estimators, rankings and selectors; # stands for what sets the size of one."""
PLACES = {**METHODS, **RANKINGS}


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Return the look of each name of one figure; no two share colour and marker.

    A known name has the same look in every figure. Of two of one kind (`ig_3` and `ig_8`) the
    second keeps the colour; any other name gets the colour and then the marker used least.
    """
    found: dict[str, Look] = {}
    names = list(dict.fromkeys(names))
    known = [name for name in names if kind(name) in PLACES]
    for name in known:
        if _is_free(PLACES[kind(name)], found):
            found[name] = PLACES[kind(name)]
    for name in known:
        if name not in found:
            found[name] = _spare(found, [PLACES[kind(name)].colour])
    for name in sorted(set(names) - set(known)):
        found[name] = _spare(found, PALETTE)
    return {name: found[name] for name in names}


def series(methods: Sequence[str]) -> list[Look]:
    """Return a look for each series of a panel, of which several may be of one method.

    The first of a method has the method's look, the others another dash and then another shade;
    no two share colour and dash as long as there are any left.
    """
    of = looks(methods)
    firsts = {name: methods.index(name) for name in of}
    lines: dict[int, Look] = {}
    taken: set[tuple[Any, Any]] = set()
    order = [*firsts.values(), *(i for i in range(len(methods)) if i not in firsts.values())]
    for i in order:
        own = of[methods[i]]
        ways = [(own.colour, own.dash), *_variants(own.colour)]
        colour, dash = next((way for way in ways if way not in taken), ways[0])
        taken.add((colour, dash))
        lines[i] = Look(colour, own.marker, dash)
    return [lines[i] for i in range(len(methods))]


def kind(name: str) -> str:
    """The place of a name in the table: `ig_#` for `ig_3`, unless it has one of its own."""
    return name if name in PLACES else re.sub(r"\d+(\.\d+)?(fe)?", "#", name)


def _is_free(look: Look, found: dict[str, Look]) -> bool:
    return all(
        (other.colour, other.marker) != (look.colour, look.marker) for other in found.values()
    )


def _spare(found: dict[str, Look], colours: Sequence[str]) -> Look:
    """The least used of the colours, then its least used marker and dash."""
    colour_uses = Counter(look.colour for look in found.values())
    colour = min(colours, key=lambda colour: colour_uses[colour])
    alike = [look for look in found.values() if look.colour == colour]
    pairs = Counter(look.marker for look in alike)
    uses = Counter(look.marker for look in found.values())
    marker = min(MARKERS, key=lambda marker: (pairs[marker], uses[marker]))
    dashes = Counter(look.dash for look in alike)
    return Look(colour, marker, min(DASHES, key=lambda dash: dashes[dash]))


def _variants(colour: Any) -> list[tuple[Any, Any]]:
    return [(_shade(colour, *shade), dash) for shade, dash in product(SHADES, DASHES)]


def _shade(colour: Any, grey: float, weight: float) -> Any:
    from matplotlib.colors import to_rgb

    if weight == 1:
        return colour
    return tuple(weight * part + (1 - weight) * grey for part in to_rgb(colour))
