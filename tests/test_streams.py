"""Batches that are drawn ahead are those of a stream that draws when it is asked."""

import os
import select
import signal
import threading

import pytest
import torch

from gradsae.sources.forest import Forest
from gradsae.sources.streams import DrawnStream

CPU = torch.device("cpu")


def stream(*, ahead: bool) -> DrawnStream:
    return DrawnStream(lambda n, g: torch.randn(n, 3, generator=g), 4, 0, CPU, ahead=ahead)


def test_batches_and_states_are_those_of_a_stream_that_does_not_draw_ahead():
    plain, ahead = stream(ahead=False), stream(ahead=True)
    for _ in range(6):
        assert torch.equal(ahead.state()["generator"], plain.state()["generator"])
        assert torch.equal(ahead.next(), plain.next())


@pytest.mark.parametrize("n_before", [0, 1, 2, 5])
def test_a_stream_that_is_set_back_draws_the_same_batches_again(n_before):
    ahead = stream(ahead=True)
    for _ in range(n_before):
        ahead.next()
    state = {"generator": ahead.state()["generator"].clone()}
    first = [ahead.next() for _ in range(4)]
    ahead.restore(state)
    again, other = [ahead.next() for _ in range(4)], stream(ahead=True)
    other.restore(state)
    for batches in (again, [other.next() for _ in range(4)]):
        assert all(torch.equal(a, b) for a, b in zip(first, batches, strict=True))


def test_a_world_is_drawn_beside_the_caller_and_only_after_a_second_batch(monkeypatch):
    source = Forest(n_features=400, width=16, n_roots=4, orthogonal_steps=1)
    batches, threads = source.stream(64, 0, CPU), []
    drawn = batches._draw

    def draw(n: int, generator: torch.Generator) -> torch.Tensor:
        threads.append(threading.current_thread().name)
        return drawn(n, generator)

    monkeypatch.setattr(batches, "_draw", draw)
    batches.next()
    assert threads == ["MainThread"]
    assert torch.isfinite(torch.cat([batches.next() for _ in range(3)])).all()
    assert len(threads) >= 4
    assert threads[:2] == ["MainThread"] * 2
    assert all(name.startswith("gradsae-ahead") for name in threads[2:])


def test_an_error_in_a_batch_drawn_ahead_comes_up_where_it_is_asked_for():
    counts = iter(range(9))

    def draw(n: int, generator: torch.Generator) -> torch.Tensor:
        if next(counts) == 2:
            raise ValueError("the third batch")
        return torch.zeros(n, 1)

    batches = DrawnStream(draw, 2, 0, CPU, ahead=True)
    batches.next()
    batches.next()
    with pytest.raises(ValueError, match="the third batch"):
        batches.next()


def test_a_forked_process_draws_ahead_too():
    ahead = stream(ahead=True)
    for _ in range(3):
        ahead.next()  # so that the pool of this process has its thread
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            batches = stream(ahead=True)
            os.write(writer, b"%d" % len([batches.next() for _ in range(3)]))
        finally:
            os._exit(0)
    ready, _, _ = select.select([reader], [], [], 60)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert ready
    assert os.read(reader, 1) == b"3"
