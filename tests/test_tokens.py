"""Texts are the tokens that the model's own tokenizer makes of the whole text, in every family.

What is expected comes from transformers: ids, offsets and the mask of special tokens of the whole
text. The slow tokenizer has none of these; its tokens are bytes.
"""

from functools import cache
from typing import Any

import pytest
import torch
from tiny_prompts import Windows, random_sae
from tiny_tokenizers import EACH, PLACES, TEXT, tokenizer_of
from transformers import AutoConfig, AutoModelForCausalLM

from gradsae.errors import UserError
from gradsae.lm.model import LM, wrap
from gradsae.lm.spec import LanguageModel
from gradsae.prompts.questions.question import Candidate, Format, Question, is_answered, put
from gradsae.prompts.sets import GivenPrompts
from gradsae.seeds import make_generator
from gradsae.sources.corpora import Corpus
from gradsae.sources.windows import draw_windows
from gradsae.steering.interventions import Chosen, Intervention
from gradsae.steering.samples import sample_texts

BEFORE, ANSWER = "The capital of France is", " Paris and Lyons"
FORM = Format(ask="{context}\nQuestion: {question}\nResult =", mark=" [[")
CANDIDATE = Candidate(0, "Anna lives in Paris.", "Where does Anna live?", ("Lyons",))


@cache
def lm_of(name: str) -> LM:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 256}
    config = AutoConfig.for_model("llama", vocab_size=450, **sizes, **heads)
    spec = LanguageModel(name=name, source="memory", licence="none")
    return wrap(AutoModelForCausalLM.from_config(config), tokenizer_of(name), spec)


@pytest.fixture(params=EACH)
def lm(request: pytest.FixtureRequest) -> LM:
    return lm_of(request.param)


def split(lm: LM, before: str, after: str) -> tuple[list[int], list[int]]:
    """Tokens of `before` with special ones at the front, and of `after`, by the offsets."""
    whole = lm.tokenizer(
        before + after, return_offsets_mapping=True, return_special_tokens_mask=True
    )
    ids, special = whole["input_ids"], whole["special_tokens_mask"]
    last = max(i for i, is_special in enumerate(special) if not is_special)
    ends = [end for _, end in whole["offset_mapping"]]
    n_before = sum(special[i] or ends[i] <= len(before) for i in range(last + 1))
    return ids[:n_before], ids[n_before : last + 1]


def test_special_tokens_are_told_apart_by_where_they_stand(lm):
    place = lm.name.split()[1]
    assert lm.prefix_ids == ([1] if place in ("front", "both") else [])
    assert lm.tokens.added.end == ([2] if place in ("end", "both") else [])


def test_a_prompt_is_the_whole_text_without_special_tokens_at_its_end(lm):
    ids = lm.tokenizer(TEXT)["input_ids"]
    expected = ids[:-1] if lm.name.split()[1] in ("end", "both") else ids
    assert lm.prompt(TEXT)[0].tolist() == expected


def test_an_answer_is_its_tokens_in_the_whole_text(lm):
    (prompt,) = GivenPrompts(texts=[BEFORE], targets=[ANSWER], one_token=False).draw(
        Windows(lm, place="resid_post.0"), 0
    )[0]
    before, answer = split(lm, BEFORE, ANSWER)
    assert prompt.token_ids.tolist() == before
    assert [prompt.target, *prompt.rest] == answer
    assert len(answer) > 1


def test_a_question_is_the_whole_text_with_its_mark_and_its_answer(lm):
    text = FORM.ask.format(context=CANDIDATE.context, question=CANDIDATE.question)
    question = put(lm, CANDIDATE, FORM)
    asked, answer = split(lm, text + FORM.mark, " Lyons")
    assert question.asked_ids.tolist() == asked
    assert list(question.answer_ids) == answer
    assert question.mark == split(lm, text, FORM.mark)[1][-1]
    context, rest = split(lm, CANDIDATE.context + "\nQuestion: ", CANDIDATE.question)
    assert len(context) - 1 <= question.shared <= len(context)  # the last one may be joined
    assert asked[: question.shared] == [*context, *rest][: question.shared]


