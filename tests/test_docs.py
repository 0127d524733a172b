"""Every command, block of code and link of README.md and docs/ works.

All pages are run from top to bottom in one folder, empty at first: blocks with a title are files of
the reader, commands run small (see `small`), and what they leave is there for the next. A command
that carries one of REASONS as its comment is checked as far as its words go, and not run.
"""

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from benchmarks.docs.examples import EXAMPLES
from benchmarks.launch import report

pytestmark = pytest.mark.xdist_group("pages")  # one process: a page finds what another one made

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
REASONS = ("takes minutes", "needs the network", "another program")
FENCE = re.compile(r"^```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TINY = {
    **{"tracking": "none", "device": "cpu", "d_sae": "16", "k": "2", "fit.steps": "12"},
    **{"fit.batch_size": "64", "fit.init_rows": "256", "report": "table"},
}
TINY_MODEL = {
    **{"source": "lm_tiny", "d_sae": "32", "fit.batch_size": "32", "fit.init_rows": "64"},
    "metric": "[reconstruction]",
}
ONLY_COMPOSED = re.compile(r"experiment=|task=(influence|masking|steering)")
"""Commands with such a word are composed, not run: other tests run experiments and tasks small."""
MODEL_TASKS = ("influence", "masking", "steering", "steering_budget")


class Block(NamedTuple):
    language: str
    title: str
    text: str


def blocks(path: Path) -> list[Block]:
    """Return the fenced blocks of a page; one without a language is a picture in letters."""
    return [Block(*found) for found in FENCE.findall(path.read_text())]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def with_blocks(*languages: str) -> list[Path]:
    return [path for path in PAGES if any(b.language in languages for b in blocks(path))]


def commands(text: str) -> Iterator[tuple[list[str], str]]:
    """Yield the words of each line of a shell block, and its comment."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words, line.partition("#")[2].strip()


def test_blocks_are_of_a_kind_that_is_tested():
    languages = {block.language for path in PAGES for block in blocks(path)}
    assert languages <= {"bash", "python", "yaml", "json", ""}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """The reader's folder: a cell that one page has run is skipped on the next."""
    return tmp_path_factory.mktemp("reader")


@pytest.mark.parametrize("page", with_blocks("bash"), ids=name)
def test_the_commands_of_a_page_run(page, monkeypatch, place):
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(place)
    for block in blocks(page):
        if block.title:
            file = place / block.title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text)
        elif block.language == "bash":
            for words, comment in commands(block.text):
                carry_out(monkeypatch, words, comment)


def carry_out(monkeypatch, words: list[str], comment: str) -> None:
    """Run one command, or as much of it as its comment allows."""
    is_not_run = any(reason in comment for reason in REASONS)
    if words[0] == "make":
        call(["make", "-n", "-C", str(ROOT), *words[1:]])
    elif words[:2] == ["python", "-m"] and words[2].startswith("benchmarks."):
        module, arguments = words[2], words[3:]
        if module == "benchmarks.run":
            check_words(monkeypatch, arguments)
        if is_not_run:
            run_module(monkeypatch, module, ["--help"])
        elif not any(map(ONLY_COMPOSED.match, arguments)):
            run_module(monkeypatch, module, small(module, arguments))
    else:
        assert is_not_run, f"nothing runs {' '.join(words)}"


