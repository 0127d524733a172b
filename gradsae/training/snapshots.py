"""SAEs as they were on the way: written while a training runs, measured when it has ended.

The training loop knows no metric, and a task sees no training: between them lie files. Whoever
measures later loads what a checkpoint of that step would be, so thresholds and running means are
those that are read out, not those of a training step. Looking changes no weight: which steps are
kept is in no id.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from gradsae.errors import UserError
from gradsae.sae import model as saes
from gradsae.sae.dictionary import Dictionary
from gradsae.sae.model import Blank
from gradsae.storage.files import writing

KEPT_BYTES = 64_000_000
"""The snapshots of one SAE that stay for further metrics; where they take more, they are removed
as soon as their record is written, and another record trains anew."""


@final
@dataclass(frozen=True, kw_only=True)
class Snapshots:
    """The SAEs of one training after some of its steps, each in a folder named by its step."""

    folder: Path
    id: str
    """Of the checkpoint that the training ends with."""
    steps: Sequence[int]
    """Steps taken before each of them, rising; below the number of steps of the training."""

    def keep(self, sae: Dictionary, step: int) -> None:
        """Write the SAE after `step` steps, whole or not at all."""
        with writing("an SAE along its training", self.folder / str(step)) as fresh:
            sae.save(fresh, {"id": self.id, "step": step})

    def missing(self, last: int) -> list[int]:
        """Return the steps up to `last` of which there is no SAE."""
        return [step for step in self.steps if step <= last and not self._path(step).exists()]

    def load(self, step: int, device: torch.device, blank: Blank) -> Dictionary:
        """Return the SAE after `step` steps; UserError, naming the folder, if it is damaged."""
        path = self._path(step)
        try:
            extra = saes.read_meta(path)["extra"]
            if extra != {"id": self.id, "step": step}:
                raise UserError(f"{path}: this SAE says it is {extra!r:.80}")
            return saes.load(path, device, blank=blank)
        except UserError as error:
            raise UserError(f"{error}; delete {self.folder} to retrain") from error

    def trim(self) -> None:
        """Remove them if together they take more than `KEPT_BYTES`."""
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        if sum(path.stat().st_size for path in files) > KEPT_BYTES:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, step: int) -> Path:
        return self.folder / str(step)
