"""Corpora: the same documents in the same split everywhere, and windows that never mix them."""

import json
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from gradsae.errors import UserError
from gradsae.sources.corpora import SPLITS, Corpus, pack, split_of

TEXTS = [f"Text number {i} of a small corpus, long enough to be kept." for i in range(40)]
CONFIGS = sorted((Path(__file__).parents[1] / "conf/corpus").glob("*.yaml"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRADSAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def corpus(**changes: Any) -> Corpus:
    fields = {"name": "small", "source": "texts", "licence": "CC0-1.0", "texts": TEXTS}
    return Corpus(**{**fields, "min_chars": 20, "eval_percent": 30, **changes})


def texts_of(found: Corpus) -> dict[str, list[str]]:
    return {split: list(found.documents(split)["text"]) for split in SPLITS}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "texts" / "deep").mkdir(parents=True)
    for i, text in enumerate(TEXTS):
        (tmp_path / "texts" / "deep" / f"{i:02}.txt").write_text(text)
    return tmp_path / "texts"


def test_the_splits_share_nothing_and_lose_nothing():
    got = texts_of(corpus())
    assert not set(got["train"]) & set(got["eval"])
    assert sorted(got["train"] + got["eval"]) == sorted(TEXTS)


def test_the_id_is_the_sha256_of_the_text_and_decides_the_split():
    for split in SPLITS:
        rows: Any = corpus().documents(split)
        for row in rows:
            digest = sha256(row["text"].encode()).hexdigest()
            assert row["id"] == digest
            assert (int(digest[:8], 16) % 100 < 30) == (split == "eval")


def test_a_document_keeps_its_split_when_others_are_added():
    fewer, more = texts_of(corpus(texts=TEXTS[:20])), texts_of(corpus())
    for split in SPLITS:
        assert set(fewer[split]) <= set(more[split])


def test_the_share_of_evaluation_documents_is_close_to_what_was_asked():
    ids = [sha256(str(i).encode()).hexdigest() for i in range(20_000)]
    share = np.mean([split_of(i, 10) == "eval" for i in ids])
    assert abs(share - 0.1) < 0.01


def test_repeated_and_short_documents_are_left_out():
    got = texts_of(corpus(texts=[*TEXTS, TEXTS[0], "short"]))
    assert sorted(got["train"] + got["eval"]) == sorted(TEXTS)


def test_a_second_call_reads_the_cache(folder):
    first = corpus(source="folder", folder=str(folder))
    before = texts_of(first)
    saved = next((Path(folder).parent / "cache" / "corpora").glob("small-*/train"))
    stamp = saved.stat().st_mtime_ns
    assert texts_of(corpus(source="folder", folder=str(folder))) == before
    assert saved.stat().st_mtime_ns == stamp


def test_a_damaged_data_set_is_named_with_the_folder_to_delete(cache):
    corpus().documents("train")
    file = next((cache / "corpora").glob("small-*/train/*.arrow"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"sha256 is .* delete the folder .*small-"):
        corpus().documents("train")


def test_a_folder_gives_the_same_documents_and_splits_as_their_texts(folder):
    assert texts_of(corpus(source="folder", folder=str(folder))) == texts_of(corpus())


def test_excluded_files_are_left_out(folder):
    got = texts_of(corpus(source="folder", folder=str(folder), exclude=["*/0?.txt"]))
    assert sorted(got["train"] + got["eval"]) == sorted(TEXTS[10:])


def test_the_id_follows_the_documents_and_the_split_rule():
    base = corpus().corpus_id()
    assert corpus(name="other").corpus_id() == base
    assert corpus(texts=[*TEXTS, TEXTS[0], "short"]).corpus_id() == base  # twice, and left out
    assert corpus(texts=TEXTS[::-1]).corpus_id() != base  # other windows would be drawn
    assert corpus(texts=TEXTS[:-1]).corpus_id() != base
    assert corpus(eval_percent=20).corpus_id() != base


def test_a_wheel_corpus_holds_the_wheels_files(tmp_path, monkeypatch):
    file = tmp_path / "prose_pack-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for i, text in enumerate(TEXTS):
            archive.writestr(f"prose_pack/{i}.txt", text)
        meta = "Metadata-Version: 2.1\nName: prose-pack\nVersion: 1.0\n"
        archive.writestr("prose_pack-1.0.dist-info/METADATA", meta)
        tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr("prose_pack-1.0.dist-info/WHEEL", tags)
        archive.writestr("prose_pack-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    digest = sha256(file.read_bytes()).hexdigest()
    wheel = {"requirement": "prose-pack==1.0", "sha256": digest, "members": ["*.txt"]}
    found = corpus(source="wheel", wheel=wheel)
    before = found.corpus_id()
    got = texts_of(found)
    assert sorted(got["train"] + got["eval"]) == sorted(TEXTS)
    assert found.corpus_id() == before
    assert found.provenance()["origin"] == "prose-pack==1.0"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local folder that `datasets` loads the way it loads a hub repository."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    (tmp_path / "hub").mkdir()
    lines = [json.dumps({"body": text}) for text in TEXTS]
    (tmp_path / "hub" / "train.jsonl").write_text("\n".join(lines))
    return tmp_path / "hub"


def test_a_hub_data_set_is_read_by_name_and_column(hub):
    got = texts_of(corpus(source="hub", hub_id=str(hub), text_column="body", n_documents=20))
    assert sorted(got["train"] + got["eval"]) == sorted(TEXTS[:20])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_column": "text"}, "there is no column 'text'"),
        ({"hub_split": "test", "text_column": "body"}, "cannot read the data set"),
    ],
)
def test_a_wrong_name_within_a_hub_data_set_is_a_user_error(hub, changes, message):
    with pytest.raises(UserError, match=message):
        corpus(source="hub", hub_id=str(hub), **changes).documents("train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "disk"}, "source must be one of wheel, folder, hub, texts"),
        ({"source": "folder"}, "needs folder"),
        ({"eval_percent": 0}, "eval_percent must be between 1 and 99, got 0"),
        ({"min_chars": 0}, "min_chars must be at least 1"),
        ({"n_documents": 0}, "n_documents must be at least 1"),
        (
            {"texts": ["short"]},
            "no document of min_chars=20 characters .its texts.: lower min_chars",
        ),
        ({"texts": TEXTS[:1]}, r"no document of 1 falls into the (train|eval) split"),
        ({"source": "folder", "folder": "/nowhere"}, "there is no folder /nowhere"),
    ],
)
def test_wrong_values_are_user_errors(changes, message):
    with pytest.raises(UserError, match=message):
        corpus(**changes).documents("train")


