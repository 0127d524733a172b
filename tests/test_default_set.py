"""The default set of experiments: what it holds, how long it takes, how it is run."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from benchmarks.experiments import RUN, Step, default_set, lines, run, set_lines
from benchmarks.run import folders_of
from gradsae.bench.cell import build
from gradsae.config.experiments import full_rows
from gradsae.errors import UserError

CONF = Path(__file__).parent.parent / "conf"
STEPS = default_set()


def composed(*words: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(words), return_hydra_config=True)


def named(step: Step) -> list[str]:
    """The words as Hydra gets them, rows by their full names."""
    return full_rows(step.words.split(), folders_of([]))


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.words[:50])
def test_every_step_has_the_keys_that_its_words_set_before_anything_is_swept(step):
    """Hydra first composes a sweep without what is swept, the experiment's own values included."""
    assert composed(*(word for word in named(step) if "," not in word))


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.words[:50])
def test_every_step_composes_to_a_cell(step):
    """The first of its sweep, which is the experiment's unless the step says otherwise."""
    experiment, *words = named(step)
    params = composed(experiment).hydra.sweeper.params
    swept = {name: str(params[name]) for name in params} | dict(w.split("=", 1) for w in words)
    first = [f"{name}={values.split(',')[0]}" for name, values in swept.items()]
    assert build(composed(experiment, *first, "tracking=none")).title


def test_no_step_takes_more_than_half_an_hour_and_all_take_about_four():
    assert max(step.minutes for step in STEPS) <= 30
    assert 3 * 60 < sum(step.minutes for step in STEPS) <= 4 * 60
    assert len({step.words for step in STEPS}) == len(STEPS)


def test_the_set_is_listed_with_its_costs():
    head, first, *_ = set_lines([Step(words="experiment=x", minutes=90, gb=2.0)])
    assert "1.5 h" in head and "--run" in head
    assert first.split() == ["90", "min", "2.0", "GB", "experiment=x"]
    listed = {line.split()[0] for line in lines() if not line.startswith(" ")}
    assert {step.words.split()[0].removeprefix("experiment=") for step in STEPS} <= listed


def test_every_step_is_run_with_the_words_given_and_failures_are_named_at_the_end():
    steps = [Step(words=f"experiment={name} seed=0", minutes=1, gb=1.0) for name in "abc"]
    calls = []

    def call(words) -> int:
        calls.append(list(words))
        return int("experiment=b" in words)

    with pytest.raises(UserError, match=r"steps failed.*\nexperiment=b seed=0$"):
        run(steps, ["device=cuda"], call)
    assert calls == [[*RUN, f"experiment={name}", "seed=0", "device=cuda"] for name in "abc"]
