"""Colour, marker and dash of every line of a figure: no two lines look alike."""

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
"""For components without a known family. Grey is for controls and for chance."""

MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "p", "h", "*", "d")
DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)))
SHADES = ((0.0, 1.0), (0.0, 0.45), (1.0, 0.45))
"""Grey that is mixed in (0 black, 1 white) and weight of the colour: unchanged, darker, paler."""

__all__ = ["BLACK", "GREY", "PALETTE", "Look", "looks", "series"]


def looks(shown: Mapping[str, About]) -> dict[str, Look]:
    """Return the look of each name of one figure; no two share colour and marker.

    A member of a known family has the same look in every figure. If two members have the same
    look (two sizes of one estimator), the second shares only the colour. A component of a known
    family that has no place in it shares the family's colour. Any other component gets the colour
    and then the marker that is used least.
    """
    look_by_name: dict[str, Look] = {}
    for name, about in shown.items():
        look = look_of(about)
        if look is not None and _is_free(look, look_by_name):
            look_by_name[name] = look
    for name, about in shown.items():
        if name not in look_by_name and about.family in FAMILIES:
            colour = (look_of(about) or FAMILIES[about.family][0]).colour
            look_by_name[name] = _spare(look_by_name, [colour])
    for name in sorted(set(shown) - set(look_by_name)):
        look_by_name[name] = _spare(look_by_name, PALETTE)
    return {name: look_by_name[name] for name in shown}


def series(names: Sequence[str], shown: Mapping[str, About]) -> list[Look]:
    """Return a look for each series of a panel; several series may be of one method.

    The first series of a method has the method's look. The others have another dash, and then
    another shade. No two share colour and dash until all combinations are used.
    """
    look_by_name = looks({name: shown[name] for name in names})
    firsts = {name: names.index(name) for name in look_by_name}
    lines: dict[int, Look] = {}
    taken: set[tuple[Any, Any]] = set()
    places = [*firsts.values(), *(i for i in range(len(names)) if i not in firsts.values())]
    for i in places:
        first = look_by_name[names[i]]
        strokes = [(first.colour, first.dash), *_strokes(first.colour)]
        colour, dash = next((stroke for stroke in strokes if stroke not in taken), strokes[0])
        taken.add((colour, dash))
        lines[i] = Look(colour, first.marker, dash)
    return [lines[i] for i in range(len(names))]


def _is_free(look: Look, look_by_name: dict[str, Look]) -> bool:
    taken = {(other.colour, other.marker) for other in look_by_name.values()}
    return (look.colour, look.marker) not in taken


def _spare(look_by_name: dict[str, Look], colours: Sequence[str]) -> Look:
    """Return the colour that is used least, with the marker and dash least used in it."""
    colour_uses = Counter(look.colour for look in look_by_name.values())
    colour = min(colours, key=lambda colour: colour_uses[colour])
    alike = [look for look in look_by_name.values() if look.colour == colour]
    pairs = Counter(look.marker for look in alike)
    uses = Counter(look.marker for look in look_by_name.values())
    marker = min(MARKERS, key=lambda marker: (pairs[marker], uses[marker]))
    dashes = Counter(look.dash for look in alike)
    return Look(colour, marker, min(DASHES, key=lambda dash: dashes[dash]))


def _strokes(colour: Any) -> list[tuple[Any, Any]]:
    return [(_shade(colour, *shade), dash) for shade, dash in product(SHADES, DASHES)]


def _shade(colour: Any, grey: float, weight: float) -> Any:
    """Return a colour mixed with grey (0 black, 1 white); of weight 1 it is unchanged."""
    from matplotlib.colors import to_rgb

    if weight == 1:
        return colour
    return tuple(weight * part + (1 - weight) * grey for part in to_rgb(colour))
