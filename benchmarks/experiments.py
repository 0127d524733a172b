"""Every experiment with its question and its cost: `python -m benchmarks.experiments`."""

import argparse
import re
import sys
from pathlib import Path

from benchmarks.reading import command

FOLDER = Path(__file__).resolve().parent.parent / "conf" / "experiment"


def header(text: str) -> dict[str, str]:
    """Fields of the comment at the top of an experiment's YAML: `# Name: words, words`."""
    fields: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        words = line.removeprefix("#").strip()
        found = re.fullmatch(r"([A-Z][a-z]+):\s*(.*)", words)
        if found:
            name = found.group(1)
            fields[name] = found.group(2)
        elif name:
            fields[name] += f" {words}"
    return fields


def lines() -> list[str]:
    """One experiment after another: name, cost, question."""
    paths = sorted(FOLDER.glob("*.yaml"))
    width = max(len(path.stem) for path in paths)
    found = []
    for path in paths:
        about = header(path.read_text(encoding="utf-8"))
        found.append(f"{path.stem:{width}}  {about.get('Cost', 'cost not measured')}")
        found.append(f"{'':{width}}  {about.get('Question', '')}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiments", description=__doc__)
    parser.parse_args()
    print("\n".join(lines()))
    print("Run one with `python -m benchmarks.run experiment=NAME`; it goes on where it stopped.")


if __name__ == "__main__":
    sys.exit(command(main))
