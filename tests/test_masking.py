"""Masking: what joint edits do to an answer, against plain loops and values by hand."""

from typing import Any

import pytest
import torch
from test_questions import GIVEN, SHORT
from tiny_prompts import Windows, effects, linear_rerun, planted, random_sae, tiny_lm

from gradsae.influence.estimators.grad_times_act import GradTimesAct
from gradsae.influence.estimators.mean_act import MeanAct
from gradsae.influence.estimators.random import Random
from gradsae.influence.estimators.released_gradsae import ReleasedGradSAE
from gradsae.influence.target import Answer, NextToken
from gradsae.interfaces import Scores, Skipped
from gradsae.lm.decoder import Decoder
from gradsae.masking import answers, curves
from gradsae.masking.interplay import interplay
from gradsae.masking.masked import masks, masks_later, run, score, unique_rows
from gradsae.masking.rankings import candidates, greedy, mark_target, released_mark
from gradsae.masking.sets import bottom, count, kept_latents, overlap, sets_of, top
from gradsae.masking.swap import Greedy, Side, steered_activation, swap
from gradsae.masking.task import Masking
from gradsae.masking.writing import Writer
from gradsae.prompts.questions import question as questions
from gradsae.prompts.questions.question import Candidate, Questions, put
from gradsae.prompts.seen import see_from
from gradsae.records.schema import check_json
from gradsae.seeds import make_generator
from gradsae.sources.superposition import Superposition
from gradsae.steering.interventions import read

SAE = random_sae(k=8).requires_grad_(False)


@pytest.fixture(scope="module")
def source() -> Windows:
    return Windows(tiny_lm())


@pytest.fixture(scope="module")
def asked(source):
    return put(source.lm(), Candidate(0, "abcdefgh", "ijk", ("xyz",)), SHORT)


@pytest.fixture(scope="module")
def seen(source, asked):
    return see_from(source, SAE, asked.token_ids)


@pytest.mark.parametrize(
    ("written", "accepted", "em", "f1"),
    [
        ("The Eiffel Tower!", ("eiffel tower",), 1.0, 1.0),
        ("Eiffel tower in Paris", ("Eiffel Tower",), 0.0, 2 * 2 / 6),
        ("in 1912", ("1912", "the year 1912"), 0.0, 2 / 3),
        ("", ("a cat",), 0.0, 0.0),
        ("the", ("a",), 1.0, 1.0),
        ("dog", ("cat", "dog"), 1.0, 1.0),
    ],
)
def test_exact_match_and_f1_are_those_of_squad(written, accepted, em, f1):
    assert answers.exact_match(written, accepted) == em
    assert answers.f1(written, accepted) == pytest.approx(f1)


def test_the_area_of_a_straight_line_over_log_k_is_its_middle():
    assert curves.area([1, 4, 16], [0.0, 0.5, 1.0]) == pytest.approx(0.5)
    assert curves.area([10, 1, 10], [1.0, 0.0, 1.0]) == pytest.approx(0.5)
    assert curves.area([5], [1.0]) is None
    assert curves.faithfulness(-2.0, -1.0, -5.0) == 0.75
    assert curves.faithfulness(-1.0, -1.0, -1.0) is None


def test_sets_are_the_ends_of_a_ranking():
    codes = torch.tensor([[1.0, 0, 2, 1, 1, 0], [0.0, 1, 2, 0, 1, 1]])
    hand = planted(codes, torch.eye(6), lambda x: x[:, -1])
    scores = torch.tensor([0.5, -1.0, 3.0, 0.0, 0.25, 2.0])
    assert top(scores, 2).tolist() == [2, 5]
    assert bottom(scores, 2).tolist() == [4, 0]
    assert bottom(scores, 9).tolist() == [4, 0, 5, 2]
    assert [count(hand, k) for k in (1, 99, 0.5, 0.01)] == [1, 6, 2, 1]
    sets = sets_of(hand, {"a": scores}, [2], ["top", "bottom", "keep"])
    assert kept_latents(hand, sets).tolist() == [
        [1, 1, 0, 1, 1, 0],
        [0, 1, 1, 1, 0, 1],
        [0, 0, 1, 0, 0, 1],
    ]
    assert overlap(torch.tensor([1, 2, 3]), torch.tensor([3, 4])) == pytest.approx(1 / 3)


