"""Every causal architecture of transformers: right at each site, or refused with what to set.

What is expected comes from torch's own hooks on the plain model: the logits of a pass in which a
site's output is changed, and the gradient of a logit with respect to that change.
"""

import re
from functools import lru_cache
from typing import Any, get_args

import pytest
import torch
from tiny_architectures import ARCHITECTURES, NOT_BUILT, tiny_model
from torch import Tensor, nn

from gradsae.errors import UserError
from gradsae.lm.model import LM, wrap
from gradsae.lm.sites import Site, SiteKind
from gradsae.lm.spec import LanguageModel

TOLERANCE = 1e-5
"""Of the largest logit, or of the largest entry of a gradient."""
LAYER, N_POS, START = 1, 10, 3
WHAT_TO_SET = re.compile(
    r"model\.(block_path|attn_path|mlp_path)|is_decoder|does not run on the tokens of a text alone"
)
KNOWN = (
    *("bloom", "falcon", "gemma2", "gemma3_text", "glm4", "gpt2", "gpt_neox", "gpt_oss", "llama"),
    *("llama4_text", "mamba", "mistral", "mpt", "olmo2", "opt", "phi3", "qwen2", "qwen3_next"),
)
"""Tried in each run of the tests; the others are slow together."""
REST = [name for name in ARCHITECTURES if name not in KNOWN]
EACH = [
    *(name for name in KNOWN if name in ARCHITECTURES),
    *(pytest.param(name, marks=pytest.mark.slow) for name in REST),
]


NO_HALVES = (
    *("bart", "beam", "bert", "bert-generation", "big_bird", "blenderbot-small", "bloom"),
    *("camembert", "data2vec-text", "electra", "ernie", "falcon_h1", "falcon_mamba", "gemma4"),
    *("gemma4_text", "git", "granitemoehybrid", "hyperclovax", "inkling2_text", "inkling_text"),
    *("lfm3", "mamba", "mamba2", "marian", "megatron-bert", "minicpm3", "minimax", "mpt"),
    *("mvp", "nemotron_h", "openai-gpt", "plbart", "rembert", "roberta"),
    *("roberta-prelayernorm", "roc_bert", "roformer", "trocr", "xlm-roberta", "xlm-roberta-xl"),
    *("xlstm", "xmod"),
)
"""Of these only the residual stream is read: their blocks are not input + attention + MLP, or the
halves have no module of their own."""
NO_SITES = (
    *("cpmant", "deepseek_v4", "gemma3n_text", "hrm_text", "hy_v4", "longcat_flash"),
    *("prophetnet", "reformer", "xlm", "xlnet"),
)
"""Refused at every site: their blocks hand on something else than one vector for each token, are
not one list of as many as the config says, or have no gradient."""
REFUSED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(NO_HALVES, ("mlp_out", "attn_out")),
    **dict.fromkeys(NO_SITES, get_args(SiteKind)),
    "zamba2": ("mlp_out",),
    "zaya": ("attn_out",),
}


@lru_cache(maxsize=1)
def lm_of(name: str) -> LM:
    return wrap(tiny_model(name), None, LanguageModel(name=name, source="memory", licence="none"))


def plain_logits(lm: LM, module: nn.Module, tokens: Tensor, delta: Tensor) -> Tensor:
    """Logits of the plain model with `delta` [pos, d_in] added to a module's output."""

    def add(_module: nn.Module, _args: Any, output: Any) -> Any:
        inside = isinstance(output, tuple | list)
        hidden = output[0] if inside else output
        hidden = hidden + delta.view_as(hidden)
        if not inside:
            return hidden
        return getattr(type(output), "_make", type(output))((hidden, *output[1:]))

    handle = module.register_forward_hook(add)
    try:
        mask = torch.ones_like(tokens)
        return lm.model(input_ids=tokens, attention_mask=mask, use_cache=False).logits.float()
    finally:
        handle.remove()


def check_site(lm: LM, site: Site) -> None:
    """Compare an ablation and a gradient at a site with torch's own hooks."""
    tokens = torch.arange(20, 20 + N_POS)[None]
    rerun, module = lm.rerun(site, tokens), lm.decoder.module(site)
    read = lm.read(site, tokens)[0]
    assert torch.equal(rerun.clean, read)
    delta = 0.5 * read.flip(1)  # another direction: a norm would undo another size
    delta[:START] = 0
    with torch.no_grad():
        clean = plain_logits(lm, module, tokens, torch.zeros_like(read))[0]
        expected = plain_logits(lm, module, tokens, delta)[0]
        largest = expected.abs().max()
        assert (expected - clean).abs().max() > 100 * TOLERANCE * largest
        got = rerun.logits((read + delta)[None])[0]
        assert (got - expected).abs().max() <= TOLERANCE * largest
        last = rerun.logits((read + delta)[None], [-1], start=START)[0, 0]
        assert (last - expected[-1]).abs().max() <= TOLERANCE * largest
    one, other = (read.clone().requires_grad_() for _ in range(2))
    (by_hooks,) = torch.autograd.grad(plain_logits(lm, module, tokens, one - read)[0, -1, 7], one)
    (by_rerun,) = torch.autograd.grad(rerun.logits(other[None], [-1])[0, 0, 7], other)
    assert (by_rerun - by_hooks).abs().max() <= TOLERANCE * by_hooks.abs().max()


@pytest.mark.parametrize("kind", get_args(SiteKind))
@pytest.mark.parametrize("name", EACH)
@pytest.mark.filterwarnings("ignore")
def test_a_site_is_right_or_the_message_says_what_to_set(name, kind):
    if name in NOT_BUILT:
        pytest.skip(NOT_BUILT[name])
    try:
        check_site(lm_of(name), Site(kind, LAYER))
        assert kind not in REFUSED.get(name, ())
    except UserError as error:
        assert WHAT_TO_SET.search(str(error)), error
        assert kind in REFUSED.get(name, ()), error


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("bloom", {"attn_path": "self_attention.dense", "mlp_path": "mlp.dense_4h_to_h"}),
        ("mpt", {"mlp_path": "ffn.down_proj"}),
        ("llama", {"attn_path": "self_attn.o_proj", "mlp_path": "mlp.down_proj"}),
    ],
)
@pytest.mark.parametrize("kind", ["mlp_out", "attn_out"])
def test_a_path_that_is_set_by_hand_is_where_edits_go(name, paths, kind):
    spec = LanguageModel(name=name, source="memory", licence="none", **paths)
    check_site(wrap(tiny_model(name), None, spec), Site(kind, LAYER))


def test_an_encoder_that_sees_later_tokens_is_refused():
    model = tiny_model("bert", is_decoder=False)
    with pytest.raises(UserError, match=r"a token sees those after it.* set is_decoder to true"):
        wrap(model, None, LanguageModel(name="bert", source="memory", licence="none"))


def test_nine_of_ten_architectures_are_tried():
    assert len(set(NOT_BUILT) & set(ARCHITECTURES)) < 0.1 * len(ARCHITECTURES)
