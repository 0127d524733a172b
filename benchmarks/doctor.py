"""Check what runs have left: every checksum of a results folder and of the cache is compared.

python -m benchmarks.doctor                     results/local and the cache; nothing is changed
python -m benchmarks.doctor DIR --fix           delete what is damaged or left over
python -m benchmarks.doctor DIR --fix --reclaim delete also what no record names

What is deleted is made again when a run needs it: an SAE is trained, activations are read, a model
is fetched. A damaged record is never deleted: it gets the ending `.damaged`, and its cell is due.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, final

from benchmarks.launch.command import MAX_LINE, command
from benchmarks.places import LOCAL
from gradsae.errors import UserError
from gradsae.tables.printing import printable_lines

State = Literal["damaged", "left over", "reclaimable", "no checksum"]
OLD_SECONDS = 3600
"""An unfinished file of a process of another machine counts as left over after this time."""


@final
@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is not as a finished run leaves it."""

    state: State
    path: Path
    reason: str
    remove: tuple[Path, ...] = ()
    """What `--fix` or `--reclaim` deletes."""
    rename: bool = False
    """`--fix` gives the file another ending instead."""


def check(results: Path, cache: Path) -> Iterator[Finding]:
    """Yield all findings in a results folder and in the cache."""
    yield from unfinished(results)
    yield from stale_leases(results / "leases")
    named: set[str] = set()
    yield from records(results / "records", named)
    yield from checkpoints(results / "checkpoints", named)
    yield from trainings(results / "training", results / "checkpoints")
    yield from along(results / "along", results / "training", named)
    yield from stores(results / "activations", named)
    if cache.resolve() != results.resolve():
        yield from unfinished(cache)
        yield from stores(cache / "activations", None)
    yield from cached(cache)


def unfinished(folder: Path) -> Iterator[Finding]:
    """Yield files and folders that a process began and did not finish."""
    from gradsae.storage.process import is_gone

    for path in [*folder.rglob("*.partial"), *folder.rglob("*.part")]:
        tag = path.name.removesuffix(".partial").rpartition(".")[2]
        if not path.exists() or any(above.suffix == ".partial" for above in path.parents):
            continue
        if is_gone(tag) or time.time() - path.stat().st_mtime > OLD_SECONDS:
            reason = "a process that has ended did not finish it"
            yield Finding(state="left over", path=path, reason=reason, remove=(path,))


def stale_leases(folder: Path) -> Iterator[Finding]:
    from gradsae.storage.lease import holder_of, is_held

    for path in entries(folder):
        holder = holder_of(path)
        if not is_held(path):
            yield Finding(state="left over", path=path, reason=f"{holder} has ended")


def records(folder: Path, named: set[str]) -> Iterator[Finding]:
    """Yield damaged records, and those without a checksum; add the artifacts of those that can be
    read to `named`."""
    from gradsae.records.record import load
    from gradsae.records.schema import has_checksum

    for path in sorted(folder.rglob("*.json")):
        try:
            record = load(path)
        except UserError as error:
            yield Finding(state="damaged", path=path, reason=str(error), rename=True)
            continue
        named |= {str(name) for name in record.artifacts.values() if name}
        if not has_checksum(vars(record)):
            yield Finding(state="no checksum", path=path, reason="an earlier version wrote it")


def checkpoints(folder: Path, named: set[str]) -> Iterator[Finding]:
    """Yield damaged checkpoints, those without a checksum, and those that no record names."""
    from gradsae.sae.model import read_meta
    from gradsae.storage.sealed import is_sealed
    from gradsae.storage.tensors import has_checksum

    for path in entries(folder):
        weights = path / "sae.safetensors"
        try:
            if (said := read_meta(path)["extra"].get("id")) != path.name:
                raise UserError(f"{path}: its id must be {path.name}, got {said!r:.60}")
            check_tensors(weights)
        except UserError as error:
            yield Finding(state="damaged", path=path, reason=str(error), remove=(path,))
            continue
        if not (is_sealed(path / "sae.json") and has_checksum(weights)):
            yield Finding(state="no checksum", path=path, reason="an earlier version wrote it")
        if path.name not in named:
            reason = "no record names this SAE (consistency and grids use some that none names)"
            yield Finding(state="reclaimable", path=path, reason=reason, remove=(path,))


def along(folder: Path, training: Path, named: set[str]) -> Iterator[Finding]:
    """Yield damaged SAEs on their way, and those that no record and no training leads to."""
    for path in entries(folder):
        for step in entries(path):
            yield from damaged(step, lambda step=step: check_sae(step), (path,))
        if path.name not in named and not (training / path.name).exists():
            reason = "no record names the SAE to which these lead"
            yield Finding(state="reclaimable", path=path, reason=reason, remove=(path,))


def trainings(folder: Path, finished: Path) -> Iterator[Finding]:
    """Yield damaged training states, and those whose SAE is finished."""
    for path in entries(folder):
        state = path / "state.safetensors"
        if (finished / path.name).exists():
            reason = "its SAE is finished"
            yield Finding(state="left over", path=path, reason=reason, remove=(path,))
        elif state.exists():
            yield from damaged(state, lambda file=state: check_tensors(file), (path,))


