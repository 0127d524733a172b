"""Prompts seen through an SAE, and the sets that prompts come from."""

from dataclasses import replace

import pytest
import torch
from tiny_prompts import Windows, planted, random_sae, tiny_lm

from gradsae.errors import UserError
from gradsae.lm.sites import Site, parse_site
from gradsae.prompts.seen import NoActiveLatentError, SeenPrompt, check_weights, see, see_from
from gradsae.prompts.sets import CutPrompts, GivenPrompts, make_prompt, tokens_of
from gradsae.sae.codes import from_dense
from gradsae.sae.model import SAE

KINDS = ("resid_post", "mlp_out", "attn_out")


@pytest.fixture(scope="module")
def lm():
    return tiny_lm()


@pytest.fixture(scope="module")
def source(lm):
    return Windows(lm)


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(0, 256, (12,), generator=torch.Generator().manual_seed(3))


def seen_at(lm, kind: str, tokens: torch.Tensor, sae: SAE) -> SeenPrompt:
    return see(lm, parse_site(f"{kind}.1"), sae, tokens, torch.zeros(len(tokens), dtype=torch.bool))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalise", ["none", "token"])
def test_an_edit_that_changes_nothing_leaves_the_logits_bit_equal(lm, tokens, kind, normalise):
    seen = seen_at(lm, kind, tokens, random_sae(normalise=normalise))
    same = seen.activation(seen.codes[None])
    assert torch.equal(same[0], seen.clean)
    with torch.no_grad():
        again = seen.rerun.logits(same, [-1])
        assert torch.equal(again, lm.logits(tokens[None], positions=[-1]))


@pytest.mark.parametrize("normalise", ["none", "token"])
def test_codes_and_directions_rebuild_the_sae(lm, tokens, normalise):
    sae = random_sae(normalise=normalise, scaled=True)
    sae.mean.fill_(0.1)
    seen = seen_at(lm, "resid_post", tokens, sae)
    with torch.no_grad():
        out = sae(seen.clean)
        written = (seen.codes * seen.scale) @ seen.directions
        torch.testing.assert_close(written, out.recon - sae.b_dec * out.scale - sae.mean)


@pytest.mark.parametrize("normalise", ["none", "token"])
def test_switching_a_latent_off_takes_away_what_it_wrote(lm, tokens, normalise):
    """In raw units: what the SAE rebuilds with the latent minus what it rebuilds without it."""
    sae = random_sae(normalise=normalise)
    seen = seen_at(lm, "resid_post", tokens, sae)
    columns = torch.tensor([3, 0])
    for activation, column in zip(seen.without(columns), columns, strict=True):
        codes = seen.codes.clone()
        codes[:, column] = 0
        torch.testing.assert_close(activation, seen.activation(codes))
        with torch.no_grad():
            out = sae(seen.clean)
            dense = out.codes.to_dense()
            dense[:, seen.latents[column]] = 0
            rebuilt = sae.normaliser.undo(sae.decode_in(from_dense(dense)), out.scale)
        torch.testing.assert_close(activation, seen.clean - out.recon + rebuilt)


def test_active_latents_are_those_open_at_some_kept_position(lm, tokens):
    sae = random_sae()
    dropped = torch.zeros(12, dtype=torch.bool)
    dropped[[0, 5]] = True
    seen = see(lm, Site("resid_post", 1), sae, tokens, dropped)
    with torch.no_grad():
        dense = sae(seen.clean).codes.to_dense()
    dense[dropped] = 0
    assert seen.latents.tolist() == dense.sum(0).nonzero()[:, 0].tolist()
    assert torch.equal(seen.codes, dense[:, seen.latents])
    assert not seen.codes[dropped].any()


def test_dense_codes_are_seen_like_sparse_ones(lm, tokens):
    """A ReLU SAE with most latents open takes the dense kernel."""
    sae = random_sae(k=None, gate="relu")
    seen = seen_at(lm, "resid_post", tokens, sae)
    with torch.no_grad():
        dense = sae(seen.clean).codes.to_dense()
    assert torch.equal(seen.codes, dense[:, seen.latents])
    assert bool((seen.codes > 0).any(0).all())


def test_a_source_says_which_positions_are_left_out(source, tokens):
    seen = see_from(source, random_sae(), tokens)
    assert not seen.codes[0].any() and seen.codes[1].any()


def test_a_model_in_bfloat16_is_read_in_float32(lm, tokens):
    low = tiny_lm()
    low.model.bfloat16()
    seen = seen_at(low, "resid_post", tokens, random_sae())
    assert seen.clean.dtype == seen.codes.dtype == torch.float32
    with torch.no_grad():
        same = seen.rerun.logits(seen.activation(seen.codes[None]), [-1])
        assert torch.equal(same, low.logits(tokens[None], positions=[-1]))


def test_an_sae_of_another_width_is_rejected(lm, tokens):
    with pytest.raises(UserError, match=r"d_in=16, but resid_post\.1 of tiny has 32"):
        seen_at(lm, "resid_post", tokens, random_sae(d_in=16))


@pytest.mark.parametrize("weight", ["W_enc", "W_dec"])
def test_an_sae_with_weights_that_are_not_finite_is_named(weight):
    sick = random_sae()
    with torch.no_grad():
        getattr(sick, weight)[3, 5] = torch.nan
    with pytest.raises(UserError, match=f"the SAE's {weight} has 1 entries that are not finite"):
        check_weights(sick)
    check_weights(random_sae())


