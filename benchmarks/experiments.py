"""Every experiment with its question, its rows and its cost, and the default set of them.

python -m benchmarks.experiments                    list them
python -m benchmarks.experiments --run              run the default set; what is done is skipped
python -m benchmarks.experiments --run device=cuda  the same, with words for every step
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.launch.command import command
from benchmarks.places import CONF
from gradsae.config.experiments import rows_of
from gradsae.errors import UserError

FOLDER = CONF / "experiment"
RUN = (sys.executable, "-m", "benchmarks.run", "-m")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command of the default set, with its time and memory on 2 cores."""

    words: str
    minutes: int
    gb: float


def header(text: str) -> dict[str, str]:
    """Return the fields of an experiment's first comment: `# Name: words, words`."""
    fields: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        words = line.removeprefix("#").strip()
        match = re.fullmatch(r"([A-Z][a-z]+):\s*(.*)", words)
        if match:
            name = match.group(1)
            fields[name] = match.group(2)
        elif name:
            fields[name] += f" {words}"
    return fields


def lines() -> list[str]:
    """List one experiment after another: name and cost, question, rows."""
    paths = sorted(FOLDER.glob("*.yaml"))
    width = max(len(path.stem) for path in paths)
    listed = []
    for path in paths:
        about = header(path.read_text(encoding="utf-8"))
        listed.append(f"{path.stem:{width}}  {about.get('Cost', 'cost not measured')}")
        listed.append(f"{'':{width}}  {about.get('Question', '')}")
        if rows := rows_of(path):
            listed.append(f"{'':{width}}  row={','.join(rows)}")
    return listed


def default_set() -> list[Step]:
    from omegaconf import OmegaConf

    return [Step(**step) for step in OmegaConf.load(CONF / "default_set.yaml")]  # pyright: ignore[reportCallIssue]


def set_lines(steps: Sequence[Step]) -> list[str]:
    """Return the default set as lines: minutes, memory, words of each step."""
    hours = sum(step.minutes for step in steps) / 60
    head = f"The default set, {hours:.1f} h on 2 cores; `python -m benchmarks.experiments --run`:"
    return [head, *(f"{step.minutes:4} min {step.gb:4.1f} GB  {step.words}" for step in steps)]


def run(
    steps: Sequence[Step],
    words: Sequence[str],
    call: Callable[[Sequence[str]], int] = subprocess.call,
) -> None:
    """Run the steps in their order; one that fails does not stop the others, but is an error."""
    failed = []
    for i, step in enumerate(steps, start=1):
        print(f"\n{i} of {len(steps)}, about {step.minutes} min: {step.words}", flush=True)
        if call([*RUN, *step.words.split(), *words]):
            failed.append(step.words)
    if failed:
        raise UserError("\n".join(["these steps failed, see above:", *failed]))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", nargs="*", metavar="WORD", help="run the default set")
    args = parser.parse_args()
    if args.run is not None:
        run(default_set(), args.run)
        return
    print("\n".join([*lines(), "", *set_lines(default_set())]))
    print("Run one with `python -m benchmarks.run experiment=NAME [row=NAME]`.")


if __name__ == "__main__":
    sys.exit(command(main))
