"""Files of weights, worlds, states and stores, damaged at random, and every loader of them."""

import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import test_formats as formats
import test_saelens_world as worlds
import torch
from test_saved_files import SAVED, TRAINERS, SavedStream
from toy import no_log

from fuzz import Counts, attempt
from gradsae.errors import UserError
from gradsae.sae import model as saes
from gradsae.sae.formats import load
from gradsae.sae.model import make_sae
from gradsae.seeds import make_generator
from gradsae.sources.saved_world import SavedWorld
from gradsae.sources.store import open_store
from gradsae.storage.cache import cached_folder, check_folder
from gradsae.storage.sealed import sealed
from gradsae.training.fit import FitSettings, Training, fit

Content = dict[str, Any]
"""What a loader made of its files: tensors and JSON values by name."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A kind of file, and who reads it."""

    name: str
    write: Callable[[Path], Any]
    read: Callable[[Path], Content]
    has_checksum: bool = False
    """Then no change may go unseen, unless the content is the same."""


def subjects() -> list[Subject]:
    trees = [{"feature_index": 0, "children": [{"feature_index": 3}]}]
    stated = {"hierarchy": {"total_root_nodes": 1}, **worlds.RANDOM}
    found = [
        Subject(
            name=f"{writer.__name__}",
            write=lambda folder, writer=writer: writer(folder, formats.parts()),
            read=read_sae,
            has_checksum=writer is formats.ours,
        )
        for writer in formats.WRITERS
    ]
    old = sorted((SAVED / "checkpoints").iterdir())
    found += [Subject(name=f"old {p.name}", write=partial(copy, p), read=read_sae) for p in old]
    states = sorted((SAVED / "trainings").iterdir())
    found += [
        Subject(
            name=f"old state {p.name}", write=partial(copy, p), read=partial(read_state, p.name)
        )
        for p in states
    ]
    new = {"has_checksum": True}
    return [
        *found,
        Subject(name="world", write=lambda f: worlds.write(f, None, {}), read=read_world),
        Subject(name="trees", write=lambda f: worlds.write(f, trees, stated), read=read_world),
        Subject(name="checkpoint", write=write_checkpoint, read=read_sae, **new),
        Subject(name="state", write=write_state, read=partial(read_state, "topk"), **new),
        Subject(name="old store", write=partial(copy, SAVED / "store"), read=read_store),
        Subject(name="store", write=write_store, read=read_store, **new),
        Subject(name="cached folder", write=write_cached, read=read_cached, **new),
    ]


def copy(folder: Path, target: Path) -> None:
    """Copy the files that a loader reads, but not what tests expect of them."""
    shutil.copytree(folder, target, dirs_exist_ok=True)
    for name in ("outputs.safetensors", "end.safetensors", ".lock"):
        (target / name).unlink(missing_ok=True)


def write_checkpoint(folder: Path) -> None:
    extra = {"id": "x", "seconds": 1.5, "curve": {"step": [0, 5], "loss": [1.0, 0.5]}}
    make_sae(d_in=4, d_sae=6, gate="topk", k=2).save(folder, extra)


def write_state(folder: Path) -> None:
    fit([training("topk", folder)], SavedStream(), STEPS, log=no_log)


def write_store(folder: Path) -> None:
    copy(SAVED / "store", folder)
    for note in folder.glob("*.json"):
        note.write_text(json.dumps(sealed(json.loads(note.read_text()))))


def write_cached(folder: Path) -> None:
    folder.rmdir()
    cached_folder(folder, lambda work: {"n": (work / "x.txt").write_text("text" * 20)})


STEPS = FitSettings(steps=6, batch_size=64, save_every=3)


def training(name: str, folder: Path) -> Training:
    trainer = TRAINERS[name]
    sae = trainer.build(SavedStream().batches[0], make_generator(1, "start"))
    return Training(trainer, sae, folder)


def read_sae(folder: Path) -> Content:
    content: Content = {"place": load.load(folder).place}
    if (folder / "sae.json").exists():
        content["meta"] = saes.read_meta(folder)
    return {**load.load(folder).sae.state_dict(), **content}


def read_state(name: str, folder: Path) -> Content:
    resumed = training(name, folder)
    position = resumed.resume(6)
    if not position:
        raise UserError("there is no state")
    moments = resumed.optimizer.state_dict()["state"]
    held = {f"{i}/{name}": tensor for i, each in moments.items() for name, tensor in each.items()}
    numbers = {"done": resumed.done, "seconds": resumed.seconds, "curve": resumed.curve}
    return {**resumed.sae.state_dict(), **held, **position, **numbers}


def read_world(folder: Path) -> Content:
    world = SavedWorld(folder=str(folder)).world()
    return {**vars(world), **vars(world.trees)}


def read_store(folder: Path) -> Content:
    store = open_store(folder)
    rows = {
        name: each.gather(torch.arange(len(each)))
        for name, each in vars(store).items()
        if name in ("train", "eval")
    }
    return {**rows, "outlier": store.eval_outlier, "counts": store.counts(), "d_in": store.d_in}


def read_cached(folder: Path) -> Content:
    manifest = check_folder(folder, verify=True)
    return {"manifest": manifest, "text": (folder / "x.txt").read_text()}


def is_same(a: Content, b: Content) -> bool:
    if a.keys() != b.keys():
        return False
    return all(
        torch.equal(a[key], b[key]) if isinstance(a[key], torch.Tensor) else a[key] == b[key]
        for key in a
    )


def is_finite(content: Content) -> bool:
    tensors = [value for value in content.values() if isinstance(value, torch.Tensor)]
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1.5, 10**12, 10**400, "", "x" * 999, "../../x", "\ud800", "\x00"),
    *([], {}, [1], {"a": 1}, [[[[]]]], ["topk"], "nan", float("nan"), float("inf"), -0.0, 3),
)
"""Values that stand in the place of others in a JSON file."""
NUMBERS = (float("nan"), float("inf"), -float("inf"), 3e38, 1e-45, 0.0)


