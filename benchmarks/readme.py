"""Tables of README.md that come from records: each stands between two markers of its name."""

from gradsae.errors import UserError
from gradsae.provenance import ROOT

README = ROOT / "README.md"


def replaced(text: str, name: str, table: str) -> str:
    """`text` with what stands between the markers of this name replaced."""
    begin, end = markers(name)
    head, found_begin, rest = text.partition(begin)
    _, found_end, tail = rest.partition(end)
    if not found_begin or not found_end:
        raise UserError(f"README.md must hold {begin} and, after it, {end}")
    return f"{head}{begin}\n{table}\n{end}{tail}"


def markers(name: str) -> tuple[str, str]:
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def plain(value: float, digits: int) -> str:
    """`.812`, `-.05`, `12.3`: no zero before the point."""
    return f"{value:.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.{digits}f}"