def test_a_file_that_is_not_utf8_is_named(folder):
    (folder / "bad.txt").write_bytes(b"\xff\xfe" * 40)
    with pytest.raises(UserError, match=r"bad\.txt is not UTF-8"):
        corpus(source="folder", folder=str(folder)).documents("train")


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_corpus_config_builds(file):
    fields = yaml.safe_load(file.read_text())
    assert fields.pop("_target_") == "gradsae.sources.corpora.Corpus"
    assert Corpus(**fields).name == file.stem


def letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def test_windows_are_consecutive_tokens_of_one_document():
    got = list(pack(["a" * 25, "b" * 9, "c" * 10], letters, 10, min_tokens=5))
    assert [(w.document, len(w.tokens)) for w in got] == [(0, 10), (0, 10), (0, 5), (1, 9), (2, 10)]
    assert all(set(w.tokens.tolist()) == {ord("abc"[w.document])} for w in got)


def test_a_short_last_piece_is_dropped():
    got = list(pack(["abcdefghijklmno"], letters, 10, min_tokens=6))
    assert [w.tokens.tolist() for w in got] == [letters("abcdefghij")]


def test_every_window_starts_with_the_prefix_and_keeps_the_length():
    got = list(pack(["abcdefgh"], letters, 5, prefix=[1], min_tokens=1))
    assert [w.tokens.tolist() for w in got] == [[1, *letters("abcd")], [1, *letters("efgh")]]


def test_a_context_without_room_is_refused():
    with pytest.raises(UserError, match="context_length=1 leaves no room for text"):
        list(pack(["abc"], letters, 1, prefix=[1]))


@pytest.mark.network
@pytest.mark.parametrize(("name", "n_documents"), [("prose", 249), ("code", 787)])
def test_the_two_standard_corpora_hold_over_ten_megabytes(name, n_documents, monkeypatch):
    monkeypatch.delenv("GRADSAE_CACHE")
    fields = yaml.safe_load(next(f for f in CONFIGS if f.stem == name).read_text())
    del fields["_target_"]
    found = Corpus(**fields).provenance()
    assert found["n_bytes"] > 10_000_000
    assert sum(found["n_documents"].values()) == n_documents
