"""The short form of the campaign on files: see `tests/fuzz/files.py`."""

import pytest
from fuzz import files

from gradsae.sae import weights
from gradsae.storage import sealed, tensors


def test_no_damage_to_a_file_ends_in_a_traceback_a_hang_or_a_silent_acceptance():
    counts = files.campaign(150, seed=3)
    assert counts.tries == 150
    assert counts.bad() == 0, "\n".join(counts.notes)


@pytest.mark.parametrize(
    ("module", "check", "says", "subject"),
    [
        (weights, "n_not_finite", 0, "sparsify"),
        (tensors, "checksum", "0" * 64, "state"),
        (sealed, "checksum_of", "0" * 64, "checkpoint"),
    ],
)
def test_the_campaign_sees_a_check_that_is_gone(module, check, says, subject, monkeypatch):
    monkeypatch.setattr(module, check, lambda value: says)
    assert files.campaign(60, seed=3, only=subject).silent > 0
