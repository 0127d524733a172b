"""One record that a reader cannot bear is found, named and left out; what remains is shown.

A record passes its checks and can still hold what a figure or a table does not expect: a series
without a column, a text where a number should be. No list of such cases is ever whole, so the
reader is simply tried.
"""

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from gradsae.errors import UserError
from gradsae.tables.printing import printable

T = TypeVar("T")
R = TypeVar("R")

MAX_CULPRITS = 10
"""Left out of one page or figure; where more would have to go, the fault is likely our own."""
MAX_PROBLEM = 600
"""Characters of a message."""


def tolerant(
    make: Callable[[Sequence[T]], R], items: Sequence[T], name: Callable[[T], str], where: str
) -> R:
    """Return what `make` makes of the items that it can bear; the others are named on stderr.

    UserError and OSError are for the user and not caught. If too many items would have to be left
    out, the last error is raised.

    Args:
        make: What is made. It is called again without an item that it failed on.
        items: Records, entries or settings.
        name: What to call an item.
        where: What the item is left out of.
    """
    rest = list(items)
    n_culprits = 0
    while True:
        try:
            return make(rest)
        except (UserError, OSError):  # of the words of the command, or of the disk
            raise
        except Exception as error:
            if n_culprits == MAX_CULPRITS or not rest:
                raise
            culprit = rest.pop(_first_culprit(make, rest))
            n_culprits += 1
            leave_out(f"{name(culprit)}, of {where}: {reason(error)}")


def _first_culprit(make: Callable[[Sequence[T]], R], items: Sequence[T]) -> int:
    """Return the place of the last item of the shortest beginning that `make` fails on."""
    low, high = 0, len(items)  # it bears items[:low] and fails on items[:high]
    while high - low > 1:
        middle = (low + high) // 2
        try:
            make(items[:middle])
            low = middle
        except UserError:  # too few records for it; that is no fault of theirs
            low = middle
        except OSError:
            raise
        except Exception:
            high = middle
    return high - 1


def reason(error: Exception) -> str:
    """Return why something failed, in one line."""
    if isinstance(error, KeyError):
        return f"it has no {error}"
    return f"{error} ({type(error).__name__})"


def leave_out(problem: str) -> None:
    """Name on stderr what the command goes on without, in one line that a terminal can show."""
    print(f"left out: {printable(problem, MAX_PROBLEM)}", file=sys.stderr, flush=True)
