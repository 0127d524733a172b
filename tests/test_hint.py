"""A field that only swept parts have: what the command says, and that its advice works."""

import pytest
from hydra import compose, initialize_config_dir

from benchmarks import run
from benchmarks.hint import hint
from benchmarks.run import CONF

FIELD = "source.n_tokens=1000"


def test_the_word_that_works_is_named():
    said = hint(CONF, ["tracking=none", "experiment=lm_consistency", FIELD])
    assert said == (
        "source.n_tokens is a field of the parts that lm_consistency sweeps over; "
        "write ++source.n_tokens=1000"
    )
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for part in ([], ["part=lm/smollm2_15"]):  # as Hydra does: without what is swept, and with
            cfg = compose("config", overrides=["experiment=lm_consistency", *part, f"++{FIELD}"])
            assert cfg.source.n_tokens == 1000


@pytest.mark.parametrize(
    "words",
    [
        ["experiment=lm_consistency", "source.n_tokns=1000"],  # nobody has it
        ["experiment=lm_consistency", "fit.steps=10"],  # everybody has it
        ["experiment=lm_consistency", "part=lm/smollm2_15", "source.n_tokns=1"],
        ["experiment=regret_gird", FIELD],
        ["source.n_tokens=1000"],
    ],
)
def test_where_it_is_another_mistake_nothing_is_said(words):
    assert hint(CONF, words) is None


def test_the_command_says_it_after_hydra_and_fails(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["run", "experiment=lm_consistency", FIELD])
    with pytest.raises(SystemExit) as stopped:
        run.main()
    assert stopped.value.code == 1
    assert capsys.readouterr().err.endswith(f"write ++{FIELD}\n")
