"""One stream for many SAEs: which SAEs of a sweep are trained together, and when.

Sharing is only a prefetch. Each SAE ends up as the checkpoint that its own cell would have made,
so a cell finds it or, if anything failed here, trains it alone and reports the error.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import final

from gradsae.about import plain
from gradsae.errors import UnwritableError
from gradsae.records.record import content_id
from gradsae.storage.files import RESULTS
from gradsae.storage.lease import Lease
from gradsae.training import checkpoints
from gradsae.training.checkpoints import Request
from gradsae.training.fit import is_serial

BYTES_PER_WEIGHT = 4 * 4
"""A weight in float32, its gradient and Adam's two moments."""


@final
class Shared:
    """The SAEs that a sweep has to train, by cell; trained in groups, shortly before they are used.

    A group is trained when the first cell that needs it comes up, so that records appear as a
    sweep goes on and an interrupted one has its first cells done.
    """

    def __init__(self, requests: Sequence[Sequence[Request]]) -> None:
        self._cells = [{request.id() for request in cell} for cell in requests]
        self._groups: dict[str, dict[str, Request]] = {}
        for request in (request for cell in requests for request in cell):
            group = self._groups.setdefault(stream_key(request), {})
            group[request.id()] = _with_steps_of(group.get(request.id()), request)

    def train_for(self, cell: int) -> list[str]:
        """Train the groups that hold an SAE of this cell; return notes for the user.

        A group is tried once. What it could not train is left to the cells.
        """
        notes = []
        for key in [key for key, group in self._groups.items() if group.keys() & self._cells[cell]]:
            missing = [w for w in self._groups.pop(key).values() if not w.is_done()]
            try:
                for part in split(missing):
                    notes += _train_together(part)
            except Exception as error:  # a prefetch may fail without harm
                if isinstance(error, UnwritableError) and error.setting == RESULTS:
                    raise  # no cell could go on
                first = str(error).splitlines()[0] if str(error) else type(error).__name__
                notes.append(f"shared training stopped, each cell goes on alone: {first}")
        return notes


def _with_steps_of(other: Request | None, request: Request) -> Request:
    """Return a request that also keeps the SAEs on the way that another one of its SAE keeps."""
    along = {*request.along, *(other.along if other else ())}
    return replace(request, along=tuple(sorted(along)))


def _train_together(part: Sequence[Request]) -> list[str]:
    """Train those of a part that no other process trains; one alone is left to its own cell."""
    leases = {request.id(): Lease(request.lease()) for request in part}
    try:
        free = [r for r in part if leases[r.id()].take() and not r.is_done()]
        if len(free) < 2:
            return []  # its own cell trains it, and shows the curve as it grows
        outcomes = checkpoints.train(free, lambda i, step, parts: None)
    finally:
        for lease in leases.values():
            lease.give_back()
    done = [outcome for outcome in outcomes if not isinstance(outcome, Exception)]
    methods = ", ".join(dict.fromkeys(request.method.name for request in free))
    note = f"trained {len(done)} of {len(free)} SAEs ({methods}) on one stream"
    return [f"{note} of {free[0].source.name}"]


def stream_key(request: Request) -> str:
    """Return what SAEs must have in common to see the same batches at once."""
    return content_id(
        {
            "source": {"name": request.source.name, **request.source.identity()},
            "fit": plain(request.settings),
            "data": request.seeds.data,
            "where": [str(request.root), str(request.device)],
        }
    )


def split(group: Sequence[Request]) -> list[list[Request]]:
    """Return parts of a group that fit into memory together and compute on as many threads.

    Threads change the last bits of a sum: an SAE small enough for one thread stays among its like,
    so that it comes out as it does alone. Harvests, where that is due.
    """
    parts: list[tuple[bool, int, list[Request]]] = []
    for request in group:
        weights = request.method.d_sae * request.source.d_in
        serial = is_serial(weights * request.settings.batch_size)
        n_bytes = 2 * weights * BYTES_PER_WEIGHT  # encoder and decoder
        limit = request.settings.shared_gb * 1e9
        for i, (kind, filled, members) in enumerate(parts):
            if kind == serial and filled + n_bytes <= limit:
                members.append(request)
                parts[i] = (kind, filled + n_bytes, members)
                break
        else:
            parts.append((serial, n_bytes, [request]))
    return [members for _, _, members in parts]
