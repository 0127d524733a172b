"""Questions: made, put to a model, and kept only where it answers right."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import pytest
import torch
from tiny_prompts import Windows, tiny_lm

from gradsae.errors import UserError
from gradsae.interfaces import ModelSource
from gradsae.lm.model import LM
from gradsae.prompts.questions import question as module
from gradsae.prompts.questions.cloze import ClozeQuestions
from gradsae.prompts.questions.question import (
    Candidate,
    Format,
    Questions,
    QuestionSet,
    is_answered,
    put,
)
from gradsae.prompts.questions.squad import SquadQuestions
from gradsae.prompts.questions.templates import RELATIONS, TemplateQuestions

SHORT = Format(ask="{context}?{question}:", mark="[", ends=("]", "."))


@dataclass(frozen=True, kw_only=True)
class Given(QuestionSet):
    rows: tuple[tuple[int, str, str, str], ...]

    def candidates(self, source: ModelSource, seed: int) -> Iterator[Candidate]:
        for index, context, question, answer in self.rows:
            yield Candidate(index, context, question, (answer,))


GIVEN = Given(rows=((0, "ab", "c", "x"), (0, "ab", "d", "y"), (1, "ef", "g", "z")))


@pytest.fixture(scope="module")
def source() -> Windows:
    return Windows(tiny_lm())


def test_every_template_question_has_one_answer_in_its_context(source):
    drawn = list(islice(TemplateQuestions(n_people=3, n_facts=2).candidates(source, 0), 60))
    for candidate in drawn:
        (answer,) = candidate.answers
        assert candidate.context.count(answer) == 1
        assert any(answer in relation.values for relation in RELATIONS)
    assert len({c.context for c in drawn}) == 10
    assert [c.context_index for c in drawn[:7]] == [0, 0, 0, 0, 0, 0, 1]


def test_the_same_seed_gives_the_same_questions_and_another_does_not(source):
    first, again, other = (
        list(islice(TemplateQuestions().candidates(source, seed), 8)) for seed in (0, 0, 1)
    )
    assert first == again != other


def test_a_question_is_tokens_with_a_mark_and_an_answer(source):
    question = put(source.lm(), Candidate(0, "ab", "c", ("xy",)), SHORT)
    assert source.lm().text(question.asked_ids) == "ab?c:["
    assert source.lm().text(question.answer_ids) == " xy"
    assert source.lm().text(question.token_ids) == "ab?c:[ x"  # the last one is predicted
    assert question.mark == ord("[") - ord("!")  # the byte tokenizer begins there
    assert question.shared == len("ab?")


@pytest.mark.parametrize(
    ("written", "right"), [(" xy]", True), (" xy.", True), (" xyz", False), (" x]]", False)]
)
def test_an_answer_is_right_if_it_is_written_and_ends(written, right, source, monkeypatch):
    lm = source.lm()

    def always_written(self, token_ids, *, positions):
        ids = torch.tensor([lm.tokenize(written)[0][: len(positions)]])
        return torch.nn.functional.one_hot(ids, lm.vocab_size).float()

    monkeypatch.setattr(LM, "logits", always_written)
    question = put(lm, Candidate(0, "ab", "c", ("xy",)), SHORT)
    assert is_answered(lm, question, SHORT) is right


def test_only_contexts_with_enough_right_answers_are_kept(source, monkeypatch):
    monkeypatch.setattr(module, "is_answered", lambda lm, q, form: True)
    drawn = Questions(of=GIVEN, format=SHORT, n_contexts=5, per_context=2).draw(source, 0)
    assert [q.candidate.question for q in drawn.questions] == ["c", "d"]
    assert drawn.n_tried == 3


def test_a_model_that_answers_nothing_right_is_a_clear_error(source):
    with pytest.raises(UserError, match="no context has 1 questions that the model answers right"):
        Questions(of=GIVEN, format=SHORT, n_contexts=1, per_context=1).draw(source, 0)


def test_questions_that_are_too_long_are_never_run(source, monkeypatch):
    monkeypatch.setattr(module, "is_answered", lambda lm, q, form: pytest.fail("was run"))
    with pytest.raises(UserError, match="0 of at most 3 tokens"):
        Questions(of=GIVEN, format=SHORT, per_context=1, max_tokens=3).draw(source, 0)


def test_what_a_model_writes_is_cut_at_its_first_end():
    assert Format(ends=("]]", "\n")).cut(" Paris ]]\nmore") == "Paris"
    assert Format(ends=("]]",)).cut(" Paris") == "Paris"
    assert Format(ends=(" ",)).cut(" 1200 men") == "1200"


def rows(folder, lines: list[dict]) -> SquadQuestions:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return SquadQuestions(hub_id=None, file=str(path))


def test_rows_of_squad_are_grouped_by_context(source, tmp_path):
    lines = [
        {"context": "A b.", "question": " who? ", "answers": {"text": ["A", "A", "a b"]}},
        {"context": "C d.", "question": "what?", "answers": {"text": ["d"]}},
        {"context": "A b.", "question": "which?", "answers": {"text": ["b"]}},
        {"context": "A b.", "question": "none?", "answers": {"text": []}},
    ]
    found = list(rows(tmp_path, lines).candidates(source, 0))
    assert sorted(found) == [
        Candidate(0, "A b.", "which?", ("b",)),
        Candidate(0, "A b.", "who?", ("A", "a b")),
        Candidate(1, "C d.", "what?", ("d",)),
    ]
    assert [c.context_index for c in found] in ([0, 0, 1], [1, 0, 0])


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"context": "a"}', "lacks question, answers"), ("{", "not JSON lines"), ("", "no question")],
)
def test_bad_rows_are_named(text, message, source, tmp_path):
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(UserError, match=message):
        next(SquadQuestions(hub_id=None, file=str(tmp_path / "rows.jsonl")).candidates(source, 0))
    with pytest.raises(UserError, match="cannot read"):
        next(SquadQuestions(hub_id=None, file=str(tmp_path / "gone")).candidates(source, 0))


def test_a_cloze_asks_for_a_name_or_number_that_the_passage_holds_once():
    passage = (
        "In that year the town of Lyons sent 1200 men and the town of Paris sent none to Lyons."
    )
    gaps = list(ClozeQuestions(n_words=4)._gaps(passage))
    assert gaps == [("town of Lyons sent", "1200"), ("and the town of", "Paris")]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Format(ask="{context}"), "must hold {question}"),
        (lambda: Format(ends=()), "format.ends must be a list"),
        (lambda: TemplateQuestions(n_people=0), "n_people must be a whole number from 1"),
        (lambda: SquadQuestions(hub_id="a", file="b"), "name hub_id or file, one"),
        (lambda: Questions(of=GIVEN, format=SHORT, per_context=0), "per_context must be"),
    ],
)
def test_bad_fields_are_rejected(make, message):
    with pytest.raises(ValueError, match=message):
        make()