def written(question: Question, tokens: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the model write these tokens, whatever it reads."""

    def logits(self: LM, token_ids: Any, *, positions: list[int]) -> Any:
        return torch.nn.functional.one_hot(torch.tensor([tokens]), self.vocab_size).float()

    monkeypatch.setattr(LM, "logits", logits)


def test_an_answer_that_is_written_in_its_place_is_right(lm, monkeypatch):
    question = put(lm, CANDIDATE, FORM)
    end = split(lm, BEFORE, ",")[1][-1]
    written(question, [*question.answer_ids, end], monkeypatch)
    assert is_answered(lm, question, FORM)
    written(question, [*question.answer_ids, question.answer_ids[-1]], monkeypatch)
    assert not is_answered(lm, question, FORM)


def test_tokens_read_as_the_text_that_they_are_part_of(lm):
    before, answer = split(lm, BEFORE, ANSWER)
    expected = ANSWER.lower() if lm.name.startswith("wordpiece") else ANSWER
    assert lm.text(answer, after=before) == expected
    assert "".join(lm.tokens.pieces([*before, *answer])) == lm.text([*before, *answer])


def test_a_steering_sample_goes_on_where_the_prompt_ends(lm, monkeypatch):
    before, answer = split(lm, BEFORE, ANSWER)
    ids = torch.tensor(before)
    monkeypatch.setattr(
        LM, "generate", lambda _, rows, n: torch.cat([rows, torch.tensor([answer])], 1)
    )
    monkeypatch.setattr(
        "gradsae.steering.samples.continue_steered", lambda *_: torch.tensor(answer)
    )
    source = Windows(lm, place="resid_post.0")
    top = Chosen(latents=torch.tensor([0]), directions=torch.zeros(1, 16), reference=torch.ones(1))
    dose = Intervention(mode="add", dose=1.0)
    (sample,) = sample_texts(source, random_sae(16), ids, {"top": top}, [dose], len(answer))
    whole = lm.text([*before, *answer])
    assert sample.before == sample.after
    assert sample.prompt + sample.after == whole


def corpus(n_times: int) -> Corpus:
    return Corpus(
        name="given",
        source="texts",
        licence="none",
        texts=[f"Number {i}. " + f"{TEXT} " * n_times for i in range(8)],
        eval_percent=30,
    )


@pytest.mark.parametrize("cut", [False, True], ids=["whole documents", "pieces of documents"])
def test_a_window_is_consecutive_tokens_of_the_whole_document(lm, cut, tmp_path, monkeypatch):
    """Where the beginning of a text is like its inside, a piece may begin in half a word."""
    if cut and not lm.tokens.marks_starts:
        pytest.skip("the tokens of a piece are those of the piece")
    monkeypatch.setenv("GRADSAE_CACHE", str(tmp_path))
    texts, n_front = corpus(3 if cut else 1), len(lm.prefix_ids)
    documents = [lm.tokenize(text, special=False)[0] for text in texts.documents("train")["text"]]
    n = len(documents) * (1 if cut else 4)  # so many characters of each document are read
    windows = draw_windows(lm, texts, "train", n, 12, make_generator(0, "test"))
    for window in windows.tolist():
        assert window[:n_front] == lm.prefix_ids
        own = window[n_front:]
        places = [d[i : i + len(own)] == own for d in documents for i in range(len(d))]
        assert any(places)


def test_only_what_is_no_part_of_a_word_may_be_tokenised_in_pieces():
    plain = {name for name in EACH if not lm_of(name).tokens.marks_starts}
    assert plain == {f"byte_level {place}" for place in PLACES}


def test_an_end_of_a_prompt_that_belongs_to_the_answer_is_refused():
    source = Windows(lm_of("byte_level front"), place="resid_post.0")
    for before, answer in ((BEFORE + " ", "Paris"), (BEFORE + " Pa", "ris")):
        with pytest.raises(UserError, match=r"prompts\.targets\[0\].* joins the end of .*' Paris'"):
            GivenPrompts(texts=[before], targets=[answer]).draw(source, 0)


def test_a_tokenizer_without_offsets_is_handled_like_any_other():
    lm = lm_of("slow")
    assert not lm.tokenizer.is_fast
    as_bytes = [byte + 3 for byte in f"{BEFORE}{ANSWER}".encode()]  # after three special ones
    assert lm.tokens.added == ([], [1])
    assert lm.prompt(BEFORE)[0].tolist() == as_bytes[: len(BEFORE)]
    assert lm.tokens.following(BEFORE, ANSWER) == as_bytes[len(BEFORE) :]


def test_a_tokenizer_of_another_model_is_named():
    lm = lm_of("byte_level front")
    small = wrap(
        AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", vocab_size=40, n_embd=12)),
        lm.tokenizer,
        LanguageModel(name="small", source="memory", licence="none"),
    )
    with pytest.raises(UserError, match=r"of small gives token \d+, but the model has only 40"):
        small.prompt(TEXT)


def test_a_text_that_no_tokenizer_reads_is_named():
    with pytest.raises(UserError, match="cannot read a text"):
        lm_of("byte_level front").prompt("half a pair: \ud800")
