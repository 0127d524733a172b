"""No two series of one figure look alike, whatever their methods are called."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from benchmarks.figures.looks import GREY, PALETTE, looks, series
from benchmarks.results.vocabulary import FAMILIES, look_of, order
from gradsae.about import About
from gradsae.bench import catalogue
from gradsae.trainers.controls import ABOUT as CONTROLS

# Machado, Oliveira and Fernandes 2009, full loss of one kind of cone, on linear RGB.
EYES = {
    "all cones": np.eye(3),
    "no long": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "no middle": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "no short": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}


def seen(colour: str, eyes: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D65) of an sRGB colour as these eyes see it."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
    xyz = np.array(to_xyz) @ (eyes @ linear).clip(0, 1) / [0.95047, 1, 1.08883]
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eyes", EYES)
def test_colours_stay_apart_for_colour_blind_eyes(eyes: str):
    """A difference of 2.3 can just be seen side by side; small marks need several times that."""
    for a, b in combinations((*PALETTE, GREY), 2):
        assert np.linalg.norm(seen(a, EYES[eyes]) - seen(b, EYES[eyes])) > 15, (a, b)


METHODS = ("topk", "batchtopk", "matryoshka", "l1", "gated", "jumprelu", "bias_rule", "pursuit")
METHODS = (*METHODS, "released", "control", "ceiling")
ESTIMATORS = ("gradient", "backward", "path", "checked", "activation", "chance")


@pytest.mark.parametrize("families", [METHODS, ESTIMATORS])
def test_no_two_members_share_colour_and_marker_or_colour_and_dash(families: tuple[str, ...]):
    places = [look for family in families for look in FAMILIES[family]]
    assert len({(look.colour, look.marker) for look in places}) == len(places)
    assert len({(look.colour, look.dash) for look in places}) == len(places)


def test_every_family_is_one_of_methods_or_of_estimators():
    assert {*METHODS, *ESTIMATORS, "truth"} == set(FAMILIES)


def test_every_component_of_this_package_that_names_a_member_has_a_look_of_its_own():
    abouts = {**catalogue.known_variants(), **CONTROLS}
    members = {name: about for name, about in abouts.items() if about.member is not None}
    assert len(members) > 20
    for name, about in members.items():
        assert look_of(about) is not None, name


def test_members_stand_in_the_order_of_families_and_strangers_before_controls():
    shown = [
        About(label="chance", family="chance", member=0, is_control=True),
        About(label="theirs", family="new"),
        About(label="second", family="l1", member=1),
        About(label="spare", family="l1"),
        About(label="first", family="l1", member=0),
        About(label="zeroth", family="topk", member=0),
    ]
    labels = [about.label for about in sorted(shown, key=order)]
    assert labels == ["zeroth", "first", "second", "spare", "theirs", "chance"]


def test_a_member_looks_the_same_in_every_figure():
    gba = About(label="GBA", family="bias_rule", member=0)
    others = {
        f"{family} {i}": About(label="x", family=family, member=i)
        for family, members in FAMILIES.items()
        for i in range(len(members))
        if (family, i) != ("bias_rule", 0)
    }
    crowd = looks({"new": About(label="new"), "gba": gba, **others, "x": About(label="x")})
    assert crowd["gba"] == looks({"gba": gba})["gba"] == FAMILIES["bias_rule"][0]


TOPK, L1 = (About(label=name, family=name, member=0) for name in ("topk", "l1"))


def unknown(*names: str) -> dict[str, About]:
    return {name: About(label=name) for name in names}


def test_unknown_names_get_the_least_used_colour_and_a_marker_of_their_own():
    look_by_name = looks({"topk": TOPK, "l1": L1, **unknown("one", "two")})
    assert len({look_by_name[name].colour for name in look_by_name}) == 4
    assert len({look_by_name[name].marker for name in look_by_name}) == 4
    assert looks({**unknown("two", "one"), "l1": L1, "topk": TOPK}) == look_by_name


def test_two_of_one_place_share_the_colour_and_differ_in_marker_and_dash():
    ig, path_ig = (About(label="x", family="path", member=member) for member in (0, 1))
    look_by_name = looks({"ig_8": ig, "ig_3": ig, "path_ig": path_ig})
    assert look_by_name["ig_8"] == FAMILIES["path"][0]
    assert look_by_name["ig_3"].colour == look_by_name["ig_8"].colour
    assert len({look.marker for look in look_by_name.values()}) == 3
    assert len({look.dash for look in look_by_name.values()}) == 3


def test_a_stranger_in_a_known_family_gets_its_colour_and_a_free_marker():
    look_by_name = looks({"l1": L1, "theirs": About(label="theirs", family="l1")})
    assert look_by_name["theirs"].colour == look_by_name["l1"].colour
    assert look_by_name["theirs"].marker != look_by_name["l1"].marker


def test_fifty_names_without_a_place_all_differ():
    look_by_name = looks(unknown(*(f"method {i}" for i in range(50))))
    assert len({(look.colour, look.marker) for look in look_by_name.values()}) == 50


def test_no_two_series_share_colour_and_dash_even_where_methods_share_a_colour():
    rule = About(label="TopK, GBA's rule", family="bias_rule", member=3)
    shown = {"topk": TOPK, "topk_rule": rule, "l1": L1, **unknown("unknown")}
    methods = ["topk"] * 4 + ["topk_rule"] * 3 + ["l1"] * 7 + ["unknown"] * 2
    lines = series(methods, shown)
    assert len({(look.colour, look.dash) for look in lines}) == len(methods)
    assert (lines[0], lines[4]) == (FAMILIES["topk"][0], FAMILIES["bias_rule"][3])
