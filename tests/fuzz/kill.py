"""Kill a tiny sweep again and again: what it ends with must be what it would have been, bit by bit.

python -m tests.fuzz.kill [--kills N] [--seed S]     one line at its end

A sweep trains three SAEs on one stream, reads a store of activations and measures four cells. A
child process runs it, is killed at a chance moment or at a chosen one (before, inside or after a
write, a rename or a removal), and the next child goes on in the same folder.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch

from benchmarks.doctor import check
from benchmarks.places import CONF
from gradsae.bench.cell import Cell, build
from gradsae.bench.experiment import due, run
from gradsae.records.record import load
from gradsae.sae.model import read_meta
from gradsae.training.sharing import Shared

TINY = [
    *("source=superposition", "source.n_features=12", "source.width=8", "source.l0=2"),
    *("d_sae=16", "k=2", "fit.steps=30", "fit.batch_size=64", "fit.init_rows=256"),
    *("fit.save_every=5", "metric=[recovery]"),
]
LAYER = [
    *("source=lm_tiny", "d_sae=16", "k=2", "fit.steps=20", "fit.batch_size=64"),
    *("fit.init_rows=128", "fit.save_every=5", "metric=[reconstruction]"),
]
CELLS = [
    *([*TINY, f"trainer={name}"] for name in ("topk", "l1", "gated")),
    [*LAYER, "trainer=topk"],
]
Phase = Literal["before", "inside", "after"]
PHASES: tuple[Phase, ...] = ("before", "inside", "after")
ERROR = "error.txt"
MOST_IN_A_ROW = 8
"""Kills of one sweep, before it may end."""


@dataclass
class Outcome:
    """What the kills did."""

    kills: int = 0
    sweeps: int = 0
    damaged: int = 0
    """Files that did not stand their checksum after a kill."""
    wrong: int = 0
    """Sweeps that ended with another number, or a file more or less."""
    failed: int = 0
    """Sweeps that ended with an error."""
    notes: list[str] = field(default_factory=list)

    def bad(self) -> int:
        return self.damaged + self.wrong + self.failed

    def line(self) -> str:
        return (
            f"kills: {self.kills} in {self.sweeps} sweeps, {self.damaged} damaged files, "
            f"{self.wrong} sweeps with another end, {self.failed} that failed"
        )


Words = list[list[str]]
"""The words of each cell of a sweep."""


@cache
def composed(words: tuple[str, ...]) -> Any:
    """Return the configuration of a cell, made once: that takes longer than the cell."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", [*words, "tracking=none", "device=cpu"])


def cells(results: Path, words: Words) -> list[Cell]:
    built = []
    for each in words:
        config = composed(tuple(each)).copy()
        config.results = str(results)
        built.append(build(config))
    return built


def sweep(results: Path, words: Words) -> None:
    """Do what the launcher does with these cells."""
    built = cells(results, words)
    shared = Shared([due(cell) for cell in built])
    for i, cell in enumerate(built):
        shared.train_for(i)
        run(cell)


def ending(results: Path) -> dict[str, Any]:
    """Return all that must be equal, by file: weights, curves, rows, scores."""
    content: dict[str, Any] = {}
    for path in sorted((results / "checkpoints").iterdir()):
        tensors = safetensors.torch.load_file(path / "sae.safetensors")
        content[path.name] = {name: tensor.tolist() for name, tensor in tensors.items()}
        content[f"{path.name} curve"] = read_meta(path)["extra"]["curve"]
    for path in sorted((results / "activations").rglob("*.*")):
        if path.suffix in (".safetensors", ".json"):
            content[str(path.relative_to(results))] = path.read_bytes()
    for path in sorted((results / "records").iterdir()):
        record = load(path)
        content[path.name] = [record.id, record.scores, record.series, record.artifacts]
    left = [path for path in results.rglob("*") if path.suffix == ".partial"]
    content["unfinished"] = sorted(map(str, left))
    content["training"] = sorted(path.name for path in (results / "training").glob("*"))
    return content


