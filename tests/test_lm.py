"""The language model wrapper: sites, edits and re-runs agree with plain transformers and torch."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_models import CONFIGS, KINDS, random_lm
from torch import nn

from gradsae.errors import UserError
from gradsae.lm.model import LM, load, wrap
from gradsae.lm.sites import Site, parse_site
from gradsae.lm.spec import LanguageModel


@pytest.fixture(params=CONFIGS)
def lm(request: pytest.FixtureRequest) -> LM:
    return random_lm(request.param)


@pytest.fixture
def tokens(generator: torch.Generator) -> torch.Tensor:
    return torch.randint(0, 256, (2, 12), generator=generator)


def hooked(lm: LM, module: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """The module's output in a plain forward pass, by torch's own hook."""
    kept: list[Any] = []
    handle = module.register_forward_hook(lambda _m, _a, out: kept.append(out))
    with torch.no_grad():
        lm.model(input_ids=tokens, use_cache=False)
    handle.remove()
    return kept[0][0] if isinstance(kept[0], tuple) else kept[0]


def plain_logits(lm: LM, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return lm.model(input_ids=tokens, use_cache=False).logits


def test_residual_stream_grows_by_exactly_the_attention_and_mlp_sites(lm, tokens):
    for layer in range(1, lm.n_layers):
        before = lm.read(Site("resid_post", layer - 1), tokens)
        attn = lm.read(Site("attn_out", layer), tokens)
        mlp = lm.read(Site("mlp_out", layer), tokens)
        after = lm.read(Site("resid_post", layer), tokens)
        torch.testing.assert_close(after, before + attn + mlp, atol=1e-5, rtol=1e-5)


def test_last_residual_site_through_norm_and_head_gives_the_logits(tokens):
    lm = random_lm("llama")
    last = lm.read(Site("resid_post", 3), tokens)
    expected = lm.model.lm_head(lm.model.model.norm(last))
    torch.testing.assert_close(lm.logits(tokens), expected)


def test_reading_equals_a_plain_torch_hook_and_stopping_changes_nothing(lm, tokens):
    block = lm.model.get_submodule(lm.decoder.layout.blocks)[2]
    expected = hooked(lm, block, tokens)
    read = lm.read(Site("resid_post", 2), tokens)
    torch.testing.assert_close(read, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(lm.read(Site("resid_post", 2), tokens, stop=False), read)


def test_stopped_read_runs_no_later_block_and_no_head(tokens):
    lm = random_lm("llama")
    ran = []
    handles = [
        module.register_forward_hook(lambda *_, n=name: ran.append(n))
        for name, module in lm.model.named_modules()
        if name in ("model.layers.1", "model.layers.2", "model.norm", "lm_head")
    ]
    lm.read(Site("resid_post", 1), tokens)
    assert ran == ["model.layers.1"]
    for handle in handles:
        handle.remove()


def test_logits_equal_plain_transformers(lm, tokens):
    torch.testing.assert_close(lm.logits(tokens), plain_logits(lm, tokens))


def test_logits_at_positions_are_rows_of_all_logits(lm, tokens):
    some = lm.logits(tokens, positions=[0, 5, -1])
    torch.testing.assert_close(some, lm.logits(tokens)[:, [0, 5, 11]])


@pytest.mark.parametrize("kind", KINDS)
def test_no_op_edit_leaves_logits_bit_equal(lm, tokens, kind):
    edit = (Site(kind, 1), lambda x: x)
    assert torch.equal(lm.logits(tokens, edit=edit), lm.logits(tokens))


@pytest.mark.parametrize("kind", KINDS)
def test_reruns_of_edited_activations_equals_a_full_pass_with_that_edit(lm, tokens, kind):
    """The full pass is torch's own hook; edits are large, so a wrong site cannot pass."""
    site, prompt = Site(kind, 1), tokens[:1]
    rerun = lm.rerun(site, prompt)
    noise = torch.randn(3, *rerun.clean.shape, generator=torch.Generator().manual_seed(1))
    edited = rerun.clean + noise
    for row, value in zip(rerun.logits(edited), edited, strict=True):
        module = lm.decoder.module(site)
        handle = module.register_forward_hook(
            lambda _m, _a, out, v=value: (v[None], *out[1:]) if isinstance(out, tuple) else v[None]
        )
        expected = plain_logits(lm, prompt)[0]
        handle.remove()
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_reruns_of_the_clean_activation_gives_the_clean_logits(lm, tokens, kind):
    site = Site(kind, 2)
    rerun = lm.rerun(site, tokens[:1])
    assert torch.equal(rerun.clean, lm.read(site, tokens[:1])[0])
    got = rerun.logits(rerun.clean[None], positions=[-1])
    torch.testing.assert_close(got, lm.logits(tokens[:1])[:, -1:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rerun_leaves_the_model_as_it_was(lm, tokens, kind):
    before = lm.logits(tokens)
    rerun = lm.rerun(Site(kind, 3), tokens[:1])
    rerun.logits(rerun.clean[None] * 2)
    with pytest.raises(UserError, match="not finite"):
        rerun.logits(rerun.clean[None] * float("inf"))
    with pytest.raises(ValueError, match="must be"):
        rerun.logits(rerun.clean[None, :3])
    assert torch.equal(lm.logits(tokens), before)
    for module in lm.model.modules():
        assert "forward" not in vars(module)
        assert not module._forward_hooks


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_through_edit_and_rerun_match_finite_differences(tokens, kind):
    lm = random_lm("gemma2")
    lm.model.double()
    site, prompt = Site(kind, 1), tokens[:1]
    rerun = lm.rerun(site, prompt)
    direction = torch.randn_like(rerun.clean)

    def through_edit(scale: torch.Tensor) -> torch.Tensor:
        edit = (site, lambda x: x + scale * direction)
        return _target(lm.logits(prompt, edit=edit))

    def through_rerun(scale: torch.Tensor) -> torch.Tensor:
        return _target(rerun.logits((rerun.clean + scale * direction)[None]))

    for run in (through_edit, through_rerun):
        scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(run(scale), scale)
        step = torch.tensor(1e-2, dtype=torch.float64)
        numeric = (run(step) - run(-step)) / (2 * step)
        torch.testing.assert_close(gradient, numeric.detach(), atol=2e-3, rtol=2e-3)


def _target(logits: torch.Tensor) -> torch.Tensor:
    return logits[0, -1].double().log_softmax(-1)[7]


def test_fraction_counts_the_blocks_that_are_run_again(tokens):
    lm = random_lm("llama")
    assert lm.rerun(Site("resid_post", 0), tokens[:1]).fraction == 3 / 4
    assert lm.rerun(Site("mlp_out", 3), tokens[:1]).fraction == 0
    assert lm.rerun(Site("attn_out", 3), tokens[:1]).fraction == 1 / 4


def test_right_padding_does_not_change_the_real_tokens(lm, tokens):
    mask = torch.ones_like(tokens)
    mask[1, 8:] = 0
    site = Site("resid_post", 2)
    padded = lm.read(site, tokens, mask)[1, :8]
    torch.testing.assert_close(padded, lm.read(site, tokens[1:, :8])[0], atol=1e-5, rtol=1e-5)


def test_left_padding_is_refused(tokens):
    mask = torch.ones_like(tokens)
    mask[0, 0] = 0
    with pytest.raises(UserError, match="right padding"):
        random_lm().logits(tokens, mask)


def test_greedy_generation_equals_transformers(tokens):
    lm = random_lm("llama")
    expected = lm.model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=5,
        min_new_tokens=5,
        do_sample=False,
        pad_token_id=0,
    )
    lm.model.generation_config.eos_token_id = None
    assert torch.equal(lm.generate(tokens, 5), expected)


def test_bfloat16_activations_give_float32_logits(tokens):
    lm = random_lm("llama", dtype="bfloat16")
    assert lm.read(Site("mlp_out", 1), tokens).dtype == torch.bfloat16
    assert lm.logits(tokens).dtype == torch.float32


def test_special_positions_are_the_first_and_every_special_token():
    lm = random_lm()
    end = lm.tokenizer.eos_token_id
    tokens = torch.tensor([[5, 6, end, 7], [end, end, 3, 4]])
    expected = [[True, False, True, False], [True, True, False, False]]
    assert lm.special_positions(tokens).tolist() == expected


def test_byte_tokenizer_gives_one_token_per_byte_and_reads_back():
    lm = random_lm()
    text = "def f(x):\n    return 'é'"
    ids = lm.tokenize(text)[0]
    assert len(ids) == len(text.encode())
    assert lm.text(ids) == text


def test_random_weights_depend_on_the_seed_alone(tokens):
    one = LanguageModel(name="a", source="random", licence="none", config=CONFIGS["llama"])
    two = LanguageModel(name="b", source="random", licence="none", config=CONFIGS["llama"], seed=1)
    torch.manual_seed(5)
    first = load(one).logits(tokens)
    torch.manual_seed(6)
    assert torch.equal(load(one).logits(tokens), first)
    assert not torch.equal(load(two).logits(tokens), first)
    assert one.weights_id() != two.weights_id()


def test_layer_out_of_range_names_model_and_range(tokens):
    with pytest.raises(UserError, match=r"layer 4 is out of range: random_llama has layers 0 to 3"):
        random_lm().read(Site("resid_post", 4), tokens)


@pytest.mark.parametrize("text", ["", "resid_post", "resid_post.x", "resid_pre.1"])
def test_a_misspelt_site_is_a_user_error(text):
    with pytest.raises(UserError, match=r"site|resid_post\.15"):
        parse_site(text)


def test_a_site_reads_back_what_it_writes():
    assert parse_site(str(Site("mlp_out", 15))) == Site("mlp_out", 15)


def test_empty_and_too_long_prompts_are_named():
    lm = random_lm()
    with pytest.raises(UserError, match="empty prompt"):
        lm.prompt("")
    with pytest.raises(UserError, match=r"65 tokens .* random_llama \(64\)"):
        lm.prompt("x" * 65)
    with pytest.raises(UserError, match="exceed the context"):
        lm.logits(torch.zeros(1, 65, dtype=torch.long))


def test_logits_that_are_not_finite_are_a_user_error(tokens):
    edit = (Site("resid_post", 1), lambda x: x * float("nan"))
    with pytest.raises(UserError, match="not finite"):
        random_lm().logits(tokens, edit=edit)


class OddBlock(nn.Module):
    """A block with names that no rule knows."""

    norm_a: Any
    mixing: Any
    norm_b: Any
    feeding: Any

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm_a, self.mixing = block.input_layernorm, block.self_attn
        self.norm_b, self.feeding = block.post_attention_layernorm, block.mlp

    def forward(self, hidden_states, **kwargs):
        hidden_states = hidden_states + self.mixing(self.norm_a(hidden_states), **kwargs)[0]
        return hidden_states + self.feeding(self.norm_b(hidden_states))


def odd_lm(**paths: Any) -> LM:
    lm = random_lm("llama")
    layers = lm.model.model.layers
    lm.model.model.layers = nn.ModuleList(OddBlock(block) for block in layers)
    spec = LanguageModel(
        name="odd", source="random", licence="none", config=CONFIGS["llama"], **paths
    )
    return wrap(lm.model, lm.tokenizer, spec)


def test_an_unknown_block_says_which_path_to_set_and_what_it_holds(tokens):
    lm = odd_lm()
    lm.read(Site("resid_post", 1), tokens)  # needs no names
    with pytest.raises(UserError, match=r"model\.mlp_path .* norm_a, mixing, norm_b, feeding"):
        lm.read(Site("mlp_out", 1), tokens)


def test_given_paths_resolve_an_unknown_block(tokens):
    lm, known = odd_lm(attn_path="mixing", mlp_path="feeding"), random_lm("llama")
    for kind in KINDS:
        assert torch.equal(lm.read(Site(kind, 2), tokens), known.read(Site(kind, 2), tokens))


def test_a_wrong_path_is_a_user_error(tokens):
    with pytest.raises(UserError, match="has no module 'mixer'"):
        odd_lm(attn_path="mixer")
    lm = odd_lm(attn_path="norm_a", mlp_path="feeding")
    with pytest.raises(UserError, match="is not input"):
        lm.read(Site("mlp_out", 1), tokens)


def test_no_list_of_blocks_is_a_user_error_that_lists_candidates():
    lm = random_lm("llama")
    lm.model.config.num_hidden_layers = 7
    with pytest.raises(UserError, match=r"model\.block_path .* model\.layers \(4\)"):
        wrap(lm.model, lm.tokenizer, lm.spec)


def test_provenance_names_weights_and_rounding():
    got = random_lm().provenance()
    assert got["quantisation"] == "none"
    assert got["origin"].startswith("random initialisation")
    assert got["weights_id"].startswith("random:")
    assert got["architecture"] == "LlamaForCausalLM"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "ftp"}, "source must be one of"),
        ({"source": "hub"}, "needs hub_id"),
        ({"source": "wheel", "wheels": [{"requirement": "a"}]}, "gguf_sha256"),
        ({"dtype": "float16"}, "dtype must be one of"),
        (
            {"config": {**CONFIGS["llama"], "vocab_size": 10}},
            "config.vocab_size must be at least 257 .*, got 10",
        ),
    ],
)
def test_a_wrong_specification_is_a_user_error(changes, message):
    fields = {"name": "x", "source": "random", "licence": "none", "config": CONFIGS["llama"]}
    with pytest.raises(UserError, match=message):
        load(LanguageModel(**{**fields, **changes}))