def stores(folder: Path, named: set[str] | None) -> Iterator[Finding]:
    """Yield damaged files of activation stores, and the stores that no record names."""
    from gradsae.sources.store import META, is_complete, open_store

    for path in entries(folder):
        meta, found = path / META, list(_parts(path))
        yield from found
        if meta.exists():  # the rows are compared with it where nothing else is wrong
            look = is_complete if found else open_store
            yield from damaged(meta, partial(look, path), (meta,))
        if named is not None and path.name not in named:
            reason = "no record names these activations"
            yield Finding(state="reclaimable", path=path, reason=reason, remove=(path,))


def _parts(store: Path) -> Iterator[Finding]:
    """Yield damaged shards of a store, and its calibration if that is damaged."""
    from gradsae.sources.store import read_note, read_shard

    for note in [*sorted(store.glob("train-*.json")), *sorted(store.glob("eval-*.json"))]:
        both = (note, note.with_suffix(".safetensors"))
        yield from damaged(note, lambda note=note: read_shard(note).check(store), both)
    calibration = store / "calibration.json"
    if calibration.exists():
        look = partial(read_note, calibration, ["median_norm"], "delete it")
        yield from damaged(calibration, look, (calibration,))


def cached(cache: Path) -> Iterator[Finding]:
    """Yield damaged folders of the cache: models, texts, wheels, dictionaries."""
    from gradsae.storage.cache import MANIFEST, check_folder

    for manifest in sorted(cache.glob(f"*/*/{MANIFEST}")):
        path = manifest.parent
        yield from damaged(path, lambda path=path: check_folder(path, verify=True), (path,))


def damaged(path: Path, look: Callable[[], object], remove: tuple[Path, ...]) -> Iterator[Finding]:
    """Yield what a check says, if it says anything."""
    try:
        look()
    except UserError as error:
        yield Finding(state="damaged", path=path, reason=str(error), remove=remove)


def check_tensors(path: Path) -> None:
    """Raise UserError unless a file of ours is whole and its numbers are finite."""
    from gradsae.sae.weights import check_numbers
    from gradsae.storage.tensors import read_tensors

    for name, tensor in read_tensors(path, own=True).items():
        if tensor.is_floating_point():
            check_numbers(name, tensor, path)


def check_sae(folder: Path) -> None:
    """Raise UserError unless both files of an SAE are whole."""
    from gradsae.sae.model import read_meta

    read_meta(folder)
    check_tensors(folder / "sae.safetensors")


def entries(folder: Path) -> list[Path]:
    """Return what stands in a folder, finished; nothing if there is no such folder."""
    held = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in held if path.suffix != ".partial"]


def mend(finding: Finding) -> None:
    """Delete or rename what is not in order."""
    from gradsae.storage.files import remove

    if finding.rename:
        finding.path.rename(f"{finding.path}.damaged")
    for path in finding.remove:
        remove(path)


def n_bytes(*folders: Path) -> int:
    files = {file.resolve() for folder in folders for file in folder.rglob("*") if file.is_file()}
    return sum(file.stat().st_size for file in files)


def doctor(args: argparse.Namespace) -> int:
    """Check, mend what was asked for, print one line for each finding and one sum."""
    from gradsae.storage.cache import cache_root
    from gradsae.storage.lease import is_held

    cache = args.cache or cache_root()
    if not args.results.is_dir() and not cache.is_dir():
        raise UserError(f"there is neither a results folder {args.results} nor a cache {cache}")
    busy = [path for path in entries(args.results / "leases") if is_held(path)]
    if (args.fix or args.reclaim) and busy:
        raise UserError(f"a run works in {args.results} now ({busy[0].name}): mend it afterwards")
    started, gigabytes = time.perf_counter(), n_bytes(args.results, cache) / 1e9
    findings = list(check(args.results, cache))
    chosen = {"damaged", "left over"} if args.fix else set()
    chosen |= {"reclaimable"} if args.reclaim else set()
    for finding in findings:
        is_mended = finding.state in chosen
        if is_mended:
            mend(finding)
        mark = " (mended)" if is_mended else ""
        line = f"{finding.state}{mark}: {finding.path}: {finding.reason}"
        print(printable_lines(line, MAX_LINE))
    states = [finding.state for finding in findings]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    seconds = time.perf_counter() - started
    print(f"checked {gigabytes:.2f} GB in {seconds:.1f} s: {counts or 'all in order'}")
    return states.count("damaged") if "damaged" not in chosen else 0


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.doctor", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("results", type=Path, nargs="?", default=LOCAL.parent, metavar="DIR")
    parser.add_argument("--cache", type=Path, help="folder of the cache; that of GRADSAE_CACHE")
    parser.add_argument("--fix", action="store_true", help="delete what is damaged or left over")
    parser.add_argument("--reclaim", action="store_true", help="delete what no record names")
    return parser.parse_args(argv)


def main() -> None:
    if doctor(parse()):
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(command(main))
