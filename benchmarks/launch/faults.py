"""Errors of Hydra and of the disk that end a run: one message each, and no traceback."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.errors import CompactHydraException
from omegaconf.errors import OmegaConfBaseException

from gradsae.errors import UnwritableError, UserError
from gradsae.storage.files import cannot_write, check_writable, unwritable

FULL_ERROR = "HYDRA_FULL_ERROR"

_results: list[Path] = []
"""The results folder of this process's run, once its configuration is composed."""


def begin(results: Path) -> None:
    """Make the results folder before Hydra writes there; end the command where it cannot be."""
    _results[:] = [results]
    with say_and_stop():
        check_writable(results)


@contextmanager
def say_and_stop() -> Iterator[None]:
    """End the command with one message if the results folder cannot be written.

    Hydra takes an ordinary exception of a job for the job's own, and warns of one of a callback;
    `SystemExit` ends all of them.
    """
    try:
        yield
    except UnwritableError as error:
        sys.stdout.flush()
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(1)


def run_hydra(job: Callable[[], None]) -> None:
    """Run Hydra's main function.

    Raises UserError for a configuration that cannot be composed, UnwritableError where Hydra
    cannot write its own files. HYDRA_FULL_ERROR=1 leaves the errors as they are.
    """
    if os.environ.get(FULL_ERROR) == "1":
        job()
        return
    os.environ[FULL_ERROR] = "1"  # Hydra then raises what it would print
    _results.clear()
    try:
        job()
    except CompactHydraException as error:
        cause = error.__cause__
        more = f"\n{cause}" if isinstance(cause, OmegaConfBaseException) else ""
        raise UserError(f"{error}{more}") from error
    except OmegaConfBaseException as error:
        raise UserError(str(error)) from error
    except (OSError, ValueError) as error:  # a ValueError: the log of a job cannot be opened
        cause = error.__cause__ if isinstance(error, ValueError) else error
        if _results and isinstance(cause, OSError) and unwritable(cause):
            raise cannot_write(_results[0], cause, "the files of a run") from error
        raise
    finally:
        del os.environ[FULL_ERROR]
