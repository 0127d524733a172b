"""Every published record is reached by words of today's conf/, under the id that it has.

tests/data/published_cells.json: words of a command -> ids of its cells, in the order in which a
sweep visits them; null for a cell that is not published.
"""

import itertools
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from benchmarks.places import CONF, PUBLISHED
from gradsae.bench.cell import Cell, build
from gradsae.config.experiments import full_rows
from gradsae.records.ids import record_id
from gradsae.training.checkpoints import plain

CELLS = json.loads((Path(__file__).parent / "data" / "published_cells.json").read_text())
GROUPS = ("row", "trainer", "corpus", "calibration", "experiment")
READ_DTYPE = "bfloat16"
"""The published records of language models come from machines that multiply bfloat16, which
`source.read_dtype=auto` finds out; here it is said."""


def cells_of(command: str) -> Iterator[Cell]:
    """Build the cells of a command in the order of its sweep.

    What is no group is set on the composed config: that is the same and much faster.
    """
    words = full_rows(command.split(), [CONF / "experiment"])
    with initialize_config_dir(str(CONF), version_base="1.3"):
        first = [word for word in words if "," not in word]
        master = compose("config", overrides=first, return_hydra_config=True)
        params = [f"{key}={value}" for key, value in (master.hydra.sweeper.params or {}).items()]
        swept = swept_values([*params, *words])
        fixed = ["tracking=none", *(f"{k}={v[0]}" for k, v in swept.items() if len(v) == 1)]
        varied = {key: values for key, values in swept.items() if len(values) > 1}
        configs = Configs(fixed)
        for combination in itertools.product(*varied.values()):
            chosen = dict(zip(varied, combination, strict=True))
            cfg = configs.get({key: chosen.pop(key) for key in GROUPS if key in chosen})
            for name, text in chosen.items():
                OmegaConf.update(cfg, name, OmegaConf.create(f"value: {text}").value)
            yield build(cfg)


class Configs:
    """Composed configs of one command by their group choices, each composed once."""

    def __init__(self, fixed: list[str]) -> None:
        self.fixed = fixed
        self.composed: dict[tuple[str, ...], DictConfig] = {}

    def get(self, choices: dict[str, str]) -> DictConfig:
        """Return the config of these choices. Where nothing but its group shapes the trainer, only
        that is exchanged in a config that is there."""
        others = tuple(f"{k}={v}" for k, v in choices.items() if k != "trainer")
        trainer = choices.get("trainer")
        cfg = self.composed.get(others)
        if cfg is not None and trainer is not None:
            cfg.trainer = trainer_alone(trainer)
            return cfg
        words = [*self.fixed, *others, *([f"trainer={trainer}"] if trainer else [])]
        if tuple(words) in self.composed:
            return self.composed[tuple(words)]
        cfg = compose("config", overrides=words)
        OmegaConf.set_struct(cfg, False)
        if cfg.source._target_.endswith("LmLayer"):
            cfg.source.read_dtype = READ_DTYPE
        written = OmegaConf.to_container(cfg.trainer)
        is_plain = trainer is not None and written == trainer_alone(trainer)
        is_grid = cfg.task._target_.endswith("Grid")  # its settings are the trainer's
        self.composed[others if is_plain and not is_grid else tuple(words)] = cfg
        return cfg


@cache
def trainer_alone(name: str) -> dict[str, Any]:
    """Return the values of a trainer's file, interpolations as they are written."""
    node = compose("config", overrides=[f"trainer={name}"]).trainer
    return cast(dict[str, Any], OmegaConf.to_container(node))


def swept_values(words: list[str]) -> dict[str, list[str]]:
    """Return the values of each word of a command, the last word of a name counting."""
    parsed = OverridesParser.create().parse_overrides(words)
    return {
        one.get_key_element(): list(one.sweep_string_iterator())
        if one.is_sweep_override()
        else [one.get_value_element_as_str()]
        for one in parsed
    }


def test_every_published_record_is_in_the_list_but_those_of_other_estimators():
    """The ones left out were asked of estimators that task=influence/table and influence/ten had
    then; what came later shares no id with them by design."""
    listed = {name for names in CELLS.values() for name in names if name}
    others = {path.stem for path in PUBLISHED.glob("*.json")} - listed
    records = [json.loads((PUBLISHED / f"{name}.json").read_text()) for name in others]
    assert {record["config"]["experiment"] for record in records} == {"influence_table"}
    assert len(records) == 9


def id_of(cell: Cell, version: int) -> str:
    """Return the id of a cell under a version of its task, which a record may be older than."""
    task = {"name": cell.task.name, "version": version}
    return record_id(task, cell.config(), plain(cell.seeds))


@pytest.mark.parametrize("command", CELLS)
def test_the_words_of_a_published_record_give_its_id(command):
    for name, cell in zip(CELLS[command], cells_of(command), strict=True):
        if name:
            record = json.loads((PUBLISHED / f"{name}.json").read_text())
            assert id_of(cell, record["task"]["version"]) == name
