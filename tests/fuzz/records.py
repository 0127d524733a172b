"""Records, damaged at random, and every command that reads them.

A try is one file. Some are written as a stranger would: their id is right, so that they pass the
first check. Others are damaged as a disk does it. They stand in one folder with good records, which
every command must go on to show.
"""

import contextlib
import copy
import json
import os
import random
import string
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import example_masking
import example_records

import benchmarks.figures.__main__ as figures
from fuzz import Counts, attempt, commands, hostile, outputs
from gradsae.errors import UserError
from gradsae.records.record import Record, load_folder, record_id, save, text
from gradsae.storage.sealed import CHECKSUM, checksum_of

IN_ONE_FOLDER = 5
"""Fewer than a command leaves out of one page."""
DRAWN = 0.1
"""Share of the folders from which a figure is drawn, too: that takes longest."""
NUMBERS = (
    *(0, -1, 1, 2**31, 2**63, 2**64, 10**400, 0.0, -0.0, 1e-320, 1e99, 1e101, -1e300),
    *(float("nan"), float("inf"), 0.5, 7),
)
OTHERS = (None, True, False, [], {}, [[]], {"a": {}}, "", " ", "0", "nan", "\ud800", "x" * 5_000)
Change = Callable[[random.Random, dict[str, Any]], None]


def good_records() -> list[Record]:
    """One record of each kind and two seeds of those that tables and figures compare."""
    topk = {"name": "topk", "k": 32}
    samples = example_records.steering(topk, 0)
    rows = {"selector": ["mean_act"], "latents": ["1"], "mode": ["set"], "dose": [2.0]}
    samples.series["steering/samples"] = {**rows, "prompt": ["A"], "before": ["b"], "after": ["c"]}
    influence = example_records.influence(15, topk, 0, prompts=2)
    table = {**influence.config, "experiment": "influence_table"}
    recovery = (example_records.SUPERPOSITION, topk)
    return [
        *(example_records.grid(topk, seed, "regret_grid") for seed in (100, 101)),
        *(example_records.grid(topk, seed, "regret") for seed in (0, 1)),
        *(
            example_records.recovery(*recovery, seed, (0.9, 0.5), 20, experiment="known_features")
            for seed in (0, 1)
        ),
        example_records.lm_recovery(topk, 0, 20, 0.3),
        example_records.lm_consistency(topk, 0.4),
        example_records.swept("noise", topk, 0, noise=0.3),
        Record(**{**vars(influence), "config": table, "id": ""}),
        example_masking.masking(15, topk, 0),
        example_masking.budget(15, topk, 0),
        samples,
    ]


def campaign(n: int, seed: int) -> Counts:
    """Return what `n` damaged records did to the commands that read them."""
    rng = random.Random(seed)
    counts = Counts()
    sources = [json.loads(text(record)) for record in good_records()]
    while counts.tries < n:
        with tempfile.TemporaryDirectory() as root:
            _one_folder(rng, Path(root), sources, min(IN_ONE_FOLDER, n - counts.tries), counts)
    return counts


def _one_folder(
    rng: random.Random, root: Path, sources: list[dict[str, Any]], n: int, counts: Counts
) -> None:
    """Write good and damaged records into a folder, and run every command on it."""
    records, out = root / "a" / "records", root / "a" / "b"
    out.mkdir(parents=True)
    for record in good_records():
        save(record, records)
    (records / "mallory").mkdir()
    for _ in range(n):
        counts.tries += 1
        _write_damaged(rng, records, copy.deepcopy(rng.choice(sources)))
    loaded, _ = attempt(counts, "load", lambda: load_folder(records), UserError) or ([], [])
    counts.read += len(loaded) - len(sources)
    taken = [record.id for record in loaded if not _is_plain(vars(record))]
    counts.silent += len(taken)
    counts.notes += [f"taken for good: {name}" for name in taken]
    with commands.elsewhere(records, out):
        calls = commands.quick(records, out)
        if rng.random() < DRAWN:
            name = rng.choice([*figures.FIGURES])
            words = ("--records", str(records), "--out", str(out / "figures"), "--only", name)
            calls[f"figure {name}"] = lambda: commands.run(figures.main, *words)
        for name, call in calls.items():
            said = attempt(counts, name, call, UserError)
            if said is not None:
                _look_at(counts, name, said)
    faults = [fault for fault in outputs.faults_of_folder(out) if "number" not in fault]
    numbers = [fault for fault in outputs.faults_of_folder(out) if "number" in fault]
    counts.code_run += len(faults) + hostile.was_trapped(root)
    counts.silent += len(numbers)
    counts.notes += [f"written: {fault}" for fault in faults + numbers]


def _look_at(counts: Counts, name: str, said: commands.Said) -> None:
    """Count a command that was stopped, or that let a record steer the terminal."""
    refused = name == "publish" and "refused" in said.err
    if said.status and not refused:
        counts.tracebacks += 1
        counts.notes.append(f"stopped: {name}: {said.err[-300:]!r}")
    if letters := outputs.faults_of_terminal(said.out + said.err):
        counts.code_run += 1
        counts.notes.append(f"terminal: {name}: {letters}")


