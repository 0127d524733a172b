"""The short form of the campaign of kills: see `tests/fuzz/kill.py`."""

from contextlib import contextmanager

from fuzz import kill


def test_a_sweep_that_is_killed_goes_on_and_ends_bit_for_bit_as_it_would_have():
    outcome = kill.campaign(4, seed=2, words=kill.CELLS[:2])
    assert outcome.kills == 4
    assert outcome.bad() == 0, "\n".join(outcome.notes)


def test_the_campaign_sees_a_write_that_is_not_whole(monkeypatch, tmp_path):
    @contextmanager
    def in_place(what, target, setting=""):
        target.parent.mkdir(parents=True, exist_ok=True)
        yield target

    monkeypatch.setattr("gradsae.records.record.writing", in_place)
    kills = kill.Kills(tmp_path, kill.CELLS[:1], seed=0)
    (tmp_path / "results").mkdir()
    at = next(
        i
        for i, path in enumerate(kills.paths, start=1)
        if path.endswith(".json") and "records" in path
    )
    assert kills.kill_at(tmp_path / "results", kill.Moments(at, "inside"))
    kills.end(tmp_path / "results")
    assert (kills.outcome.damaged, kills.outcome.failed) == (1, 1)
