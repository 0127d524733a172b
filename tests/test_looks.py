"""No two series of one figure look alike, whatever their methods are called."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from omegaconf import OmegaConf

from benchmarks.figures.looks import GREY, PALETTE, PLACES, kind, looks, series
from benchmarks.figures.looks import METHODS as METHOD_LOOKS
from benchmarks.figures.looks import RANKINGS as RANKING_LOOKS
from benchmarks.results.settings import METHODS
from benchmarks.results.vocabulary import ESTIMATORS, RANKINGS, SELECTORS

CONF = Path(__file__).parent.parent / "conf"

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


@pytest.mark.parametrize("table", [METHOD_LOOKS, RANKING_LOOKS])
def test_no_two_places_share_colour_and_marker_or_colour_and_dash(table: dict):
    # The truth is no line beside estimates.
    places = [look for name, look in table.items() if name not in ("oracle", "ablation")]
    assert len({(look.colour, look.marker) for look in places}) == len(places)
    assert len({(look.colour, look.dash) for look in places}) == len(places)


def test_every_trainer_of_the_suite_has_a_place():
    names = {p.stem for p in (CONF / "trainer").glob("*.yaml")} - {"gba_published"}  # a GBA
    assert (names | set(METHODS)) <= set(METHOD_LOOKS)


def test_every_estimator_of_the_influence_table_has_a_place():
    from hydra.utils import instantiate

    table = OmegaConf.load(CONF / "influence" / "table.yaml")
    names = [instantiate(one, _convert_="object").name for one in table.estimators]
    assert len(names) > 10
    names += [*ESTIMATORS, *SELECTORS, *RANKINGS]
    assert {kind(name) for name in names} <= set(RANKING_LOOKS)


def test_a_known_name_looks_the_same_in_every_figure():
    alone = looks(["gba"])["gba"]
    crowd = looks(["new", "gba_rule", *METHOD_LOOKS, "x"])
    assert crowd["gba"] == alone == PLACES["gba"]


def test_unknown_names_get_the_least_used_colour_and_a_marker_of_their_own():
    found = looks(["topk", "l1", "one", "two"])
    assert len({found[name].colour for name in found}) == 4
    assert len({found[name].marker for name in found}) == 4
    assert looks(["two", "one", "l1", "topk"]) == found


def test_two_of_one_family_share_the_colour_and_differ_in_marker_and_dash():
    found = looks(["ig_8", "ig_3", "path_ig_1x4"])
    assert found["ig_8"] == PLACES["ig_#"]
    assert found["ig_3"].colour == found["ig_8"].colour
    assert len({look.marker for look in found.values()}) == 3
    assert len({look.dash for look in found.values()}) == 3


def test_fifty_names_without_a_place_all_differ():
    found = looks([f"method {i}" for i in range(50)])
    assert len({(look.colour, look.marker) for look in found.values()}) == 50


def test_no_two_series_share_colour_and_dash_even_where_methods_share_a_colour():
    methods = ["topk"] * 4 + ["topk_rule"] * 3 + ["l1"] * 7 + ["unknown"] * 2
    found = series(methods)
    assert len({(look.colour, look.dash) for look in found}) == len(methods)
    assert (found[0], found[4]) == (PLACES["topk"], PLACES["topk_rule"])