def test_masks_score_as_a_plain_loop_with_hooks_does(source, asked, seen):
    """The loop takes the SAE's weights and the model's own module, and nothing of this package."""
    lm = source.lm()
    drawn = torch.rand(5, seen.n_active, generator=make_generator(0, "test")) < 0.5
    target = Answer(tokens=asked.answer_ids)
    found = score(seen, [target], drawn.float(), batch_rows=3)
    block = lm.model.model.layers[1]
    for i, kept in enumerate(drawn):
        off = torch.zeros(SAE.arch.d_sae, dtype=torch.bool)
        off[seen.latents[~kept]] = True

        def hook(module, args, output, off=off):
            x = output[0] if isinstance(output, tuple) else output
            codes = SAE(x[0]).codes.to_dense()
            codes[0] = 0.0  # position 0 is dropped
            edited = x - ((codes * off) @ SAE.W_dec)[None]
            return (edited, *output[1:]) if isinstance(output, tuple) else edited

        handle = block.register_forward_hook(hook)
        with torch.no_grad():
            logits = lm.model(asked.token_ids[None]).logits[0].log_softmax(-1)
        handle.remove()
        n = len(asked.answer_ids)
        expected = sum(logits[j - n, token].item() for j, token in enumerate(asked.answer_ids))
        assert found.value[0, i].item() == pytest.approx(expected, abs=1e-5)


def test_a_mask_that_takes_nothing_changes_no_bit(source, seen, asked):
    target = Answer(tokens=asked.answer_ids)
    found = score(seen, [target], torch.ones(2, seen.n_active), batch_rows=8)
    assert found.drop.tolist() == [[0.0, 0.0]]


def test_masks_that_are_there_twice_are_run_once():
    kept = torch.tensor([[1.0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]])
    found, place = unique_rows(kept)
    assert len(found) == 3
    assert torch.equal(found[place], kept)


def test_checked_latents_are_the_first_by_score_and_the_largest_in_turn():
    codes = torch.diag(torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0]))
    hand = planted(codes, torch.eye(5), lambda x: x[:, -1])
    screen = torch.tensor([0.0, 9.0, 1.0, 8.0, -9.0])
    assert candidates(hand, screen, 3).tolist() == [0, 1, 3]  # 1, then 0 (largest), then 3
    assert candidates(hand, screen, None).tolist() == [0, 1, 2, 3, 4]


def plain_writing(lm, question, n_tokens: int, edit) -> str:
    """Whole passes with a hook, token by token: `edit(activation, n_asked)` of one row."""
    tokens, n_asked = question.asked_ids, len(question.asked_ids)
    for _ in range(n_tokens):

        def hook(module, args, output):
            x = output[0] if isinstance(output, tuple) else output
            edited = edit(x[0], n_asked)[None]
            return (edited, *output[1:]) if isinstance(output, tuple) else edited

        handle = lm.model.model.layers[1].register_forward_hook(hook)
        with torch.no_grad():
            best = lm.model(tokens[None]).logits[0, -1].argmax()
        handle.remove()
        tokens = torch.cat([tokens, best[None]])
    return SHORT.cut(lm.text(tokens[n_asked:]).lstrip())


def without(off):
    def edit(x, n_asked):
        codes = SAE(x).codes.to_dense()
        codes[0] = 0.0  # position 0 is dropped
        return x - (codes * off) @ SAE.W_dec

    return edit


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("answer", ["x", "xyz"])
def test_written_answers_are_those_of_whole_passes_with_hooks(source, monkeypatch, cached, answer):
    lm = source.lm()
    question = put(lm, Candidate(0, "abcdefgh", "ijk", (answer,)), SHORT)
    if not cached:  # as with a model that takes no key-value cache
        monkeypatch.setattr(Decoder, "empty_cache", lambda self: None)
    seen = see_from(source, SAE, question.token_ids)
    kept = (torch.rand(9, seen.n_active, generator=make_generator(3, "test")) < 0.6).float()
    kept[0] = 1.0
    kept[1] = 0.0
    kept[2] = 1.0
    kept[2, seen.first_open(torch.arange(seen.n_active)).argmax()] = 0.0  # begins late
    writer = Writer(source=source, sae=SAE, question=question, format=SHORT)
    target = Answer(tokens=question.answer_ids)
    later = masks_later(seen, kept, SAE.arch.d_sae)
    found = run(seen, [target], masks(seen, kept), batch_rows=4, writer=writer, later=later)
    expected = []
    for row in kept:
        off = torch.zeros(SAE.arch.d_sae)
        off[seen.latents[row == 0]] = 1.0
        expected.append(plain_writing(lm, question, writer.n_tokens, without(off)))
    assert found.written == expected
    assert len(set(expected)) > 3
    scored = score(seen, [target], kept, batch_rows=16)
    torch.testing.assert_close(found.value, scored.value, atol=1e-5, rtol=1e-5)


