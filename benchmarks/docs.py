"""The parts of the documentation that are made from code and records, and from nothing else.

python -m benchmarks.docs           write them between their markers, or as whole pages
python -m benchmarks.docs --check   fail if one of them is out of date
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.render.markdown import RESULTS, replaced
from benchmarks.results.reading import command
from gradsae.errors import UserError
from gradsae.storage.files import write_whole

DOCS = RESULTS.parent
ROOT = DOCS.parent
NUMBERS_HEAD = """# How numbers changed

Each change after which a score of the same name can come out differently, and why. Written from
`CHANGELOG.md` by `python -m benchmarks.docs`. A change that moves what a task measures also raises
the task's version, and tables keep versions apart.
"""
EXAMPLES = {
    "recovery": "fe4265319a0eb4e4",
    "consistency": "9b4fb6d4dbef2a4e",
    "grid": "c5a73d322333be49",
    "influence": "f53670f912259479",
    "masking": "fdbc52bacf6226e2",
    "steering": "ff36bee474881ae6",
    "steering_budget": "519051f942b3421a",
}
"""Task: the id of a published record that shows its shape."""
READING = {
    "recovery": "`config.ask` names the metrics and their settings. A metric gives several scores.",
    "consistency": "`config.ask.others` are the seeds of the other trainings, each with data and "
    "initial weights of its own. `top_act_1` is the first 1 % of latents by maximum activation.",
    "grid": "`config.ask.settings` are the settings tried. The scores are those of the default, "
    "which is a setting among them; `grid/scores` has a row for each.",
    "influence": "The last part of a score's name is the estimator. `influence/per_prompt` has "
    "a row for each prompt, `influence/scatter` one for each latent.",
    "masking": "The last part is the estimator that ranked the latents. `rankings` in `ask` is the "
    "list of estimators: the key is older than the word.",
    "steering": "The last part is the estimator that chose the latents.",
    "steering_budget": "As steering; `safe` is the share of prompts within both budgets.",
}


def numbers(changelog: str) -> str:
    """Return the page of changed numbers: those sections of the changelog, under their version."""
    parts = [NUMBERS_HEAD]
    for version in re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]:
        name, _, rest = version.partition("\n")
        _, has, section = rest.partition("### Changed numbers\n")
        if has:
            section = re.split(r"^###? ", section, flags=re.MULTILINE)[0]
            parts.append(f"## {name.strip('[] ')}\n\n{section.strip()}\n")
    return "\n".join(parts)


def examples(folder: Path) -> str:
    """Return one shortened record per task, each with a line on how to read it."""
    parts = []
    for task, name in EXAMPLES.items():
        record = json.loads((folder / f"{name}.json").read_text())
        text = json.dumps(shortened(record), indent=2, ensure_ascii=False)
        parts.append(f"### {task}\n\n{READING[task]}\n\n```json\n{text}\n```")
    return "\n\n".join(parts)


def shortened(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a record depends on its task, with few scores and two rows a series."""
    series = {
        name: {column: values[:2] for column, values in list(columns.items())[:4]}
        for name, columns in list(record["series"].items())[:2]
    }
    return {
        "id": record["id"],
        "task": record["task"],
        "config": {"ask": record["config"]["ask"]},
        "seeds": record["seeds"],
        **{key: dict(list(record[key].items())[:4]) for key in ("scores", "intervals", "n")},
        "skipped": record["skipped"],
        "series": series,
        "cost": record["cost"],
        "artifacts": record["artifacts"],
    }


def notebook(snippets: Path) -> str:
    """Return the example for notebooks as a block of code."""
    return f"```python\n{(snippets / 'notebook.py').read_text().strip()}\n```"


def pages() -> Iterator[tuple[Path, str]]:
    """Yield each page that is made here, with its text as it should be."""
    yield DOCS / "numbers.md", numbers((ROOT / "CHANGELOG.md").read_text())
    marked: dict[Path, dict[str, Callable[[], str]]] = {
        DOCS / "records.md": {"examples": lambda: examples(ROOT / "results" / "records")},
    }
    for path, parts in marked.items():
        text = path.read_text()
        for name, make in parts.items():
            text = replaced(text, name, make())
        yield path, text


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.docs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="write nothing, fail if it differs")
    check = parser.parse_args().check
    for path, text in pages():
        differs = not path.exists() or path.read_text() != text
        if check and differs:
            raise UserError(f"{path.relative_to(ROOT)} is out of date: run benchmarks.docs")
        if differs:
            write_whole(path, text)


if __name__ == "__main__":
    sys.exit(command(main))
