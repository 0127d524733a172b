"""The one printer of tables: aligned text for a terminal, or Markdown."""

from collections.abc import Sequence

from benchmarks.results.declared import printable

MAX_CELL = 200
"""Characters of a cell in a terminal."""


def console_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return aligned columns under a rule; columns of numbers are set flush right."""
    cells = [[printable(text, MAX_CELL) for text in row] for row in [headers, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [all(map(_is_numeric, column[1:])) for column in zip(*cells, strict=True)]

    def line(row: Sequence[str]) -> str:
        parts = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, numeric, strict=True)
        ]
        return "  ".join(parts).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])])


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table. Cells are Markdown themselves: escape what strangers wrote."""
    return "\n".join(map(_line, [headers, ["---"] * len(headers), *rows]))


def _line(cells: Sequence[str]) -> str:
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


def _is_numeric(text: str) -> bool:
    return text[:1] in set("0123456789+-.") or text == ""