def test_a_prompt_without_open_latents_is_named(lm, tokens):
    with pytest.raises(NoActiveLatentError, match="no latent fires on this prompt of 12 tokens"):
        see(lm, Site("resid_post", 1), random_sae(), tokens, torch.ones(12, dtype=torch.bool))


def test_an_unedited_planted_prompt_is_its_own_clean_pass(generator):
    codes, directions = torch.rand(3, 4, generator=generator), torch.eye(4, 6)
    seen = planted(codes, directions, lambda x: x.sum(1), error=0.5)
    assert torch.equal(seen.activation(codes), codes @ directions + 0.5)


def test_cut_prompts_ask_for_the_models_own_next_token(lm, source):
    drawn = CutPrompts(n_prompts=3, length=8).draw(source, seed=0)
    assert drawn.n_tried == len(drawn.prompts) == 3
    for prompt, window in zip(drawn.prompts, source.eval_windows(3, 0), strict=True):
        assert torch.equal(prompt.token_ids, window[:8])
        with torch.no_grad():
            plain = lm.model(input_ids=window[None, :8]).logits[0, -1]
        assert prompt.target == plain.argmax()


def test_true_targets_keep_only_what_the_model_answers_right(lm, source):
    """Windows that go on as the model would, and windows that do not, in turn."""
    answer = CutPrompts(n_prompts=1, length=8).draw(source, seed=0).prompts[0].target

    class Alternating(Windows):
        def eval_windows(self, n, seed):
            right = super().eval_windows(1, seed)[0].clone()
            wrong = right.clone()
            right[8], wrong[8] = answer, (answer + 1) % 256
            return [wrong, right] * (n // 2)

    drawn = CutPrompts(n_prompts=2, length=8, target="true").draw(Alternating(lm), seed=0)
    assert [p.origin for p in drawn.prompts] == ["window 1", "window 3"]
    assert [p.target for p in drawn.prompts] == [answer, answer]
    assert drawn.n_tried == 4


def test_given_prompts_keep_their_answers(lm, source):
    drawn = GivenPrompts(texts=["hello", "by"], targets=["!", "e"]).draw(source, seed=0)
    assert [p.text for p in drawn.prompts] == ["hello", "by"]
    assert [lm.text([p.target]) for p in drawn.prompts] == ["!", "e"]


@pytest.mark.parametrize(
    ("text", "target", "message"),
    [
        ("", "a", r"prompts\.texts\[1\]: empty prompt: it needs at least 1 token, got ''"),
        ("x" * 65, "a", r"texts\[1\]: prompt of 65 tokens is longer than .* of tiny \(64\)"),
        ("x", "ab", r"targets\[1\]: .* one token, 'ab' is 2 \('a', 'b'\); .*one_token=false"),
        ("x", "", r"targets\[1\]: an answer must be at least one token, got ''"),
    ],
)
def test_a_bad_given_prompt_is_named_by_field_place_and_value(source, text, target, message):
    with pytest.raises(UserError, match=message):
        GivenPrompts(texts=["fine", text], targets=["!", target]).draw(source, seed=0)


def test_answers_of_several_tokens_are_kept_where_they_are_asked_for(lm, source):
    given = GivenPrompts(texts=["hello"], targets=["you!"], one_token=False)
    (prompt,) = given.draw(source, seed=0).prompts
    assert lm.text([prompt.target, *prompt.rest]) == "you!"
    assert lm.text(prompt.token_ids) == "hello"
    with pytest.raises(UserError, match="an answer must be at least one token, got ''"):
        replace(given, targets=[""]).draw(source, seed=0)
    with pytest.raises(UserError, match="68 tokens is longer than the context of tiny"):
        replace(given, texts=["x"], targets=["y" * 68]).draw(source, seed=0)


def test_greedy_answers_are_the_models_own_continuation(lm, source):
    drawn = CutPrompts(n_prompts=1, length=8, answer_length=3).draw(source, seed=0)
    (prompt,) = drawn.prompts
    written = lm.generate(prompt.token_ids[None], 3)[0, 8:].tolist()
    assert [prompt.target, *prompt.rest] == written
    assert drawn.n_tried == 1 + 2  # each token of the rest took a pass


def test_as_many_targets_as_texts_are_needed():
    with pytest.raises(ValueError, match="got 2 and 1"):
        GivenPrompts(texts=["a", "b"], targets=["c"])


def test_a_target_outside_the_vocabulary_is_rejected(lm, tokens):
    with pytest.raises(UserError, match=f"target {lm.vocab_size} is outside the vocabulary"):
        make_prompt(lm, tokens, lm.vocab_size, "here")
    with pytest.raises(UserError, match="empty prompt"):
        make_prompt(lm, tokens[:0], 1, "here")


def test_a_target_of_one_token_is_that_token(lm):
    assert lm.text(tokens_of(lm, "p", "q")) == "q"


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (24, r"prompts\.length: 24 tokens and 1 of the answer do not fit .* of 24"),
        (65, r"prompts\.length: a prompt of 65 tokens is longer than the context of tiny \(64\)"),
    ],
)
def test_prompts_that_do_not_fit_are_rejected(source, length, message):
    with pytest.raises(UserError, match=message):
        CutPrompts(n_prompts=1, length=length).draw(source, seed=0)


@pytest.mark.parametrize(("name", "value"), [("n_prompts", 0), ("length", 1), ("n_tries", -1)])
def test_bad_fields_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name}.*{value}"):
        CutPrompts(**{name: value})