def _is_plain(value: Any) -> bool:
    """Return whether a value can be written, summed and squared: checked apart from our schema."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False, default=vars).encode("utf-8")
    except (ValueError, RecursionError):
        return False
    if isinstance(value, int | float):
        return abs(value) < 1e150
    inner = value.values() if isinstance(value, dict) else value
    return not isinstance(value, dict | list | tuple) or all(_is_plain(item) for item in inner)


def _write_damaged(rng: random.Random, folder: Path, data: dict[str, Any]) -> None:
    """Write one damaged file, whatever kind of file that is."""
    kind = rng.random()
    for _ in range(1 if kind < 0.7 else rng.randint(2, 6)):
        with contextlib.suppress(LookupError, TypeError, AttributeError, ValueError):
            rng.choice(CHANGES)(rng, data)
    with contextlib.suppress(ValueError, TypeError, LookupError, AttributeError, RecursionError):
        if rng.random() < 0.7:  # beside the good record, not in its place
            data["seeds"]["world"] = rng.randrange(10, 10**6)
        data["id"] = record_id(data["task"], data["config"], data["seeds"])
        del data[CHECKSUM]
        data[CHECKSUM] = checksum_of(data)
    name = str(data.get("id", "x"))
    name = name if name.isalnum() and len(name) < 50 else "x"
    path = folder / f"{name}.json"
    path = folder / "mallory" / f"{name}.json" if path.exists() else path
    path = path.with_stem(f"{rng.random()}") if path.exists() else path
    whole = json.dumps(data).encode("utf-8", "replace")
    if kind < 0.85:
        path.write_bytes(whole)
    elif kind < 0.97:
        path.write_bytes(_damaged(rng, whole))
    else:
        rng.choice(STRANGE)(path)


def _damaged(rng: random.Random, whole: bytes) -> bytes:
    """Return bytes with some of them flipped, cut or repeated."""
    place, size = rng.randrange(len(whole)), rng.randint(1, 200)
    flipped = bytes([whole[place] ^ (1 << rng.randrange(8))])
    return rng.choice(
        [
            whole[:place],
            whole[:place] + flipped + whole[place + 1 :],
            whole[:place] + whole[place + size :],
            whole[: place + size] + whole[place:],
            whole[:place] + rng.randbytes(size) + whole[place:],
        ]
    )


STRANGE: tuple[Callable[[Path], Any], ...] = (
    lambda path: path.symlink_to("/dev/zero"),
    lambda path: path.symlink_to(path),
    lambda path: os.mkfifo(path),
    lambda path: path.mkdir(),
    lambda path: path.write_bytes(b"[" * 200_000),
    lambda path: path.write_bytes(b" " * 20_000_001),
)


def _value(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(rng.choice([NUMBERS, OTHERS, hostile.TEXTS])))


def _place(rng: random.Random, data: dict[str, Any]) -> tuple[Any, Any]:
    """Return what holds some part of a record, and the key of it; long columns seldom."""
    places = [p for p in hostile.leaves(data) if len(p) < 4 or rng.random() < 0.02]
    path: list[Any] = list(rng.choice(places))
    inner: Any = data
    for key in path[:-1]:
        inner = inner[key]
    return inner, path[-1]


def _replace(rng: random.Random, data: dict[str, Any]) -> None:
    inner, key = _place(rng, data)
    inner[key] = _value(rng)


def _delete(rng: random.Random, data: dict[str, Any]) -> None:
    inner, key = _place(rng, data)
    del inner[key]


def _rename(rng: random.Random, data: dict[str, Any]) -> None:
    inner, key = _place(rng, data)
    names = [*hostile.TEXTS, "k", "label", "a/b", "rank.x", "".join(rng.choices(string.printable))]
    inner[rng.choice(names)] = inner.pop(key)


def _swap(rng: random.Random, data: dict[str, Any]) -> None:
    (one, i), (other, j) = _place(rng, data), _place(rng, data)
    one[i], other[j] = copy.deepcopy(other[j]), copy.deepcopy(one[i])


def _column(rng: random.Random, data: dict[str, Any]) -> None:
    """Give all cells of a column one value, or drop or empty the columns of a series."""
    table = data["series"][rng.choice([*data["series"]])]
    name = rng.choice([*table])
    kind = rng.randrange(4)
    if kind == 0:
        del table[name]
    elif kind == 1:
        table[name] = [_value(rng)] * len(table[name])
    elif kind == 2:
        data["series"] |= {k: {c: [] for c in t} for k, t in data["series"].items()}
    else:
        table[name] = rng.sample(table[name], len(table[name]))


def _score(rng: random.Random, data: dict[str, Any]) -> None:
    data["scores"][rng.choice([*data["scores"]])] = rng.choice(NUMBERS)


def _component(rng: random.Random, data: dict[str, Any]) -> None:
    """Change what names and sizes readers look up in a config."""
    part = data["config"].setdefault(rng.choice(["source", "trainer", "ask", "model", "fit"]), {})
    names = [
        "name",
        "site",
        "n_features",
        "width",
        "l0",
        "k",
        "settings",
        "prompts",
        "class",
        "htf",
    ]
    part[rng.choice([*names, *part])] = _value(rng)


CHANGES: tuple[Change, ...] = (
    *(_replace, _replace, _replace, _delete, _rename, _swap),
    *(_column, _column, _score, _component, _component),
)