def change(path: Path, dice: random.Random) -> str:
    """Damage one file, and say how."""
    changes = [flip, flip, flip, cut, grow, blank, shuffle, absent, other_kind]
    if path.suffix == ".json":
        changes += [odd_value] * 6
    if path.suffix == ".safetensors":
        changes += [odd_header] * 3 + [odd_number] * 3
    chosen = dice.choice(changes)
    chosen(path, dice)
    return f"{chosen.__name__} {path.name}"


def flip(path: Path, dice: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(dice.choice((1, 1, 1, 2, 8))):
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)


def cut(path: Path, dice: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: dice.randrange(len(content))])


def grow(path: Path, dice: random.Random) -> None:
    path.write_bytes(path.read_bytes() + dice.randbytes(dice.randrange(1, 40)))


def blank(path: Path, dice: random.Random) -> None:
    """Write zeros or chance over a part, as a disk does."""
    content = bytearray(path.read_bytes())
    start = dice.randrange(len(content))
    stop = min(len(content), start + dice.randrange(1, 64))
    content[start:stop] = dice.choice((bytes(stop - start), dice.randbytes(stop - start)))
    path.write_bytes(content)


def shuffle(path: Path, dice: random.Random) -> None:
    """Exchange the two parts of a file."""
    content = path.read_bytes()
    at = dice.randrange(len(content))
    path.write_bytes(content[at:] + content[:at])


def absent(path: Path, dice: random.Random) -> None:
    path.unlink()


def other_kind(path: Path, dice: random.Random) -> None:
    path.unlink()
    makers: list[Callable[[Path], Any]] = [os.mkfifo, os.mkdir, Path.touch]
    makers += [lambda p: p.symlink_to("/dev/zero"), lambda p: p.symlink_to(p)]
    dice.choice(makers)(path)


def odd_value(path: Path, dice: random.Random) -> None:
    """Put an odd value in the place of any other, or an odd key beside it; or take one out."""
    value = json.loads(path.read_text())
    places = list(places_in(value))
    holder, key = dice.choice(places)
    action = dice.random()
    if action < 0.75:
        holder[key] = dice.choice(ODD)
    elif action < 0.9:
        del holder[key]
    elif isinstance(holder, dict):
        holder[dice.choice(("", "x", "checksum", "\x00"))] = dice.choice(ODD)
    path.write_text(json.dumps(value) if dice.random() < 0.98 else "[" * 100_000)


def places_in(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield holder and key of every value inside a value."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from places_in(value[key])


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    content = path.read_bytes()
    n = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + n]), content[8 + n :]


def write_header(path: Path, header: Mapping[str, Any], data: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def odd_header(path: Path, dice: random.Random) -> None:
    """Give a tensor another dtype, shape, place or name."""
    header, data = header_of(path)
    name = dice.choice(sorted(set(header) - {"__metadata__"}))
    entry = header[name]
    match dice.randrange(4):
        case 0:
            entry["dtype"] = dice.choice(("I32", "F16", "BF16", "U8", "F64", "BOOL", "F8_E4M3"))
        case 1:
            entry["shape"] = dice.choice(
                (entry["shape"][::-1], [*entry["shape"], 1], [0], [], [-1], [10**12])
            )
        case 2:
            entry["data_offsets"] = dice.choice(([0, 0], [0, 10**12], entry["data_offsets"][::-1]))
        case _:
            header[dice.choice(("", "x", "W_enc", "b_dec", "state_", "a.b"))] = header.pop(name)
    write_header(path, header, data)


def odd_number(path: Path, dice: random.Random) -> None:
    """Put a number that is not finite, or hardly, into a tensor."""
    from safetensors.torch import load_file, save_file

    header, _ = header_of(path)
    tensors = load_file(path)
    name = dice.choice([name for name in sorted(tensors) if tensors[name].numel()])
    tensor = tensors[name].clone()
    flat = tensor.reshape(-1)
    if tensor.is_floating_point():
        flat[dice.randrange(len(flat))] = dice.choice(NUMBERS)
    else:
        flat[dice.randrange(len(flat))] = dice.choice((0, 1))
    save_file({**tensors, name: flat.reshape(tensor.shape)}, path, header.get("__metadata__"))


def campaign(n: int, seed: int, only: str = "") -> Counts:
    """Damage a file `n` times and read its folder; the same seed gives the same damage.

    `only` is a part of the names of the subjects that take part.
    """
    counts, dice = Counts(), random.Random(seed)
    with tempfile.TemporaryDirectory() as work:
        originals = []
        for i, subject in enumerate(each for each in subjects() if only in each.name):
            folder = Path(work) / f"original-{i}"
            folder.mkdir()
            subject.write(folder)
            originals.append((subject, folder, subject.read(folder)))
        for i in range(n):
            subject, folder, content = dice.choice(originals)
            copied = Path(work) / f"try-{i}"
            shutil.copytree(folder, copied)
            held = [path for path in sorted(copied.iterdir()) if path.stat().st_size]
            what = f"{i}: {subject.name}: {change(dice.choice(held), dice)}"
            counts.tries += 1
            result = attempt(counts, what, partial(subject.read, copied), UserError)
            if result is not None and not is_good(subject, result, content):
                counts.silent += 1
                counts.notes.append(f"silent: {what}")
            shutil.rmtree(copied)
    return counts


def is_good(subject: Subject, result: Content, content: Content) -> bool:
    return is_same(result, content) if subject.has_checksum else is_finite(result)