def test_without_a_mask_the_model_writes_what_it_writes(source, asked, seen):
    lm, kept = source.lm(), torch.ones(2, seen.n_active)
    plain = lm.text(lm.generate(asked.asked_ids[None], 6)[0, len(asked.asked_ids) :])
    writer = Writer(source=source, sae=SAE, question=asked, format=SHORT)
    later = masks_later(seen, kept, SAE.arch.d_sae)
    target = Answer(tokens=asked.answer_ids)
    found = run(seen, [target], masks(seen, kept), batch_rows=2, writer=writer, later=later)
    assert found.written == [SHORT.cut(plain.lstrip())[: writer.n_tokens]] * 2


def test_effects_of_a_linear_model_add_up_and_do_not_interact(generator):
    seen = linear_rerun(generator)
    target = NextToken(token=2, scalar="logit")
    found = interplay(seen, target, torch.arange(4), n_paired=3, batch_rows=4)
    assert found.additivity == pytest.approx(1.0)
    torch.testing.assert_close(found.pairs, torch.zeros(3).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(found.last, found.single, atol=1e-9, rtol=0)


def test_of_two_copies_one_is_not_missed_and_each_is_a_backup():
    """The output is min(1, a + b): with a = b = 1 either alone is enough."""
    seen = planted(torch.ones(1, 2), torch.eye(2), lambda x: x.sum(-1).clamp_max(1.0).expand(-1, 3))
    target = NextToken(token=0, scalar="logit")
    found = interplay(seen, target, torch.arange(2), n_paired=2, batch_rows=4)
    assert found.joint == 1.0
    assert found.single.tolist() == [0.0, 0.0]
    assert found.last.tolist() == [1.0, 1.0]
    assert found.pairs.tolist() == [-1.0]
    assert (found.backup, found.additivity, found.interaction) == (1.0, None, None)


def test_latents_that_need_each_other_interact_positively():
    """The output is a * b: each alone takes all."""
    seen = planted(torch.full((1, 2), 2.0), torch.eye(2), lambda x: x.prod(-1).expand(-1, 3))
    target = NextToken(token=0, scalar="logit")
    found = interplay(seen, target, torch.arange(2), n_paired=2, batch_rows=4)
    assert (found.joint, found.additivity) == (4.0, 0.5)
    assert found.pairs.tolist() == [4.0]


def test_a_greedy_oracle_takes_one_of_two_that_need_each_other_and_then_the_next():
    """3 a0 a1 + a2 + a3 / 4: without 0 nothing is left for 1 to do. By single effects both go."""

    def function(x: torch.Tensor) -> torch.Tensor:
        a = x[:, -1]
        return (3 * a[:, 0] * a[:, 1] + a[:, 2] + a[:, 3] / 4)[:, None]

    seen = planted(torch.ones(1, 4), torch.eye(4), function)
    target = NextToken(token=0, scalar="logit")
    single = torch.tensor([3.0, 3.0, 1.0, 0.25])
    torch.testing.assert_close(effects(seen, target), single)
    found, runs = greedy(seen, target, single, 3, batch_rows=8)
    assert found.argsort(descending=True).tolist() == [0, 2, 1, 3]
    assert found[3] == single[3]
    assert runs == (3 + 2 + 1) + 3  # and an unedited row in each batch


def test_the_mark_is_ranked_as_by_the_release_on_the_question_alone(source, asked, seen):
    """There the model has not written the mark yet: the prompt ends before it."""
    assert asked.mark is not None
    before = see_from(source, SAE, asked.asked_ids[:-1])
    target = NextToken(token=asked.mark, scalar="prob")
    alone = ReleasedGradSAE().scores(before, target, torch.Generator())
    ours = released_mark(seen, mark_target(asked.mark, len(asked.answer_ids)))
    at = torch.searchsorted(seen.latents, before.latents)
    scaled = ours[at] * len(seen.codes) / len(before.codes)
    torch.testing.assert_close(scaled, alone, atol=1e-7, rtol=1e-4)
    assert ours.sum().item() == pytest.approx(ours[at].sum().item())


def side(source, question, columns: list[int]) -> Side:
    return Side(question, read(source, SAE, question.token_ids), torch.tensor(columns).long())


def test_a_swap_takes_the_own_latents_off_and_puts_the_others_in(source):
    lm = source.lm()
    into, donor = (
        side(source, put(lm, Candidate(0, "abcdefgh", ask, (a,)), SHORT), columns)
        for ask, a, columns in (("ijk", "xy", [0, 5]), ("mno", "uv", [2, 7]))
    )
    text, n_shared = into.text, into.question.shared
    found = steered_activation(text, into, donor, SAE)
    codes = SAE(text.seen.clean).codes.to_dense()
    edited = codes.clone()
    off = text.seen.latents[into.columns]
    given = donor.text.seen.latents[donor.columns]
    codes[0] = edited[0] = 0.0
    edited[:, off] = 0.0
    for latent, column in zip(given, donor.columns, strict=True):
        edited[n_shared:, latent] = donor.text.seen.codes[:, column].max()
    expected = text.seen.clean + (edited - codes) @ SAE.W_dec
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    writer = Writer(source=source, sae=SAE, question=into.question, format=SHORT)
    one, two = swap(source, SAE, [(into, donor)] * 2, batch_rows=8, writer=writer)
    assert one == two
    assert one.gain != 0 and one.own_change != 0 and one.greedy is False


@pytest.mark.parametrize("answers", [("x", "u"), ("xy", "uvw")])
def test_a_swap_does_what_a_plain_loop_with_hooks_does(source, answers):
    """One row per pair, scored and written; the answers may be of one token or of several."""
    lm = source.lm()
    into, donor = (
        side(source, put(lm, Candidate(0, "abcdefgh", ask, (a,)), SHORT), columns)
        for ask, a, columns in (("ijk", answers[0], [0, 5]), ("mno", answers[1], [2, 7]))
    )
    off = into.text.seen.latents[into.columns]
    given = donor.text.seen.latents[donor.columns]
    value = donor.text.seen.codes[:, donor.columns].amax(0)

    def edit(x, n_asked):
        codes = SAE(x).codes.to_dense()
        codes[0] = 0.0
        edited = codes.clone()
        edited[:, off] = 0.0
        edited[into.question.shared :, given] = value
        return x + (edited - codes) @ SAE.W_dec

    writer = Writer(source=source, sae=SAE, question=into.question, format=SHORT)
    (done,) = swap(source, SAE, [(into, donor)], batch_rows=8, writer=writer)
    assert done.text == plain_writing(lm, into.question, writer.n_tokens, edit)
    for answer, found in ((donor.question, done.gain), (into.question, done.own_change)):
        ids, n = torch.tensor(answer.answer_ids), len(answer.answer_ids)
        tokens = torch.cat([into.question.asked_ids, ids[:-1]])[None]
        site = source.site()
        both = [
            lm.logits(tokens, edit=(site, change))[0, -n:].log_softmax(-1)
            for change in (lambda x: edit(x[0], 0)[None], lambda x: x)
        ]
        steered, clean = (logits[torch.arange(n), ids].sum().item() for logits in both)
        assert found == pytest.approx(steered - clean, abs=1e-5)


def test_greedy_asks_for_every_token():
    logits = torch.tensor([[[0.0, 1, 2], [3, 1, 2]], [[0, 1, 2], [0, 1, 2]]])
    assert Greedy(tokens=(2, 0)).value(logits).tolist() == [1.0, 0.0]


def test_a_swap_that_gives_and_takes_nothing_has_no_effect(source):
    lm = source.lm()
    both = [
        side(source, put(lm, Candidate(0, "abcdefgh", ask, (a,)), SHORT), [])
        for ask, a in (("ijk", "xy"), ("mno", "uv"))
    ]
    (done,) = swap(source, SAE, [(both[0], both[1])], batch_rows=4)
    assert (done.gain, done.own_change) == (0.0, 0.0)


def task(**changes: Any) -> Masking:
    fields: dict[str, Any] = {
        "questions": Questions(of=GIVEN, format=SHORT, n_contexts=2, per_context=1),
        "rankings": [GradTimesAct(), MeanAct(), Random()],
        **{"ks": (1, 3, 0.5), "main_k": 3, "n_paired": 2, "n_pages": 1, "batch_rows": 8},
    }
    return Masking(**(fields | changes))


@pytest.fixture(scope="module")
def right():
    """Let every question count as answered: a random model answers none."""
    patch = pytest.MonkeyPatch()
    patch.setattr(questions, "is_answered", lambda lm, question, form: True)
    yield
    patch.undo()


def measured(source: Windows, seed: int = 0, **changes: Any) -> Scores:
    found = task(**changes).measure(SAE, source, seed)
    assert isinstance(found, Scores)
    return found


@pytest.fixture(scope="module")
def scores(source, right) -> Scores:
    return measured(source)


def test_scores_are_the_curve_at_the_main_k(scores):
    curve = scores.series["masking/curve"]
    n_rankings = 0
    for i, (ranking, kind, k) in enumerate(
        zip(curve["ranking"], curve["kind"], curve["k"], strict=True)
    ):
        if k != "3" or kind == "keep":
            continue
        prefix = {"top": "", "bottom": "bottom_"}[kind]
        for what in ("drop", "mark_drop", "em", "f1"):
            assert scores.scores[f"masking/{prefix}{what}/{ranking}"] == curve[what][i]
        n_rankings += kind == "top"
    assert n_rankings == 6  # three estimators, the mark, the truth, matched random
    assert scores.n["masking/drop/oracle"] == 2


def test_the_truth_alone_is_what_its_ranking_is_made_of(source, right):
    found = measured(source, ks=(1,), main_k=1)
    table = found.series["masking/latents"]
    first = next(i for i, rank in enumerate(table["rank.oracle"]) if rank == 1)
    assert table["question"][first] == 0
    top_one = table["oracle"][first]
    assert top_one == max(table["oracle"])
    curve = found.series["masking/curve"]
    drops = [
        d
        for d, r, kind in zip(curve["drop"], curve["ranking"], curve["kind"], strict=True)
        if (r, kind) == ("oracle", "top")
    ]
    assert len(drops) == 1 and drops[0] > 0


def test_a_greedy_oracle_is_one_more_ranking(source, right):
    found = measured(source, n_greedy=4, swaps=False, n_written=0)
    drop, single = (found.scores[f"masking/drop/{r}"] for r in ("oracle_greedy", "oracle"))
    first = found.series["masking/latents"]["rank.oracle_greedy"]
    assert {1, 2, 3, 4} <= set(first)
    assert drop >= single - 1e-4 and drop > 0


def test_all_latents_off_leave_nothing_and_all_kept_leave_everything(source, right):
    found = measured(source, ks=(1, 999), main_k=1, n_written=1, swaps=False)
    curve = found.series["masking/curve"]
    of_all = [i for i, k in enumerate(curve["k"]) if k == "999"]
    ends = {"top": 0.0, "keep": 1.0}
    seen = [
        (curve["ranking"][i], curve["faithfulness"][i] == pytest.approx(ends[kind], abs=1e-5))
        for i in of_all
        if (kind := curve["kind"][i]) in ends
    ]
    assert len(seen) == 10 and all(fits for _, fits in seen)  # random_matched has none left to draw
    assert set(curve["n_written"]) == {0, 1}
    assert found.n["masking/questions_written"] == 1


def test_the_same_seed_gives_the_same_scores(source, scores):
    assert measured(source) == scores


def test_series_fit_a_record_and_hold_the_tokens_for_the_page(scores, source):
    check_json("series", scores.series)
    tokens = scores.series["masking/tokens"]
    text = "".join(tokens["token"])
    assert scores.series["masking/questions"]["text"][0] in text
    assert len({len(column) for column in scores.series["masking/latents"].values()}) == 1


def test_two_questions_on_one_context_are_swapped_and_counted_as_one(source, right):
    both = Questions(of=GIVEN, format=SHORT, n_contexts=1, per_context=2)
    found = measured(source, questions=both, oracle=False, n_written=0)
    assert found.n["masking/questions"] == 2
    assert found.n["masking/drop/grad_times_act"] == 1
    assert found.intervals == {}
    assert {"masking/swap_gain/mean_act", "masking/question_overlap/mean_act"} <= set(found.scores)
    assert not any("oracle" in name or "/em/" in name for name in found.scores)


def test_a_source_without_a_language_model_is_skipped():
    toy = Superposition(n_features=4, width=2, l0=1)
    found = task().measure(SAE, toy, 0)
    assert isinstance(found, Skipped) and "no language model" in found.reason


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ks": (1, 0)}, "ks must be a whole number from 1, got 0"),
        ({"ks": (3, 1.5)}, "share between 0 and 1, got 1.5"),
        ({"main_k": 7}, "ks must hold main_k=7"),
        ({"kinds": ["bottom"]}, "kinds top"),
        ({"kinds": ["top", "middle"]}, "one of top, bottom, keep; got 'middle'"),
        ({"n_greedy": 5, "oracle": False}, "n_greedy=5 needs oracle=true"),
        ({"n_checked": 0}, "n_checked must be a whole number from 1, got 0"),
        ({"n_written": -1}, "n_written must be a whole number from 0, got -1"),
        ({"rankings": [MeanAct()]}, "rankings must hold grad_times_act"),
    ],
)
def test_bad_fields_are_rejected(changes, message):
    with pytest.raises(ValueError, match=message):
        task(**changes)
