"""Colour, marker and dash of every line of a figure, so that no two look alike."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from benchmarks.results.vocabulary import (
    BLACK,
    BLUE,
    FAMILIES,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    Look,
    look_of,
)
from gradsae.about import About

PALETTE = (BLUE, ORANGE, GREEN, VERMILLION, SKY, PURPLE, BLACK)
"""For components without a known family; grey is left to controls and to chance."""

MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "p", "h", "*", "d")
DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)))
SHADES = ((0.0, 1.0), (0.0, 0.45), (1.0, 0.45))
"""Grey mixed in, and weight of the colour: as it is, darker, paler."""

__all__ = ["BLACK", "GREY", "PALETTE", "Look", "looks", "series"]


def looks(shown: Mapping[str, About]) -> dict[str, Look]:
    """Return the look of each name of one figure; no two share colour and marker.

    A member of a known family has the same look in every figure. Where two have one look (two
    sizes of one estimator), the second keeps the colour; so does a component of a known family
    without a place in it. Any other gets the colour and then the marker that is used least.
    """
    found: dict[str, Look] = {}
    for name, about in shown.items():
        look = look_of(about)
        if look is not None and _is_free(look, found):
            found[name] = look
    for name, about in shown.items():
        if name not in found and about.family in FAMILIES:
            found[name] = _spare(found, [(look_of(about) or FAMILIES[about.family][0]).colour])
    for name in sorted(set(shown) - set(found)):
        found[name] = _spare(found, PALETTE)
    return {name: found[name] for name in shown}


def series(names: Sequence[str], shown: Mapping[str, About]) -> list[Look]:
    """Return a look for each series of a panel, of which several may be of one method.

    The first of a method has the method's look, the others another dash and then another shade;
    no two share colour and dash as long as there are any left.
    """
    look_by_name = looks({name: shown[name] for name in names})
    firsts = {name: names.index(name) for name in look_by_name}
    lines: dict[int, Look] = {}
    taken: set[tuple[Any, Any]] = set()
    places = [*firsts.values(), *(i for i in range(len(names)) if i not in firsts.values())]
    for i in places:
        first = look_by_name[names[i]]
        ways = [(first.colour, first.dash), *_variants(first.colour)]
        colour, dash = next((way for way in ways if way not in taken), ways[0])
        taken.add((colour, dash))
        lines[i] = Look(colour, first.marker, dash)
    return [lines[i] for i in range(len(names))]


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
