"""The first hop: against plain torch hooks on tiny models, and what it is for."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_prompts import LLAMA, Windows, effects, estimate, planted, random_sae
from torch import Tensor, nn

from gradsae.errors import UserError
from gradsae.influence.ablation import ablate_sparing, clean_value
from gradsae.influence.entries import split_entries
from gradsae.influence.estimators import hop_then_verify
from gradsae.influence.estimators.contrib.part_then_verify import stream_after
from gradsae.influence.estimators.grad_times_act import GradTimesAct
from gradsae.influence.estimators.hop_then_verify import (
    HopThenVerify,
    Search,
    affordable,
    boundary_distance,
    carry_over,
    hop_entries,
    plan,
    rerun_tokens,
)
from gradsae.influence.estimators.hops import screen
from gradsae.influence.gradient import error_bars, gradient_cost
from gradsae.influence.target import Answer, NextToken
from gradsae.lm.attention import Heads, watched
from gradsae.lm.model import LM, load
from gradsae.lm.partial import run_one_position
from gradsae.lm.sites import Site
from gradsae.lm.spec import LanguageModel
from gradsae.prompts.seen import SeenPrompt, see_from

TARGET = NextToken(token=7)
GEMMA = {
    **{"model_type": "gemma3_text", "hidden_size": 32, "intermediate_size": 64, "head_dim": 8},
    **{"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 1},
    **{"max_position_embeddings": 64, "initializer_range": 0.3, "query_pre_attn_scalar": 8},
    # Two blocks see three tokens back only, so that some of what is later reads nothing.
    **{"sliding_window": 3, "layer_types": ["full_attention", "sliding_attention"] * 2},
    **{"vocab_size": 260},
}
GEMMA_2 = {**GEMMA, "model_type": "gemma2", "attn_logit_softcapping": 2.0}


def tiny(config: dict[str, Any]) -> LM:
    return load(LanguageModel(name="tiny", source="random", licence="none", config=config))


@pytest.fixture(scope="module", params=["llama", "gemma3", "gemma2"])
def lm(request) -> LM:
    return tiny({"llama": LLAMA, "gemma3": GEMMA, "gemma2": GEMMA_2}[request.param])


@pytest.fixture(scope="module", params=["resid_post.0", "mlp_out.1", "attn_out.1"])
def seen(lm, request) -> SeenPrompt:
    source = Windows(lm, place=request.param)
    return see_from(source, random_sae(), source.eval_windows(1, 0)[0][:10])


@contextmanager
def hooks(pairs: list[tuple[nn.Module, Callable[..., Any], bool]]) -> Iterator[None]:
    with ExitStack() as stack:
        for module, hook, before in pairs:
            set_hook = module.register_forward_pre_hook if before else module.register_forward_hook
            stack.callback(set_hook(hook, with_kwargs=True).remove)
        yield


def brute(lm: LM, seen: SeenPrompt, edited: Tensor, at: int, last: int) -> tuple[float, float]:
    """The first hop and its error bar, by full passes and plain hooks.

    The edited pass goes on at `at` alone: every other position enters each later block as in the
    clean pass, and reads `at` there. Linear from the stream at `at` after block `last` on.
    """
    site, decoder = seen.rerun.site, lm.decoder
    later = range(site.layer + 1, decoder.n_layers)
    blocks = {i: decoder.module(Site("resid_post", i)) for i in later}
    joins = {i: blocks[i].get_submodule("self_attn.o_proj") for i in later}
    assert decoder.layout.attn_out is not None
    halves = {i: blocks[i].get_submodule(decoder.layout.attn_out) for i in later}
    after: dict[int, Tensor] = {}
    clean_in: dict[int, Tensor] = {}
    outs: dict[str, dict[int, Tensor]] = {"clean": {}, "edited": {}}
    streams: dict[str, Tensor] = {}
    added: dict[int, Tensor] = {}

    def given(value: Tensor) -> Callable[..., Any]:
        def hook(_m: Any, _a: Any, _k: Any, output: Any) -> Any:
            return (value[None], *output[1:]) if isinstance(output, tuple) else value[None]

        return hook

    def keep_input(layer: int) -> Callable[..., Any]:
        def hook(_m: Any, args: Any, kwargs: Any) -> None:
            clean_in[layer] = (args[0] if args else kwargs["hidden_states"]).detach()

        return hook

    def others_clean(layer: int) -> Callable[..., Any]:
        def hook(_m: Any, args: Any, kwargs: Any) -> Any:
            entering = (args[0] if args else kwargs["hidden_states"]).clone()
            entering[:, at + 1 :] = clean_in[layer][:, at + 1 :]
            if args:
                return (entering, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": entering}

        return hook

    def keep_heads(kind: str, layer: int) -> Callable[..., Any]:
        def hook(_m: Any, args: Any, _k: Any) -> None:
            outs[kind][layer] = args[0]  # what all heads found, before their common projection

        return hook

    def keep(kept: dict[Any, Tensor], kind: Any) -> Callable[..., Any]:
        def hook(_m: Any, _a: Any, _k: Any, output: Any) -> None:
            kept[kind] = output[0] if isinstance(output, tuple) else output

        return hook

    own, end = decoder.module(site), decoder.module(Site("resid_post", last))
    run = decoder.model
    clean = seen.clean.clone().requires_grad_()  # so that there is a graph
    with hooks(
        [(own, given(clean), False)]
        + [(blocks[i], keep_input(i), True) for i in later]
        + [(joins[i], keep_heads("clean", i), True) for i in later]
        + [(halves[i], keep(added, i), False) for i in later]
        + [(blocks[i], keep(after, i), False) for i in later]
        + [(end, keep(streams, "clean"), False)]
    ):
        logits = run(input_ids=seen.token_ids[None]).logits[0, -1]
        inside = [*(outs["clean"][i] for i in later), *(after[i] for i in later)]
        slope, *slopes = torch.autograd.grad(
            logits.log_softmax(-1)[TARGET.token], [streams["clean"], *inside]
        )
        slopes, behind = slopes[: len(later)], dict(zip(later, slopes[len(later) :], strict=True))
    with (
        torch.no_grad(),
        hooks(
            [(own, given(edited), False)]
            + [(blocks[i], others_clean(i), True) for i in later]
            + [(joins[i], keep_heads("edited", i), True) for i in later]
            + [(end, keep(streams, "edited"), False)]
        ),
    ):
        run(input_ids=seen.token_ids[None])
    moved = [
        ((outs["clean"][i].detach() - outs["edited"][i])[:, at + 1 :] * slope[:, at + 1 :]).sum()
        for i, slope in zip(later, slopes, strict=True)
        if i <= last
    ]
    rest = (streams["clean"].detach() - streams["edited"])[0, at] @ slope[0, at]
    doubt = torch.zeros(())
    for i in range(later.start, last + 1):
        for q in range(at + 1, len(seen.codes)):
            before, stream = outs["clean"][i][0, q].detach(), after[i][0, q].detach()
            d = (outs["edited"][i][0, q] - before).norm() * added[i][0, q].detach().norm()
            doubt += (d / before.norm()) ** 2 * behind[i][0, q].norm() / stream.norm()
    return float(sum(moved) + rest), float(doubt)


@pytest.mark.parametrize("blocks", [1, 2, 12])
def test_first_hops_equal_those_of_full_passes_with_plain_hooks(lm, seen, blocks):
    entries = split_entries(seen)
    layer = min(seen.rerun.later_blocks[0] + blocks - 1, 3)
    screened = screen(entries, TARGET, layer)
    expected = estimate(GradTimesAct(), entries, TARGET)
    torch.testing.assert_close(screened.gradient, expected)
    at = entries.first_open(torch.arange(entries.n_active))
    sizes, wide = [], []
    for place in (1, 4, 8):
        columns = (at == place).nonzero()[:, 0]
        found, bars = screened.clean.hop(place, columns, layer)
        expected = [brute(lm, entries, x, place, layer) for x in entries.without(columns)]
        effects, expected_bars = torch.tensor(expected).T
        torch.testing.assert_close(found, effects, atol=2e-5, rtol=1e-4)
        linear = lm.decoder.layout.attn_out == "self_attn"  # Gemma has a norm after it
        torch.testing.assert_close(bars, expected_bars * linear, atol=1e-6, rtol=1e-3)
        sizes.append(found.abs().max())
        wide.append(bars.max())
    assert max(sizes) > 1e-2
    assert (max(wide) > 1e-4) == (linear and layer > seen.rerun.site.layer)
    assert screened.clean.hop_cost(layer) == pytest.approx(
        min(blocks / len(seen.rerun.later_blocks), 1)
    )


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_what_one_position_leaves_is_that_of_a_full_run(seen, layer):
    if layer not in seen.rerun.later_blocks:
        pytest.skip("a block before the site")
    at, edited = 4, seen.clean.clone()
    edited[at] += torch.linspace(-1, 1, edited.shape[1])
    rows = torch.stack([seen.clean, edited])
    _, whole = seen.rerun.logits_and_key_values(rows, [-1])
    run = run_one_position(seen.rerun, rows[:, at], at, layer)
    assert run is not None
    alone, stream = run
    torch.testing.assert_close(stream, stream_after(seen.rerun, rows, layer)[:, at])
    assert alone.n_before == whole.n_before
    assert len(alone.blocks) == layer - seen.rerun.site.layer
    for found, expected in zip(alone.blocks, whole.at(at).blocks, strict=False):
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_watched_pass_gives_the_logits_of_a_plain_one(lm):
    token_ids = torch.arange(20, 30)[None]
    before = lm.decoder.model.config._attn_implementation
    with torch.no_grad(), watched(lm.decoder.model) as found:
        logits = lm.decoder.model(input_ids=token_ids).logits
    assert lm.decoder.model.config._attn_implementation == before
    with torch.no_grad():
        expected = lm.decoder.model(input_ids=token_ids).logits
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert sorted(found) == [0, 1, 2, 3]


def test_the_implementation_is_put_back_when_a_pass_fails(lm):
    before = lm.decoder.model.config._attn_implementation
    with pytest.raises(RuntimeError, match="on the way"), watched(lm.decoder.model):
        raise RuntimeError("on the way")
    assert lm.decoder.model.config._attn_implementation == before


@pytest.mark.parametrize("long", [1.0, 100.0, 1e6])
def test_the_change_of_one_head_equals_attention_computed_anew(long):
    """Two keys, the first exchanged for one whose score is `long`: at 100 it takes everything."""
    query, values = torch.tensor([[[0.0], [2.0]]]), torch.tensor([[[3.0], [5.0]]])
    keys = torch.tensor([[[0.25], [0.75]]])
    scores = query[0, 1] @ keys[0].T
    heads = Heads(
        query=query,
        key=keys,
        value=values,
        out=torch.stack([values[:, 0], scores.softmax(-1)[None] @ values[0]], dim=1)[None],
        log_z=torch.stack([torch.zeros(()), scores.logsumexp(-1)])[None],
        bias=torch.zeros(1, 2, 2),
        scaling=1.0,
        softcap=None,
    )
    new = torch.tensor([long / 2, 0.75])
    before, after = (w @ v for w, v in (
        (scores.softmax(-1), torch.tensor([3.0, 5.0])),
        ((2 * new).softmax(-1), torch.tensor([-4.0, 5.0])),
    ))  # fmt: skip
    found = heads.change(0, torch.tensor([[[long / 2]]]), torch.tensor([[[-4.0]]]))
    torch.testing.assert_close(found, (after - before)[None, None, None, None])


def test_with_enough_to_spend_every_latent_is_ablated(seen):
    estimator = HopThenVerify(max_cost=10_000.0)
    found = estimate(estimator, seen, TARGET)
    torch.testing.assert_close(found, effects(seen, TARGET), atol=1e-5, rtol=1e-4)
    assert estimator.forward_equivalents(seen) < 200


def test_a_hop_counts_with_what_it_leaves_out_on_average(lm):
    source = Windows(lm, place="resid_post.1")
    seen = see_from(source, random_sae(), source.eval_windows(1, 0)[0][:10])
    entries, clean = split_entries(seen), clean_value(seen, TARGET)
    screened, layer = screen(entries, TARGET, 3), 3
    search = Search(seen=seen, entries=entries, target=TARGET, clean=clean, screened=screened)
    (here,) = (entries.first_open(torch.arange(entries.n_active)) == 3).nonzero().T
    hopped = hop_entries(search, [layer], here.tolist(), 1e6)
    linear, left = screened.clean.hop(3, here, layer)
    assert bool((left > 0).all()) == (lm.decoder.layout.attn_out == "self_attn")
    assert bool(hopped.is_known[here].all())
    torch.testing.assert_close(hopped.effect[here], linear + 0.03 * left)


def test_hops_run_their_share_of_the_blocks_after_the_site_at_least_one(lm, monkeypatch):
    asked = []

    def noted(search: Search, layers: list[int], *rest: Any) -> Any:
        asked.append([layer - search.seen.rerun.site.layer for layer in layers])
        return hop_entries(search, layers, *rest)

    monkeypatch.setattr(hop_then_verify, "hop_entries", noted)
    for place in ("resid_post.0", "resid_post.1", "resid_post.2"):  # 3, 2 and 1 blocks after it
        source = Windows(lm, place=place)
        seen = see_from(source, random_sae(), source.eval_windows(1, 0)[0][:10])
        estimate(HopThenVerify(deep=1.0), seen, TARGET)
        estimate(HopThenVerify(deep=0.75, short=0.375), seen, TARGET)
    assert asked == [[3, 1], [2, 1], [2, 1], [1, 1], [1, 1], [1, 1]]


def test_with_nothing_left_after_the_screen_it_is_the_gradient(seen):
    estimator = HopThenVerify(max_cost=1.1)
    found, expected = (estimate(e, seen, TARGET) for e in (estimator, GradTimesAct()))
    torch.testing.assert_close(found, expected)
    assert estimator.forward_equivalents(seen) == gradient_cost(seen)


def test_where_softmaxes_are_sharp_it_is_closer_than_the_gradient():
    """Scores in the tens: a key decides what is read, and its gradient is that of a corner."""
    lm = tiny({**LLAMA, "initializer_range": 0.6})
    source = Windows(lm, place="resid_post.1")
    error: dict[str, list[Tensor]] = {"gradient": [], "hop": []}
    for window in source.eval_windows(6, 0):
        seen = see_from(source, random_sae(), window[:10])
        truth = effects(seen, TARGET)
        hop = HopThenVerify(max_cost=20.0, largest=0.0, hops=1.0)
        for name, estimator in (("gradient", GradTimesAct()), ("hop", hop)):
            error[name].append((estimate(estimator, seen, TARGET) - truth).abs().mean())
    gradient, hop = (torch.stack(error[name]) for name in ("gradient", "hop"))
    assert hop.mean() < 0.6 * gradient.mean()


def test_answers_of_several_tokens_are_ablated_where_they_are_read(lm):
    """From the first read position on an entry is its own ablation, exactly."""
    source = Windows(lm, place="resid_post.1")
    seen = see_from(source, random_sae(), source.eval_windows(1, 0)[0][:10])
    target = Answer(tokens=(7, 9, 11))
    found = estimate(HopThenVerify(max_cost=1000.0, largest=0.0, hops=1.0), seen, target)
    first_open = seen.first_open(torch.arange(seen.n_active))
    late = first_open >= 7
    truth = effects(seen, target)
    at_most_once = (seen.codes[:, late] != 0).sum(0) == 1
    assert bool(at_most_once.any())
    torch.testing.assert_close(
        found[late][at_most_once], truth[late][at_most_once], atol=1e-5, rtol=1e-4
    )


ORDER, PLACES = [0, 1, 2, 3, 4, 5], [2, 8, 9, 2, 5, 9]


@pytest.mark.parametrize(
    ("tokens", "spent", "found"),
    [
        (0.4, 0.0, {}),
        (1.9, 1.0, {2: [0], 8: [1]}),
        (2.0, 2.0, {2: [0], 8: [1], 9: [2]}),
        (2.5, 2.5, {2: [0, 3], 8: [1], 9: [2]}),
        (99.0, 4.0, {2: [0, 3], 8: [1], 9: [2, 5], 5: [4]}),
    ],
)
def test_what_is_left_goes_to_the_first_that_can_be_paid(tokens, spent, found):
    prices = [1.0 if place == 9 else 0.5 for place in PLACES]
    parts, cost = plan(ORDER, PLACES, prices, tokens)
    assert {place: part.tolist() for place, part in parts.items()} == found
    assert cost == spent


@pytest.mark.parametrize(
    ("left", "bought"), [(0.5, []), (1.0, [1]), (3.0, [3, 1]), (4.5, [0]), (6.5, [0, 3])]
)
def test_what_is_too_dear_is_passed_over(left, bought):
    order, price = torch.tensor([0, 3, 2, 1]), torch.tensor([4.5, 1.0, 9.0, 2.0])
    assert affordable(order, price, left).tolist() == bought


def test_entries_follow_what_those_of_their_position_moved_by():
    """They moved by .4 and .2 bars at position 2, and by 5, which counts as .5, at position 4."""
    at, known = torch.tensor([2, 2, 2, 4, 4, 6]), torch.tensor([1, 1, 0, 1, 0, 0]).bool()
    bars = torch.tensor([1.0, 2.0, 10.0, 1.0, 2.0, 3.0])
    found = carry_over(torch.tensor([0.4, 0.4, 0.0, 5.0, 0.0, 0.0]), bars, known, at)
    prior = 0.7 / 0.3  # as many entries as the prior is worth
    expected = [0, 0, 10 * 0.6 / (2 + prior), 0, 2 * 0.5 / (1 + prior), 0]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_the_error_bar_is_twice_the_largest_second_order_behind_a_normalisation():
    """m = w . x / |x| with w across x: d' H d / 2 is |d|^2 |w| / (2 |x|^2) halfway between the two,
    and 0 along each of them."""
    x, w = torch.tensor([0.0, 5.0, 0.0]), torch.tensor([2.0, 0.0, 0.0])
    halfway = torch.tensor([1.0, 1.0, 0.0]) / 2**0.5
    directions = 1e-2 * torch.stack([halfway, 2 * halfway, x / 5, w / 2]).double()
    seen = planted(
        torch.ones(1, 4).double(),
        directions,
        lambda rows: torch.stack([(rows / rows.norm(dim=-1, keepdim=True))[:, -1] @ w.double()], 1),
        error=x.double() - directions.sum(0),
    )
    found = error_bars(seen, w.double()[None] / 5)
    torch.testing.assert_close(found, torch.tensor([1.0, 4.0, 1.0, 1.0]).double() * 1e-4 * 2 / 25)
    target = NextToken(token=0, scalar="logit")
    error = (estimate(GradTimesAct(), seen, target) - effects(seen, target)).abs()
    torch.testing.assert_close(
        error / found, torch.tensor([0.5, 0.5, 0.0, 0.0]).double(), rtol=0.02, atol=0.01
    )


@pytest.mark.parametrize("max_cost", [5.5, 6.5, 7.0])
@pytest.mark.parametrize(("deep", "short"), [(0.75, 0.375), (1.0, 1.0)])
def test_hops_and_ablations_are_paid_for(seen, max_cost, deep, short, monkeypatch):
    """Every token of every block that is run after the gradient's pass, seen by hooks."""
    estimator = HopThenVerify(max_cost=max_cost, deep=deep, short=short)
    seen.rerun.rerun_start(1)  # the clean keys and values are those of the gradient's pass
    decoder, site = seen.rerun.decoder, seen.rerun.site
    tokens, after = [], False

    def counted(_module: nn.Module, _args: Any, output: Any) -> None:
        if after:
            stream = output[0] if isinstance(output, tuple) else output
            tokens.append(stream.shape[0] * stream.shape[1])

    def screened(*args: Any) -> Any:
        nonlocal after
        found = screen(*args)
        after = True
        return found

    monkeypatch.setattr(hop_then_verify, "screen", screened)
    with ExitStack() as stack:
        for layer in seen.rerun.later_blocks:
            # What runs once per block, in the block of an attn_out site too.
            mlp = decoder.module(Site("mlp_out", layer))
            stack.callback(mlp.register_forward_hook(counted).remove)
        estimate(estimator, seen, TARGET)
    assert site.kind == "attn_out" or decoder.n_layers - site.layer - 1 == len(
        seen.rerun.later_blocks
    )
    clean = len(seen.rerun.later_blocks)  # the last position without an edit, before the screen
    spent = gradient_cost(seen) + (sum(tokens) + clean) / len(seen.codes) / decoder.n_layers
    assert max_cost - 1.5 * seen.rerun.fraction < spent <= max_cost + 1e-5
    assert estimator.forward_equivalents(seen) == pytest.approx(max_cost)