class Moments:
    """Counts what a process does to its disk, and kills it at one of these moments."""

    def __init__(self, target: int, phase: Phase) -> None:
        self.target, self.phase = target, phase
        self.paths: list[str] = []
        """What each moment changed."""

    def hook(self, act: Callable[..., Any], halve: Callable[..., None] | None) -> Any:
        """Return the function `act` with a look before and after; `halve` does half of it."""

        def hooked(*args: Any, **words: Any) -> Any:
            self.paths.append(str(args[1] if act is SAVE else args[0]))
            is_due = len(self.paths) == self.target
            if is_due and self.phase == "inside" and halve is not None:
                halve(*args, **words)
            if is_due and self.phase != "after":
                kill_self()
            answer = act(*args, **words)
            if is_due:
                kill_self()
            return answer

        return hooked


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def half_text(path: Path, text: str, **_: Any) -> None:
    with path.open("w") as file:
        file.write(text[: len(text) // 2])


def half_bytes(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data[: len(data) // 2])


SAVE = safetensors.torch.save_file


def half_tensors(tensors: Any, path: Path, *more: Any) -> None:
    SAVE(tensors, path, *more)
    os.truncate(path, path.stat().st_size // 2)


def half_removed(path: Any, **_: Any) -> None:
    for file in [file for file in Path(path).rglob("*") if file.is_file()][:1]:
        file.unlink()


@contextmanager
def watched(moments: Moments) -> Iterator[None]:
    """Let all that changes the disk pass by `moments`."""
    places: list[tuple[Any, str, Callable[..., None] | None]] = [
        *((Path, "write_text", half_text), (Path, "write_bytes", half_bytes)),
        *((Path, "replace", None), (Path, "unlink", None), (Path, "mkdir", None)),
        *((os, "link", None), (os, "fsync", None), (shutil, "rmtree", half_removed)),
        (safetensors.torch, "save_file", half_tensors),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
    for owner, name, halve in places:
        setattr(owner, name, moments.hook(getattr(owner, name), halve))
    try:
        yield
    finally:
        for owner, name, act in before:
            setattr(owner, name, act)


def child(results: Path, words: Words, moments: Moments, seconds: float | None) -> int:
    """Run the sweep in a child that is killed at a moment or after some seconds; return its end."""
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(results / ERROR, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        try:
            with watched(moments):
                sweep(results, words)
        except BaseException as reason:
            os.write(2, f"{type(reason).__name__}: {reason}".encode())
            os._exit(1)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


class Kills:
    """A campaign: the sweep, how it ends, and how much there is to interrupt."""

    def __init__(self, work: Path, words: Words, seed: int) -> None:
        self.work, self.words = work, words
        self.dice, self.outcome = random.Random(seed), Outcome()
        whole, counted = work / "whole", Moments(0, "before")
        whole.mkdir()
        sweep(whole, words)  # once for all that is compiled and loaded
        shutil.rmtree(whole)
        whole.mkdir()
        started = time.perf_counter()
        with watched(counted):
            sweep(whole, words)
        self.seconds, self.paths = time.perf_counter() - started, counted.paths
        self.expected = ending(whole)

    def one_sweep(self, n_kills: int) -> None:
        """Kill one sweep some times, let it end, and compare the end."""
        results = self.work / f"sweep-{self.outcome.sweeps}"
        results.mkdir()
        self.outcome.sweeps += 1
        while n_kills > 0 and self.kill(results):
            n_kills -= 1
        self.end(results)

    def end(self, results: Path) -> None:
        """Let a sweep come to its end, and compare that."""
        status = child(results, self.words, Moments(0, "before"), None)
        if status != 0:
            self.outcome.failed += 1
            self.outcome.notes.append(f"{results.name}: {(results / ERROR).read_text()[:300]}")
        elif (end := ending(results)) != self.expected:
            self.outcome.wrong += 1
            self.outcome.notes.append(f"{results.name}: {differences(end, self.expected)}")
        shutil.rmtree(results)

    def kill(self, results: Path) -> bool:
        """Kill a child at a chosen moment, or at a random one; return False if it ended before."""
        moments, seconds = Moments(0, "before"), None
        if self.dice.random() < 0.7:
            target = self.dice.randrange(1, len(self.paths) + 1)
            moments = Moments(target, self.dice.choice(PHASES))
        else:
            seconds = self.dice.random() * self.seconds
        return self.kill_at(results, moments, seconds)

    def kill_at(self, results: Path, moments: Moments, seconds: float | None = None) -> bool:
        """Kill a child, and count the files that are damaged then."""
        status = child(results, self.words, moments, seconds)
        found = [each for each in check(results, results) if each.state == "damaged"]
        self.outcome.damaged += len(found)
        self.outcome.notes += [f"{results.name}: {each.path}: {each.reason}" for each in found]
        self.outcome.kills += os.WIFSIGNALED(status)
        return os.WIFSIGNALED(status)


def campaign(n: int, seed: int, words: Words = CELLS) -> Outcome:
    """Kill sweeps `n` times; the same seed chooses the same moments."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        kills = Kills(Path(work), words, seed)
        while kills.outcome.kills < n:
            most = n - kills.outcome.kills
            kills.one_sweep(min(kills.dice.randrange(1, MOST_IN_A_ROW + 1), most))
    return kills.outcome


def differences(a: dict[str, Any], b: dict[str, Any]) -> str:
    odd = [name for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name)]
    return ", ".join(f"{name}: {a.get(name)!r:.80}" for name in odd[:4])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.kill", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    started = time.perf_counter()
    outcome = campaign(args.kills, args.seed)
    for note in outcome.notes:
        print(note)
    print(f"{outcome.line()}, {time.perf_counter() - started:.0f} s")
    sys.exit(bool(outcome.bad()))


if __name__ == "__main__":
    main()
