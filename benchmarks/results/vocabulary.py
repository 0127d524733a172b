"""What is presentation alone: colours and markers by family, their order, retired names."""

from typing import Any, NamedTuple

from gradsae.about import About

# Okabe and Ito's palette, which colour-blind readers can tell apart; its yellow is too pale for
# lines on white, and the grey is dark enough not to be taken for the green.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#666666"


class Look(NamedTuple):
    colour: Any
    marker: str
    dash: Any = "-"


FAMILIES: dict[str, tuple[Look, ...]] = {
    # training methods
    "topk": (Look(BLUE, "o"),),
    "batchtopk": (Look(SKY, "v"),),
    "matryoshka": (Look(BLACK, "P"),),
    "l1": (Look(ORANGE, "s"), Look(ORANGE, "d", "--")),
    "gated": (Look(PURPLE, "p", "--"),),
    "jumprelu": (Look(VERMILLION, ">"), Look(VERMILLION, "<", "--")),
    "bias_rule": (
        *(Look(GREEN, "D"), Look(GREEN, "8", "--"), Look(PURPLE, "^")),
        *(Look(BLUE, "X", "--"), Look(VERMILLION, "X", ":")),
    ),
    "pursuit": (Look(SKY, "*", "--"),),
    "released": (Look(BLACK, "h", "-."),),
    # estimators: gradient times activation, and what the GradSAE paper and its release make of it
    "gradient": (
        *(Look(VERMILLION, "o"), Look(VERMILLION, "X", ":")),
        *(Look(BLUE, "p", "--"), Look(BLUE, "s"), Look(SKY, "D", "--")),
    ),
    # another backward pass
    "backward": (
        *(Look(VERMILLION, "v", "--"), Look(GREEN, ">", "--")),
        *(Look(GREEN, "<"), Look(GREEN, "d", ":"), Look(GREEN, "h", "-.")),
    ),
    # more than one point or direction
    "path": (Look(PURPLE, "v"), Look(PURPLE, "P", "--"), Look(PURPLE, "D", ":")),
    # some latents ablated exactly
    "checked": (
        *(Look(BLACK, "^"), Look(BLACK, "s", "--"), Look(BLACK, "v", ":")),
        *(Look(BLACK, "D", "-."), Look(ORANGE, "D", "--")),
    ),
    "truth": (Look(BLACK, "*"), Look(BLACK, "*")),
    # no gradient
    "activation": (Look(ORANGE, "^"), Look(SKY, "v")),
    # what is shown beside the contenders
    "control": (
        *(Look(GREY, "+"), Look(GREY, "x", "--"), Look(GREY, "1", ":"), Look(GREY, "2", "-.")),
        Look(BLACK, "4", "--"),
    ),
    "ceiling": (Look(BLACK, "3", ":"),),
    "chance": (Look(GREY, "x", "--"), Look(GREY, "+"), Look(GREY, "1", ":")),
}
"""Looks of the members of each family, in the order of tables and legends.

A family that is not here stands before the controls and gets looks that are free.
"""


def look_of(about: About) -> Look | None:
    """Return the look that a component has in every figure, or None."""
    members = FAMILIES.get(about.family, ())
    has_look = about.member is not None and about.member < len(members)
    return members[about.member] if has_look and about.member is not None else None


def order(about: About) -> tuple[int, int, str]:
    """Return the sort key of tables and legends: family, place in it, label."""
    names = list(FAMILIES)
    family = 2 * names.index(about.family if about.family in names else "control")
    member = len(FAMILIES) if about.member is None else about.member
    return family - (about.family not in names), member, about.label


TASKS = (
    *("recovery", "grid", "consistency", "influence", "steering", "masking", "steering_budget"),
)
"""Order of the tables of tasks; others follow."""

RETIRED = (
    *("first_hop_10fe", "first_hop_20fe", "hop_verify_10fe", "hop_verify_20fe"),
    *("hop_top10_10fe", "hop_top10_20fe", "hop_doubt10_10fe", "hop_doubt10_20fe"),
)
"""Names of earlier forms of `hop_then_verify`. What they gave is in results/LOG.md; it is dropped
when a record is read, so that no table or figure shows it."""


def format_score(value: float | None) -> str:
    """Three decimals, or three digits of what is larger; a dash for what is absent."""
    if value is None:
        return "-"
    size = abs(value)
    if value == 0:
        return "0"
    if size >= 100_000 or size < 0.0005:
        return f"{value:.1e}"
    if size >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.3f}"
