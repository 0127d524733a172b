"""Draw every figure from records alone, as SVG and PNG with a caption.

python -m benchmarks.figures [--records local|published|both|DIR] [--out DIR] [--only NAME]
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import (
    agreement,
    consistency,
    cost,
    density,
    dose_response,
    f1_l0,
    frontier,
    frr_curve,
    gba_toy,
    layer_profile,
    masking,
    recall_after_checks,
    recovery,
    regret,
    resonance,
    steering_budget,
    swept,
    training,
)
from benchmarks.figures.drawing import caption
from benchmarks.figures.style import write
from benchmarks.results.reading import add_records_argument, command, read
from benchmarks.results.settings import Cell, make_cells
from gradsae.errors import UserError
from gradsae.storage.files import check_writable, write_whole

FIGURES = {
    module.NAME: module
    for module in (
        *(recovery, f1_l0, gba_toy, frr_curve, density, training, frontier, consistency),
        *(agreement, layer_profile, cost, recall_after_checks, dose_response, masking),
        *(steering_budget, regret),
        *(*swept.FIGURES, resonance),
    )
}


@dataclass(frozen=True, kw_only=True)
class Drawn:
    name: str
    files: list[Path]
    caption: str


def draw_all(
    cells: Sequence[Cell], out: Path, only: str | None = None
) -> tuple[list[Drawn], list[str]]:
    """Draw what the records allow, and say what they do not.

    A figure without records names the command that makes them. One that cannot be drawn, since a
    series is not what its name says, is a problem and does not stop the others. A figure that does
    not fit on a page has more files, NAME_2 and so on.
    """
    check_writable(out)
    newest = newest_versions(cells)
    drawn: list[Drawn] = []
    problems: list[str] = []
    for name, module in FIGURES.items():
        if only not in (None, name):
            continue
        try:
            found = module.draw(newest)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            problems.append(f"{name} could not be drawn: {type(error).__name__}: {error}")
            continue
        if found is None:
            print(f"{name}: no records for it; made by: {module.COMMAND}")
            continue
        for number, page in enumerate((found, *found.more), start=1):
            file = name if number == 1 else f"{name}_{number}"
            text = caption(name, page)
            files = write(page.figure, out, file)
            write_whole(out / f"{file}.md", text)
            print(f"{file}: {', '.join(str(path) for path in files)}")
            drawn.append(Drawn(name=file, files=files, caption=text))
    return drawn, problems


def newest_versions(cells: Sequence[Cell]) -> list[Cell]:
    """Cells of the newest version of each task: a figure never mixes two versions."""
    newest: dict[str, int] = {}
    for cell in cells:
        newest[cell.task] = max(newest.get(cell.task, 0), cell.first.task["version"])
    kept = [cell for cell in cells if cell.first.task["version"] == newest[cell.task]]
    if len(kept) < len(cells):
        print(f"{len(cells) - len(kept)} settings of older task versions are left out")
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.figures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_records_argument(parser)
    parser.add_argument("--out", default="results/figures", type=Path, help="default: %(default)s")
    parser.add_argument("--only", choices=FIGURES, metavar="NAME", help=", ".join(FIGURES))
    args = parser.parse_args()
    cells = make_cells(read(args.records))
    if not cells:
        raise UserError(f"no records in {args.records}; `python -m benchmarks.run` makes some")
    _, problems = draw_all(cells, args.out, args.only)
    if problems:
        raise UserError("\n".join(problems))


if __name__ == "__main__":
    sys.exit(command(main))
