"""Every component of the published records is known, and is rebuilt from its config exactly."""

import json
from functools import cache
from typing import Any

import example_records as example
import pytest

from benchmarks.figures import recall_after_checks
from benchmarks.places import PUBLISHED
from benchmarks.results.declared import about_method, about_variant
from benchmarks.results.reading import Entry, without_retired
from benchmarks.results.settings import make_settings
from gradsae.bench import catalogue
from gradsae.influence.estimators.hop_then_verify import HopThenVerify
from gradsae.influence.estimators.screen_then_verify import ScreenThenVerify
from gradsae.records.record import Record
from gradsae.training.checkpoints import trainer_config

TASKS_OF_ESTIMATORS = ("influence", "steering", "masking", "steering_budget")


@cache
def published() -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(PUBLISHED.glob("**/*.json"))]


@cache
def with_estimators() -> list[Record]:
    tasks = [data for data in published() if data["task"]["name"] in TASKS_OF_ESTIMATORS]
    return [without_retired(Record(**data)) for data in tasks]


def test_every_published_training_method_is_rebuilt_with_the_config_of_its_id():
    configs = {json.dumps(data["config"]["trainer"]): data for data in published()}
    assert len(configs) > 100
    for data in configs.values():
        trainer = catalogue.rebuild_trainer(data["config"]["trainer"])
        assert trainer is not None, data["config"]["trainer"]
        assert trainer_config(trainer) == data["config"]["trainer"]
        assert trainer.about.label != trainer.name or trainer.name == "peel"


def test_every_published_synthetic_source_is_rebuilt_with_the_config_of_its_id():
    configs = {json.dumps(data["config"]["source"]): data for data in published()}
    worlds = [
        data["config"]["source"] for data in configs.values() if "model" not in data["config"]
    ]
    assert len(worlds) > 10
    for config in worlds:
        source = catalogue.rebuild_source(config)
        assert source is not None, config
        assert {"name": source.name, **source.identity()} == config
        assert "_" not in source.about.label


def test_every_estimator_in_a_published_record_is_known():
    found = {
        (name.split("/")[2], record.id)
        for record in with_estimators()
        for name in (*record.scores, *record.skipped)
        if name.count("/") == 2
    }
    records = {record.id: record for record in with_estimators()}
    unknown = {name for name, i in found if about_variant(records[i], name).label == name}
    assert unknown <= {"random"}  # its label is its name
    assert about_variant(with_estimators()[0], "random").is_control


def test_the_recall_figure_draws_what_spends_no_checks_of_its_own():
    entries = [
        Entry(record=record, path=PUBLISHED / f"{record.id}.json", origin="own")
        for record in with_estimators()
        if record.series.get(recall_after_checks.SERIES)
    ]
    assert len(entries) > 10
    names = set()
    for setting in make_settings(entries):
        names |= set(recall_after_checks.curves(setting))
    spenders = {
        each.name
        for base in (HopThenVerify, ScreenThenVerify)
        for record in with_estimators()
        for each in catalogue.described(record.config, base)
    }
    assert {"hop_lean10_10fe", "screen_verify_10fe"} <= spenders
    assert not names & spenders
    assert {"grad_times_act", "mean_act"} <= names


def test_a_component_of_this_package_speaks_for_itself_and_a_strangers_record_for_its_own():
    trainer = next(data["config"]["trainer"] for data in published())
    own = {"label": "something else", "is_control": True}
    record = example.record(
        "recovery", example.TOY, trainer, 0, scores={"a/b": 1}, about={"method": own}
    )
    assert about_method(record).label != "something else"
    assert not about_method(record).is_control
    theirs = example.record(
        *("recovery", example.TOY, {"name": "theirs", "depth": 3}, 0),
        scores={"a/b": 1},
        about={"method": {"label": "Their method", "family": "new"}},
    )
    assert about_method(theirs).label == "Their method"
    nobody = example.record("recovery", example.TOY, {"name": "theirs"}, 0, scores={"a/b": 1})
    assert about_method(nobody).label == "theirs"


@pytest.mark.parametrize(
    "config",
    [
        {"name": "topk", "_target_": "os.system", "k": 3},
        {"name": "topk", "d_sae": 8, "k": 99, "optim": {"class": "Optim", "lr": 1e-3}},
        {"name": "topk", "d_sae": 8, "k": 2, "optim": {"class": "Popen", "args": "true"}},
        {"name": "topk", "d_sae": 8, "k": 2, "optim": {"class": "Optim", "lr": -1}},
    ],
)
def test_a_config_that_is_not_ours_is_refused_and_runs_nothing(config: dict[str, Any]):
    assert catalogue.rebuild_trainer(config) is None
