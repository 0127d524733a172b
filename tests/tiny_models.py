"""One tiny random model of each architecture that the language-model tests run on."""

from gradsae.lm.model import LM, load
from gradsae.lm.spec import LanguageModel

HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
WIDTHS = {"hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 64}
BASE = {**WIDTHS, "num_hidden_layers": 4}
CONFIGS = {
    "llama": {"model_type": "llama", **BASE, **HEADS},
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64},
    "neox_parallel": {"model_type": "gpt_neox", **BASE, "num_attention_heads": 4},
    "neox_sequential": {
        **{"model_type": "gpt_neox", "use_parallel_residual": False},
        **{**BASE, "num_attention_heads": 4},
    },
    "gemma2": {"model_type": "gemma2", **BASE, **HEADS, "sliding_window": 4},
    "gemma3": {
        **{"model_type": "gemma3_text", **BASE, **HEADS, "sliding_window": 4},
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
}
KINDS = ("resid_post", "mlp_out", "attn_out")


def random_lm(architecture: str = "llama", dtype: str = "float32", **changes: object) -> LM:
    config = {**CONFIGS[architecture], **changes}
    name = f"random_{architecture}"
    return load(
        LanguageModel(name=name, source="random", licence="none", dtype=dtype, config=config)
    )
