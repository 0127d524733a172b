"""What a command names: an SAE, the world it is scored on, and the rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from benchmarks.places import PUBLISHED
from benchmarks.results.declared import about_method
from benchmarks.synthsaebench.terms import in_their_terms
from gradsae.api.saes import load_sae
from gradsae.api.train import make_source
from gradsae.bench import catalogue
from gradsae.errors import UserError
from gradsae.interfaces import KnownSource, Source
from gradsae.records.record import Record, load
from gradsae.sae import model as saes
from gradsae.sae.dictionary import Dictionary
from gradsae.sources.saved_world import SavedWorld
from gradsae.storage.files import expanded

WORLD = "synthsaebench_16k"
ROWS = 8192


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """An SAE and the held-out rows to score it on."""

    title: str
    sae: Dictionary
    source: KnownSource
    n_rows: int
    seed: int
    recorded: Mapping[str, float]
    """The scores of its record under their names; empty where there is no record."""


def asked_of(
    name: str, results: Path, world: str | None, n_rows: int | None, seed: int | None
) -> Asked:
    """Return what a name on the command line stands for.

    Args:
        name: Id of a record, or its beginning; file of a record; or a folder of an SAE.
        results: Folder with the records and checkpoints of this machine.
        world: Preset or folder of a world; None for that of the record, or WORLD.
        n_rows: Held-out rows; None for those of the record, or ROWS.
        seed: Seed of the rows; None for that of the record, or 0.

    Raises:
        UserError: There is no such record or folder, its SAE is not on this machine, or the world
            cannot be made.
    """
    path = expanded(name)
    if path.is_dir():
        source = _known(world or WORLD)
        rows = n_rows or ROWS
        return _checked(
            Asked(
                title=name,
                sae=_loaded(path),
                source=source,
                n_rows=rows,
                seed=seed or 0,
                recorded={},
            )
        )
    record = load(path if path.is_file() else _record_file(name, results))
    sae = _loaded(_checkpoint(record, results))
    same = world is None and n_rows is None and seed is None
    return _checked(
        Asked(
            title=f"{about_method(record).label} (record {record.id})",
            sae=sae,
            source=_known(world) if world else _source_of(record),
            n_rows=n_rows or _rows_of(record),
            seed=record.seeds["eval"] if seed is None else seed,
            recorded=in_their_terms(record.scores, sae.d_sae) if same else {},
        )
    )


def _checked(asked: Asked) -> Asked:
    if asked.sae.d_in != asked.source.d_in:
        raise UserError(
            f"{asked.title}: the SAE reads activations of width {asked.sae.d_in}, those of the "
            f"world have {asked.source.d_in}; name its world with --world"
        )
    return asked


def _record_file(name: str, results: Path) -> Path:
    folders = [results / "records", PUBLISHED]
    paths = [path for folder in folders for path in sorted(folder.glob("*.json"))]
    matches = {path.stem: path for path in reversed(paths) if path.stem.startswith(name)}
    if len(matches) != 1:
        raise UserError(
            f"{name}: {len(matches)} records begin so in {' and '.join(map(str, folders))}, and "
            "it is no folder; name one record, or the folder of an SAE"
        )
    return next(iter(matches.values()))


def _checkpoint(record: Record, results: Path) -> Path:
    folder = results / "checkpoints" / str(record.artifacts["checkpoint"])
    if not folder.is_dir():
        raise UserError(
            f"the SAE of record {record.id} is not here: there is no {folder}. Its command trains "
            f"it: {record.provenance['command']}"
        )
    return folder


def _loaded(folder: Path) -> Dictionary:
    """Return the SAE of a folder; one of ours with an encoder of its own is made by its method."""
    if not (folder / "sae.json").is_file():
        return load_sae(folder).sae.requires_grad_(False)
    config = saes.read_meta(folder)["extra"].get("trainer")
    method = catalogue.rebuild_trainer(config) if isinstance(config, dict) else None
    return saes.load(folder, blank=method.blank if method else None).requires_grad_(False)


def _source_of(record: Record) -> KnownSource:
    config = record.config.get("source")
    source = catalogue.rebuild_source(config) if isinstance(config, dict) else None
    if not isinstance(source, KnownSource):
        raise UserError(
            f"record {record.id}: its world cannot be made from the record alone; name it with "
            "--world (a preset, or a folder that sae-lens saved)"
        )
    return source


def _known(world: str) -> KnownSource:
    """Return the world of a preset's name or of a folder."""
    folder = expanded(world)
    source: Source = SavedWorld(folder=world) if folder.is_dir() else make_source(world, 0)
    if not isinstance(source, KnownSource):
        raise UserError(f"--world {world}: its features are not known; name a synthetic world")
    return source


def _rows_of(record: Record) -> int:
    """Return the number of rows on which the record's latents were scored."""
    n: Any = record.n.get("latents/rows", ROWS)
    return int(n)