def call(words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def check_words(monkeypatch, arguments: list[str]) -> None:
    """Compose the configuration of the first value of each list, as the words stand on the page."""
    plain = [word for word in arguments if word not in ("-m", "--multirun")]
    if "--help" not in plain and "--cfg" not in plain:
        run_module(monkeypatch, "benchmarks.run", [*map(first, plain), "--cfg", "job"])


def first(word: str) -> str:
    """Return the word with its first value: `k=1,2` gives `k=1`."""
    key, equals, value = word.partition("=")
    return word if not equals or value.startswith("[") else f"{key}={value.split(',')[0]}"


def run_module(monkeypatch, module: str, arguments: list[str]) -> None:
    """Run `python -m module arguments` in this process; fail unless it ends well."""
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    monkeypatch.setattr(report, "failures", [])
    for loaded in [module, f"{module}.__main__"]:
        sys.modules.pop(loaded, None)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        assert not stop.code, f"python -m {module} {' '.join(arguments)}: {stop.code}"


def small(module: str, arguments: list[str]) -> list[str]:
    """Return the arguments of a command that does the same in seconds, in the working folder."""
    here = Path.cwd() / "results" / "local"
    if module in ("benchmarks.run", "benchmarks.suitability"):
        return small_words(module, arguments)
    if module in ("benchmarks.figures", "benchmarks.leaderboard", "benchmarks.pages"):
        add_published(here / "records")
        given = [word for word in arguments if word not in ("--records", "published")]
        return [*given, "--records", str(here / "records"), "--out", str(here / "out")]
    if module == "benchmarks.publish":
        add_published(here / "records")
        given = [a_record(here).stem if word == "ID" else word for word in arguments]
        places = ["--from", str(here / "records"), "--to", str(here.parent / "records")]
        return [*given, "--allow-dirty", *places]
    if module == "benchmarks.doctor":
        return [*arguments, "--cache", str(here / "cache")]
    if module == "benchmarks.reproduce":
        return ["--records", str(add_published(here / "published"))]
    if module == "benchmarks.export":
        checkpoint = next(p.parent.name for p in here.glob("checkpoints/*/sae.json"))
        return [word.replace("ID", checkpoint) for word in arguments]
    return arguments


def small_words(module: str, arguments: list[str]) -> list[str]:
    """Return words of a run with one seed, one k, a tiny model and tiny sizes."""
    if "--help" in arguments or "--cfg" in arguments:
        return arguments
    changed: dict[str, str] = {}
    flags = [word for word in arguments if "=" not in word or word.startswith("-")]
    for word in arguments:
        key, equals, value = word.partition("=")
        if equals and word not in flags:
            changed[key] = value.split(",")[0] if key in ("seed", "k", "model") else value
    if "lm_layer" in changed.get("source", "") or changed.get("task") in MODEL_TASKS:
        kept = {k: v for k, v in changed.items() if k != "model" and not k.startswith("source.")}
        changed = {**kept, **TINY_MODEL}
        flags.append(f"source={TINY_MODEL['source']}")
    if module == "benchmarks.suitability":
        changed["d_sae"] = "256"
    given = {*changed, "d_sae"} if "width" in changed else {*changed}
    sizes = {key: value for key, value in TINY.items() if key not in given}
    words = [f"{key}={value}" for key, value in {**changed, **sizes}.items()]
    return list(dict.fromkeys([*flags, *words]))


def a_record(here: Path) -> Path:
    return next((here / "records").glob("*.json"))


def add_published(folder: Path) -> Path:
    """Put the published records that docs/records.md shows into a folder, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in EXAMPLES.values():
        shutil.copy(ROOT / "results" / "records" / f"{name}.json", folder)
    return folder


@pytest.mark.parametrize("page", with_blocks("yaml", "json"), ids=name)
def test_data_on_a_page_can_be_read(page):
    for block in blocks(page):
        if block.language == "yaml":
            assert yaml.safe_load(block.text)
        elif block.language == "json":
            assert json.loads(block.text)


def test_examples_of_records_say_what_the_records_say():
    shown = [json.loads(b.text) for b in blocks(DOCS / "records.md") if b.language == "json"]
    for example in shown:
        whole = json.loads((ROOT / "results" / "records" / f"{example['id']}.json").read_text())
        assert is_part(example, whole)
    tasks = [example["task"]["name"] for example in shown]
    assert sorted(tasks) == sorted(["recovery", "consistency", "grid", *MODEL_TASKS])


def is_part(small, whole) -> bool:
    """Whether each key and each first value of a list is the same in both."""
    if isinstance(small, dict):
        return all(is_part(value, whole[key]) for key, value in small.items())
    return whole[: len(small)] == small if isinstance(small, list) else whole == small


def slugs(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as code hosts and the site make them."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    words = (re.sub(r"[^\w\s-]", "", head.lower()).strip() for head in heads)
    return {re.sub(r"\s", "-", word) for word in words}


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "ARCHITECTURE.md", ROOT / "CHANGELOG.md"], ids=name
)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if name(file) in ("docs/log.md",):
            continue
        assert file.exists(), f"{target} in {name(page)}"
        assert not anchor or anchor in slugs(file), f"{target} in {name(page)}"


def inline(path: Path) -> str:
    return " ".join(re.findall(r"`([^`\n]+)`", path.read_text()))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_names_in_the_text_exist(page):
    text = inline(page)
    for experiment in re.findall(r"experiment=(\w+)", text):
        assert experiment == "NAME" or (ROOT / f"conf/experiment/{experiment}.yaml").exists()
    for module in re.findall(r"python -m benchmarks\.(\w+)", text):
        places = (ROOT / f"benchmarks/{module}.py", ROOT / f"benchmarks/{module}/__main__.py")
        assert module == "X" or any(place.exists() for place in places), module
    for path in re.findall(r"(?:gradsae|benchmarks|conf|tests|docs)/[\w/.]+\w", text):
        assert (ROOT / path).exists(), f"{path} in {name(page)}"


def test_each_number_of_the_findings_stands_on_the_page_that_it_links():
    section = (
        (ROOT / "README.md").read_text().partition("## Five findings")[2].partition("\n## ")[0]
    )
    findings = [part for part in re.split(r"^- ", section, flags=re.MULTILINE) if part.strip()]
    assert len(findings) == 5
    for finding in findings:
        page = ROOT / re.findall(r"\]\(([^)#]+)", finding)[-1]
        known = page.read_text() + (page.parent / "regret.md").read_text().replace("0.", ".")
        for number in re.findall(r"-?\d*\.\d+", finding.partition("](")[0]):
            assert number in known, f"{number} is not in {name(page)}"


def test_generated_parts_are_up_to_date():
    from benchmarks.docs.__main__ import pages

    assert [name(path) for path, text in pages() if path.read_text() != text] == []


def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("mkdocs", reason="`make docs` installs it")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"(https?:[^\"]+)", page.read_text()
        )
        assert loaded == [], page