def test_ablations_that_spare_clean_positions_are_ablations(seen):
    for target in (TARGET, Answer(tokens=(7, 9, 11))):
        columns = torch.arange(seen.n_active).flip(0)
        found = ablate_sparing(seen, target, columns, clean_value(seen, target))
        torch.testing.assert_close(found.flip(0), effects(seen, target), atol=1e-5, rtol=1e-4)


def test_after_the_last_block_the_truth_costs_nothing(lm):
    source = Windows(lm, place="resid_post.3")
    seen = see_from(source, random_sae(), source.eval_windows(1, 0)[0][:10])
    estimator = HopThenVerify()
    found = estimate(estimator, seen, TARGET)
    torch.testing.assert_close(found, effects(seen, TARGET), atol=1e-5, rtol=1e-4)
    assert estimator.forward_equivalents(seen) == 1


def test_what_is_ablated_is_the_largest_and_those_at_the_boundary(seen):
    """With no share for hops: the largest bar for its cost, the rest nearest to the boundary."""
    estimator = HopThenVerify(max_cost=6.0, largest=0.5, hops=0.0, top=3)
    found = estimate(estimator, seen, TARGET)
    gradient, truth = estimate(GradTimesAct(), seen, TARGET), effects(seen, TARGET)
    ablated = torch.isclose(found, truth, rtol=1e-4, atol=1e-6)
    assert bool((torch.isclose(found, gradient, rtol=1e-4, atol=1e-6) | ablated).all())
    entries = split_entries(seen)
    bars = screen(entries, TARGET, seen.rerun.later_blocks[0]).bars
    square = torch.zeros(seen.n_active).index_add(0, seen.codes.mT.nonzero()[:, 0], bars**2)
    assert bool(ablated[(square.sqrt() / rerun_tokens(seen, TARGET)).argmax()])
    known = torch.where(torch.isclose(found, gradient), gradient, truth)
    third, fourth = known.sort(descending=True).values[2:4]
    assert bool(ablated[(known == third) | (known == fourth)].any())
    assert not bool(ablated.all())


