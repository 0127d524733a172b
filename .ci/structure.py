"""Print how large the house is, and fail where it has outgrown its limits.

Run by `make check`: python .ci/structure.py
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
CODE = ("gradsae", "benchmarks", "hydra_plugins")


# Lines of experiments and of conf/ were 450 and 1,300 before training length and width became axes.
# Those need an experiment, one that tunes for it, a grid for each method, a calibration for each
# world.


class Measure(NamedTuple):
    name: str
    value: int
    limit: int
    where: str
    """The largest one, where the value is a maximum."""


def tracked(*folders: str) -> list[Path]:
    """Return the files of some folders that git tracks."""
    listed = subprocess.run(
        ["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = [ROOT / line for line in listed.stdout.splitlines()]
    return [path for path in paths if path.is_file()]


def n_lines(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")


def python_files() -> list[Path]:
    return [path for path in tracked(*CODE) if path.suffix == ".py"]


def functions() -> Iterator[tuple[int, str]]:
    """Yield the length in lines and the place of every function outside tests."""
    for path in python_files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                yield length, f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"


def largest(sized: Iterator[tuple[int, str]]) -> tuple[int, str]:
    return max(sized, default=(0, ""))


def conf_lines(*folders: str) -> int:
    return sum(n_lines(path) for path in tracked(*folders) if path.suffix == ".yaml")


def additions() -> Iterator[tuple[int, str]]:
    """Yield how many files each addition of tests/test_additions.py writes, and its test."""
    tree = ast.parse((ROOT / "tests" / "test_additions.py").read_text(encoding="utf-8"))
    for test in tree.body:
        if isinstance(test, ast.FunctionDef) and test.name.startswith("test_"):
            names = [_called(node) for node in ast.walk(test)]
            yield names.count("write"), test.name


def _called(node: ast.AST) -> str:
    """Return the name that a call calls; the empty string for anything else."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id
    return ""


def measures() -> list[Measure]:
    length, function = largest(functions())
    size, file = largest((n_lines(p), str(p.relative_to(ROOT))) for p in python_files())
    files, toy = largest(additions())
    loose = [p for p in tracked("gradsae") if p.parent == ROOT / "gradsae" and p.suffix == ".py"]
    loose = [path for path in loose if path.name != "__init__.py"]
    readme = len((ROOT / "README.md").read_text(encoding="utf-8"))
    return [
        Measure("lines of a function", length, 50, function),
        Measure("lines of a file", size, 350, file),
        Measure("loose modules in gradsae/", len(loose), 6, ""),
        Measure("lines of experiments", conf_lines("conf/experiment", "conf/part"), 500, ""),
        Measure("lines in conf/", conf_lines("conf", "gradsae/conf"), 1425, ""),
        Measure("characters of README.md", readme, 6000, ""),
        Measure("files of an addition", files, 2, toy),
    ]


def main() -> int:
    over = 0
    for name, value, limit, where in measures():
        note = "" if value <= limit else "  <- over its limit"
        print(f"{name:28}{value:7,}  of at most {limit:5,}  {where}{note}")
        over += value > limit
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
