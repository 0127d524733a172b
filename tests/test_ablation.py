"""Ablation that begins in the middle of a prompt, against full passes with torch's own hooks."""

from typing import Any

import pytest
import torch
from tiny_models import CONFIGS, KINDS, random_lm
from tiny_prompts import effects
from torch import Tensor, nn

from gradsae.influence.ablation import ablate, forward_equivalents
from gradsae.influence.target import NextToken
from gradsae.lm.model import LM
from gradsae.lm.sites import parse_site
from gradsae.prompts.seen import SeenPrompt

N_POS = 12
FIRES = [[0], [0, 11], [3, 4, 9], [5], [5, 6, 7, 8], [9, 11], [10], [11], [11], list(range(12))]
"""Positions at which each latent is open; sliding windows in the models see 4 positions."""
TARGET = NextToken(token=7)


def seen_by(lm: LM, kind: str = "resid_post", layer: int = 1) -> SeenPrompt:
    """A prompt with planted latents, in an order that is not that of their first positions."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 256, (N_POS,), generator=generator)
    codes = torch.zeros(N_POS, len(FIRES))
    for column, latent in enumerate(torch.randperm(len(FIRES), generator=generator).tolist()):
        where = FIRES[latent]
        codes[where, column] = 0.5 + torch.rand(len(where), generator=generator)
    return SeenPrompt(
        token_ids=tokens,
        rerun=lm.rerun(parse_site(f"{kind}.{layer}"), tokens[None]),
        latents=torch.arange(len(FIRES)),
        codes=codes,
        directions=torch.randn(len(FIRES), lm.d_model, generator=generator),
        scale=1 + torch.rand(N_POS, 1, generator=generator),
    )


def plain_loop(lm: LM, place: str, seen: SeenPrompt) -> Tensor:
    """One full forward per latent, without a cache, edited by a torch hook."""
    module = lm.decoder.module(parse_site(place))

    def log_prob(change: Tensor) -> Tensor:
        def hook(_module, _args, output):
            if isinstance(output, tuple):
                return (output[0] + change, *output[1:])
            return output + change

        handle = module.register_forward_hook(hook)
        with torch.no_grad():
            logits = lm.model(input_ids=seen.token_ids[None], use_cache=False).logits[0, -1]
        handle.remove()
        return logits.log_softmax(0)[TARGET.token]

    written = torch.einsum("pa, p, ad -> apd", seen.codes, seen.scale[:, 0], seen.directions)
    return log_prob(torch.zeros(1)) - torch.stack([log_prob(-change) for change in written])


@pytest.fixture(scope="module", params=CONFIGS)
def lm(request: pytest.FixtureRequest) -> LM:
    return random_lm(request.param)


@pytest.mark.parametrize("kind", KINDS)
def test_effects_equal_full_passes_wherever_the_latents_fire(lm, kind):
    seen = seen_by(lm, kind)
    expected = plain_loop(lm, f"{kind}.1", seen)
    assert expected.abs().min() > 1e-3  # every edit does something
    for batch_rows in (2, 4, 64):
        found = effects(seen, TARGET, batch_rows)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert seen.rerun.rerun_start(5) == 5


@pytest.mark.parametrize("layer", [0, 3])
def test_the_first_and_the_last_layer_are_sites_like_the_others(lm, layer):
    seen = seen_by(lm, layer=layer)
    expected = plain_loop(lm, f"resid_post.{layer}", seen)
    torch.testing.assert_close(effects(seen, TARGET, 4), expected, atol=1e-5, rtol=1e-5)


def test_a_latent_that_writes_nothing_has_no_effect_bit_for_bit(lm):
    seen = seen_by(lm)
    seen.directions.zero_()
    assert effects(seen, TARGET, 4).tolist() == [0.0] * len(FIRES)


def test_blocks_after_the_site_run_from_the_first_open_position_on():
    lm = random_lm("llama")
    seen = seen_by(lm)
    column = next(c for c in range(len(FIRES)) if seen.codes[:, c].nonzero()[:, 0].tolist() == [10])
    assert seen.rerun.rerun_start(10) == 10  # the clean pass is made here
    shapes: list[torch.Size] = []
    handle = lm.model.model.layers[3].mlp.register_forward_hook(
        lambda _m, args, _out: shapes.append(args[0].shape)
    )
    found = ablate(seen, TARGET, torch.tensor([column]), batch_rows=8)
    handle.remove()
    assert shapes == [(2, 2, lm.d_model)]  # an unedited row beside it; positions 10 and 11
    assert found.n_reruns == pytest.approx(2 * 2 / 12)


def test_the_cost_of_a_latent_is_its_share_of_blocks_and_positions():
    seen = seen_by(random_lm("llama"))
    positions = sum(N_POS - fires[0] for fires in FIRES)
    expected = 1 + 2 / 4 * positions / N_POS  # two of four blocks follow the site
    columns = torch.arange(len(FIRES))
    assert forward_equivalents(seen, columns) == pytest.approx(expected)


def test_logits_before_the_start_of_a_run_are_refused():
    seen = seen_by(random_lm("llama"))
    with pytest.raises(ValueError, match="read at 3, before start=5"):
        seen.rerun.logits(seen.clean[None], [3, -1], start=5)


class Mixing(nn.Module):
    """A block whose keys and values are not all that later positions need from earlier ones."""

    def __init__(self, block: Any, *, cached: bool) -> None:
        super().__init__()
        self.block, self.cached, self.self_attn = block, cached, block.self_attn

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Any:
        if not self.cached:  # by the name that this transformers has
            kwargs |= {name: None for name in ("past_key_values", "cache") if name in kwargs}
        return self.block(hidden_states + 0.1 * hidden_states.cumsum(1), **kwargs)


@pytest.mark.parametrize("cached", [True, False])
def test_a_model_that_keeps_another_state_is_run_whole_and_right(cached):
    lm = random_lm("llama")
    blocks = lm.model.model.layers
    blocks[3] = Mixing(blocks[3], cached=cached)
    seen = seen_by(lm)
    assert seen.rerun.rerun_start(5) == 0
    expected = plain_loop(lm, "resid_post.1", seen)
    torch.testing.assert_close(effects(seen, TARGET, 4), expected, atol=1e-5, rtol=1e-5)
    assert forward_equivalents(seen, torch.arange(3)) == 1 + 3 * 2 / 4
