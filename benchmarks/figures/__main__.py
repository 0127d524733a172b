"""Draw every figure from records alone, as SVG and PNG with a caption.

python -m benchmarks.figures [--records local|published|both|DIR] [--out DIR] [--only NAME]
    [--also FILE|MODULE]
"""

import argparse
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from benchmarks.figures.drawing import Drawing, caption
from benchmarks.figures.style import write_figure
from benchmarks.launch.command import command
from benchmarks.results.declared import known_task
from benchmarks.results.reading import add_records_argument, read
from benchmarks.results.settings import Setting, make_settings
from benchmarks.results.tolerance import reason, tolerant
from gradsae.errors import UserError
from gradsae.storage.files import check_writable, write_whole


class FigureModule(Protocol):
    """A figure: a module of this folder, or any other module that has these three names."""

    NAME: str
    COMMAND: str
    """The command that makes its records."""

    def draw(self, settings: Sequence[Setting], /) -> Drawing | None:
        """Return the figure, or None if none of the settings belongs in it."""
        ...


def find_figures() -> dict[str, FigureModule]:
    """Return the figures of this folder by name.

    A module is a figure if it has a NAME; one with several figures lists them under FIGURES.
    """
    folder = str(Path(__file__).parent)
    names = [module.name for module in pkgutil.iter_modules([folder]) if module.name != "__main__"]
    modules: list[Any] = [importlib.import_module(f"benchmarks.figures.{name}") for name in names]
    figures = [each for module in modules for each in getattr(module, "FIGURES", (module,))]
    return {each.NAME: each for each in figures if hasattr(each, "NAME")}


def load_figure(place: str) -> FigureModule:
    """Load a figure from outside this folder: a Python file, or a module by its name."""
    if place.endswith(".py"):
        spec = importlib.util.spec_from_file_location(Path(place).stem, place)
        if spec is None or spec.loader is None or not Path(place).is_file():
            raise UserError(f"--also {place}: there is no such file")
        module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        try:
            module = importlib.import_module(place)
        except ModuleNotFoundError as error:
            raise UserError(f"--also {place}: {error}; give a module or a .py file") from error
    missing = [name for name in ("NAME", "COMMAND", "draw") if not hasattr(module, name)]
    if missing:
        raise UserError(f"--also {place}: a figure has NAME, COMMAND and draw; no {missing[0]}")
    return module


FIGURES = find_figures()


@dataclass(frozen=True, kw_only=True)
class FigureFiles:
    """The files of one page of a figure."""

    name: str
    files: list[Path]
    caption: str


def draw_all(
    settings: Sequence[Setting],
    out: Path,
    only: str | None = None,
    figures: Mapping[str, FigureModule] = FIGURES,
) -> tuple[list[FigureFiles], list[str]]:
    """Draw the figures for which there are records; return their files, and the problems.

    For a figure without records, print the command that makes them. A setting that cannot be drawn,
    because a series has the wrong columns or types, is left out. A figure that cannot be drawn at
    all is a problem and does not stop the others. A figure of several pages has the files NAME,
    NAME_2 and so on.
    """
    check_writable(out, "--out")
    newest = newest_versions(settings)
    written: list[FigureFiles] = []
    problems: list[str] = []
    for name, module in figures.items():
        if only not in (None, name):
            continue
        draw = partial(_draw, name, module, out)
        try:
            pages = tolerant(draw, newest, _setting_name, f"the figure {name}")
        except OSError:
            raise
        except Exception as error:
            problems.append(f"{name} could not be drawn: {reason(error)}")
            continue
        if not pages:
            print(f"{name}: no records for it; made by: {module.COMMAND}")
        for page in pages:
            print(f"{page.name}: {', '.join(str(path) for path in page.files)}")
        written += pages
    return written, problems


def _draw(
    name: str, module: FigureModule, out: Path, settings: Sequence[Setting]
) -> list[FigureFiles]:
    """Draw one figure and write its files; return its pages, none where it has no records."""
    from matplotlib import pyplot as plt

    try:
        drawing = module.draw(settings)
        pages = [] if drawing is None else [drawing, *drawing.further_pages]
        written: list[FigureFiles] = []
        for number, page in enumerate(pages, start=1):
            file = name if number == 1 else f"{name}_{number}"
            text = caption(name, page)
            files = write_figure(page.figure, out, file)
            write_whole(out / f"{file}.md", text)
            written.append(FigureFiles(name=file, files=files, caption=text))
        return written
    except Exception:
        plt.close("all")
        raise


def _setting_name(setting: Setting) -> str:
    return f"record {', '.join(record.id for record in setting.records)}"


def newest_versions(settings: Sequence[Setting]) -> list[Setting]:
    """Return the settings of the newest version of each task: a figure never mixes versions.

    A version that this code does not have yet does not hide the others.
    """
    newest: dict[str, int] = {}
    for setting in settings:
        task, version = known_task(setting.first), setting.first.task["version"]
        if task is None or version <= task.version:
            newest[setting.task] = max(newest.get(setting.task, 0), version)
    current = [
        setting for setting in settings if setting.first.task["version"] == newest.get(setting.task)
    ]
    if len(current) < len(settings):
        print(f"{len(settings) - len(current)} settings of other task versions are left out")
    return current


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.figures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_records_argument(parser)
    parser.add_argument("--out", default="results/figures", type=Path, help="default: %(default)s")
    parser.add_argument("--only", metavar="NAME", help=", ".join(FIGURES))
    parser.add_argument(
        "--also", action="append", default=[], metavar="FILE|MODULE", help="a figure of your own"
    )
    args = parser.parse_args()
    figures = FIGURES | {each.NAME: each for each in map(load_figure, args.also)}
    if args.only not in (None, *figures):
        raise UserError(f"--only {args.only}: it must be one of {', '.join(figures)}")
    settings = make_settings(read(args.records))
    if not settings:
        raise UserError(f"no records in {args.records}; `python -m benchmarks.run` makes some")
    _, problems = draw_all(settings, args.out, args.only, figures)
    if problems:
        raise UserError("\n".join(problems))


if __name__ == "__main__":
    sys.exit(command(main))
