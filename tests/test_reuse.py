"""Reruns use the clean pass's keys and values: where they can, and what is said."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_run import command, records
from tiny_models import CONFIGS, random_lm

from gradsae.lm import decoder
from gradsae.lm.model import LM
from gradsae.lm.rerun import Rerun, run_to
from gradsae.lm.sites import Site
from gradsae.sources import lm_layer

TOKENS = torch.arange(3, 15)[None]


def rerun_of(lm: LM) -> Rerun:
    return run_to(lm.decoder, Site("resid_post", 1), TOKENS.to(lm.device))


@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_fast_path_is_in_use(architecture: str):
    lm = random_lm(architecture)
    assert rerun_of(lm).can_reuse
    assert lm.decoder.notes == []


def renamed(lm: LM, to: str) -> Callable[..., Any]:
    """Return the model's forward with its cache under another keyword."""
    forward, word = lm.model.forward, lm.decoder.cache_word
    assert word is not None and word != to

    def other(*args: Any, **words: Any) -> Any:
        words.pop(word, None)  # swallowed, as by **kwargs
        cache = words.pop(to, None)
        return forward(*args, **words, **({} if cache is None else {word: cache}))

    return other


def test_the_cache_is_found_under_another_keyword(monkeypatch):
    lm = random_lm()
    (other,) = set(decoder.CACHE_WORDS) - {lm.decoder.cache_word}
    monkeypatch.setattr(lm.model, "forward", renamed(lm, other))
    lm.decoder.__dict__.pop("cache_word")
    assert lm.decoder.cache_word == other
    assert rerun_of(lm).can_reuse


def test_without_a_cache_reruns_are_whole_and_that_is_said_once(monkeypatch, capfd):
    lm = random_lm()
    fast = rerun_of(lm)
    edited = fast.clean[None].clone()
    edited[:, 8:] += 0.5
    expected = fast.logits(edited, [-1], start=8)
    monkeypatch.setattr(lm.model, "forward", renamed(lm, "hidden_cache"))
    lm.decoder.__dict__.pop("cache_word")
    for _ in range(2):
        slow = rerun_of(lm)
        torch.testing.assert_close(slow.logits(edited, [-1], start=8), expected)
        assert not slow.can_reuse
    (line,) = capfd.readouterr().err.splitlines()
    assert "takes longer: the model fills no key-value cache" in line
    assert [f"{lm.spec.name}: {note}" for note in lm.decoder.notes] == [line]


def deaf(lm: LM, answer: Callable[..., Any]) -> None:
    """Let the model see nothing of which logits are asked for; `answer` changes its words."""
    forward = lm.model.forward
    lm.model.forward = lambda *args, **words: forward(*args, **answer(words))
    lm.decoder.__dict__.pop("skips_logits")


def swallowed(words: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in words.items() if name != decoder.LOGITS_WORD}


def refused(words: dict[str, Any]) -> dict[str, Any]:
    if decoder.LOGITS_WORD in words:
        raise TypeError(f"unexpected keyword {decoder.LOGITS_WORD}")
    return words


def the_last(words: dict[str, Any]) -> dict[str, Any]:
    """As a model would that counts from the end: the right shape, another position."""
    return words | {name: 1 for name in words if name == decoder.LOGITS_WORD}


@pytest.mark.parametrize("architecture", CONFIGS)
def test_only_the_logits_asked_for_are_computed(architecture: str):
    lm = random_lm(architecture)
    n_rows: list[int] = []
    head = lm.model.get_output_embeddings()
    head.register_forward_hook(lambda module, args, output: n_rows.append(output.shape[1]))
    assert lm.decoder.skips_logits
    lm.decoder.forward(TOKENS, None, [2, 5])
    assert n_rows[-1] == 2


@pytest.mark.parametrize("answer", [swallowed, refused, the_last])
def test_a_model_that_computes_all_logits_is_read_at_the_right_ones(capfd, answer):
    lm = random_lm()
    expected = lm.model(input_ids=TOKENS).logits[:, [2, 5]]
    deaf(lm, answer)
    for _ in range(2):
        torch.testing.assert_close(lm.decoder.forward(TOKENS, None, [2, 5]), expected)
    (line,) = capfd.readouterr().err.splitlines()
    assert "logits are computed at all positions, which takes more time" in line
    assert [f"{lm.spec.name}: {note}" for note in lm.decoder.notes] == [line]


def test_a_record_keeps_why_its_reruns_were_slow(monkeypatch, tmp_path):
    words = ("task=influence", "source=lm_tiny", "trainer=random", "d_sae=48")
    words = (*words, "fit.batch_size=32", "fit.init_rows=64")
    words = (*words, "task.prompts.n_prompts=2", "task.prompts.length=8")
    assert command(monkeypatch, tmp_path / "fast", *words) == 0
    monkeypatch.setattr(decoder, "CACHE_WORDS", ())
    lm_layer._loaded.cache_clear()
    assert command(monkeypatch, tmp_path / "slow", *words) == 0
    (fast,), (slow,) = records(tmp_path / "fast"), records(tmp_path / "slow")
    assert "notes" not in fast.provenance
    assert "no key-value cache" in slow.provenance.get("notes", [""])[0]
    cost = "influence/cost/ablation"
    assert slow.scores[cost] > fast.scores[cost]
    assert slow.scores == pytest.approx(fast.scores | {cost: slow.scores[cost]}, abs=1e-3)
