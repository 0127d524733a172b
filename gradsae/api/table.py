"""The one kind of result: named columns with a title and notes, which a notebook shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple, final

from gradsae.errors import UserError
from gradsae.tables.printing import console_table

if TYPE_CHECKING:
    import jinja2
    import pandas

MOST_ROWS = 30
"""Rows that are shown; `rows`, `columns` and `to_pandas` hold all of them."""
MOST_LETTERS = 60
"""Letters of a text in the plain view."""


class Token(NamedTuple):
    """One token of a text above a table."""

    text: str
    shade: float = 0.0
    """From 0 (none) to 1 (the strongest of the text)."""
    hint: str = ""
    """Shown under the pointer."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """Columns of one length by name, with what a reader needs to read them.

    A notebook shows it as HTML, a terminal as plain text. `len(table)` is the number of rows and
    `table["name"]` one column. Readers see the heads and labels; code uses the names.

    Example:
        >>> table = Table(title="Two latents", columns={"latent": [7, 3], "effect": [0.5, -0.1]})
        >>> table.rows[0]
        {'latent': 7, 'effect': 0.5}
        >>> print(table)
        Two latents
        latent  effect
        ------  ------
             7     0.5
             3    -0.1
    """

    title: str
    columns: Mapping[str, Sequence[Any]]
    notes: Sequence[str] = ()
    """Sentences below the table."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Head of a column, where it is not the column's name."""
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By column: the label that a reader sees in place of a name."""
    bars: Sequence[str] = ()
    """Columns of numbers that HTML shows as bars, all on one scale."""
    tokens: Sequence[Token] = ()
    """A text above the table."""
    parts: Mapping[str, "Table"] = field(default_factory=dict)
    """Further tables that belong to this one, shown below it."""

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in self.columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the columns of a table must be equally long, got {lengths}")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def __getitem__(self, name: str) -> Sequence[Any]:
        if name not in self.columns:
            raise UserError(f"there is no column {name!r}; the columns are {self._names()}")
        return self.columns[name]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows, each by the names of the columns."""
        return [
            dict(zip(self.columns, values, strict=True))
            for values in zip(*self.columns.values(), strict=True)
        ]

    def to_pandas(self) -> "pandas.DataFrame":
        """Return the table as a data frame, with its title and notes in `attrs`.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            from pandas import DataFrame
        except ImportError:
            raise UserError("to_pandas needs pandas: pip install pandas") from None
        frame = DataFrame({name: list(column) for name, column in self.columns.items()})
        frame.attrs |= {"title": self.title, "notes": list(self.notes)}
        return frame

    def __repr__(self) -> str:
        """Return the table as plain text, with its parts below."""
        lines = [_one_line(self.title), *self._lines(), *map(_one_line, self.notes)]
        return "\n".join([*lines, *(f"\n{part!r}" for part in self.parts.values())])

    def _repr_html_(self) -> str:
        """Return the table as one HTML element with its own style; text from outside is escaped."""
        return _template().render(table=self, cells=self._cells(), most=MOST_ROWS)

    def _names(self) -> str:
        return ", ".join(self.columns)

    def _lines(self) -> list[str]:
        """Return the head and the first rows."""
        heads = [self.headers.get(name, name) for name in self.columns]
        if not len(self):
            return [f"(no rows; columns: {', '.join(heads)})"]
        columns = [
            [_one_line(self._text(name, value)) for value in column[:MOST_ROWS]]
            for name, column in self.columns.items()
        ]
        table = console_table(
            heads,
            list(zip(*columns, strict=True)),
            numeric=[_is_number(column) for column in self.columns.values()],
            max_cell=MOST_LETTERS,
        )
        n_hidden = len(self) - MOST_ROWS
        return [table, *([f"... and {n_hidden} more rows"] if n_hidden > 0 else [])]

    def _text(self, column: str, value: Any) -> str:
        """Return what a reader sees of one value."""
        labels = self.labels.get(column, {})
        return labels[value] if isinstance(value, str) and value in labels else show(value)

    def _cells(self) -> list[list["Cell"]]:
        """Return what HTML shows of the first rows, column by column."""
        values = [v for name in self.bars for v in self.columns[name] if _is_finite(v)]
        most = max((abs(value) for value in values), default=0.0) or 1.0
        cells = []
        for name, column in self.columns.items():
            number = _is_number(column)
            cells.append(
                [
                    Cell(
                        text=self._text(name, value),
                        is_number=number,
                        bar=50 * value / most if name in self.bars and _is_finite(value) else None,
                    )
                    for value in column[:MOST_ROWS]
                ]
            )
        return [list(row) for row in zip(*cells, strict=True)]


class Cell(NamedTuple):
    """One cell as HTML shows it."""

    text: str
    is_number: bool
    bar: float | None
    """Length in per cent of the cell, negative to the left of its middle; None for no bar."""

    @property
    def start(self) -> float:
        """Where the bar begins, in per cent of the cell."""
        return 50 + min(0.0, self.bar or 0.0)

    @property
    def length(self) -> float:
        """Length of the bar, in per cent of the cell."""
        return abs(self.bar or 0.0)


def show(value: Any) -> str:
    """Return a value for a reader: numbers to three digits, nothing for None, blanks in quotes."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str) and value and not value.strip():
        return repr(value)
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and isfinite(value)


def _is_number(column: Sequence[Any]) -> bool:
    return all(value is None or type(value) in (int, float) for value in column)


def _one_line(text: str) -> str:
    """Return a text with line breaks written as `\\n`, and so all that would steer a terminal."""
    return text if text.isprintable() else repr(text)[1:-1]


@lru_cache(maxsize=1)
def _template() -> "jinja2.Template":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("gradsae.api"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("table.html.j2")