@pytest.fixture(scope="module")
def smollm2() -> LM:
    fields = yaml.safe_load((Path(__file__).parents[1] / "conf/model/smollm2.yaml").read_text())
    del fields["_target_"]
    return load(LanguageModel(**fields))


@pytest.mark.network
def test_smollm2_knows_the_capital_of_france(smollm2):
    prompt = smollm2.prompt("The capital of France is")
    assert smollm2.text(smollm2.generate(prompt, 1)[0, -1:]) == " Paris"


@pytest.mark.network
def test_smollm2_carries_a_huge_norm_at_position_0(smollm2):
    prompt = smollm2.prompt("The weather in the mountains changes quickly, take a coat with you.")
    norms = smollm2.read(Site("resid_post", 15), prompt)[0].norm(dim=-1)
    assert norms[0] > 50 * norms[1:].median()


@pytest.mark.network
@pytest.mark.parametrize("kind", KINDS)
def test_smollm2_rerun_equals_a_full_pass(smollm2, kind):
    prompt = smollm2.prompt("The capital of France is")
    site = Site(kind, 15)
    rerun = smollm2.rerun(site, prompt)
    edited = rerun.clean[None] * 0.9
    full = smollm2.logits(prompt, edit=(site, lambda x: x * 0.9))
    torch.testing.assert_close(rerun.logits(edited), full, atol=1e-3, rtol=1e-4)


@pytest.mark.network
def test_smollm2_records_say_that_its_weights_are_rounded(smollm2):
    assert smollm2.provenance()["quantisation"] == "4-bit-rounded (Q4_1 GGUF)"


def test_attention_scores_are_capped_where_the_config_says_so(tokens):
    """transformers 4 runs Gemma 2 on an attention of torch's that knows no cap."""
    lm, uncapped = (random_lm("gemma2", attn_logit_softcapping=cap) for cap in (0.1, 1e6))
    logits = lm.logits(tokens)
    assert (logits - uncapped.logits(tokens)).abs().max() > 0.1
    lm.model.set_attn_implementation("eager")
    torch.testing.assert_close(lm.logits(tokens), logits)