@pytest.mark.parametrize(
    ("scores", "top", "expected"),
    [
        ([4.0, 1.0, 3.0], 1, [0.5, 2.5, 0.5]),
        ([4.0, 1.0, 3.0], 2, [2.0, 1.0, 1.0]),
        ([4.0, 1.0, 3.0], 3, [3.0, 0.0, 2.0]),
        ([4.0, 1.0, 3.0], 9, [3.0, 0.0, 2.0]),
    ],
)
def test_the_boundary_is_between_the_first_and_the_rest(scores, top, expected):
    assert boundary_distance(torch.tensor(scores), top).tolist() == expected


def test_attention_with_more_than_scores_and_a_mask_is_named(lm):
    config = SimpleNamespace(_attn_implementation="eager")
    module = nn.Module()
    module.config, module.layer_idx = config, 0  # type: ignore[assignment]
    query = torch.zeros(1, 2, 3, 4)
    from transformers import AttentionInterface

    with watched(module):
        attend = AttentionInterface()[config._attn_implementation]
        with pytest.raises(
            UserError, match="attention with s_aux, as Module has it, cannot be watched"
        ):
            attend(module, query, query, query, None, s_aux=torch.zeros(2))
    assert config._attn_implementation == "eager"


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="max_cost must be a number above 1, got 1"):
        HopThenVerify(max_cost=1.0)
    with pytest.raises(ValueError, match=r"short is a share between 0 and 1, got 1\.6"):
        HopThenVerify(short=1.6)
    with pytest.raises(ValueError, match=r"deep is a share between 0 and 1, got -1\.0"):
        HopThenVerify(deep=-1.0)
    with pytest.raises(ValueError, match="top must be a whole number from 1, got 0"):
        HopThenVerify(top=0)
    with pytest.raises(ValueError, match="largest is a share between 0 and 1"):
        HopThenVerify(largest=1.5)
    with pytest.raises(ValueError, match=r"are shares of one whole, got 0\.6 and 0\.5"):
        HopThenVerify(largest=0.6, hops=0.5)
