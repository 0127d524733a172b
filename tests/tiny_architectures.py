"""A tiny random model of every causal architecture that the installed transformers knows.

The defaults of each config are taken and made small field by field; what that breaks stands in
`CHANGES`. `NOT_BUILT` holds those that cannot be made tiny, with the reason.
"""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

ARCHITECTURES = list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
N_LAYERS = 4
MOST_PARAMETERS = 8_000_000

SIZES: dict[int, tuple[str, ...]] = {
    N_LAYERS: (
        *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"),
        *("num_decoder_layers", "num_attention_heads", "n_head", "n_heads", "num_heads"),
        *("decoder_attention_heads", "encoder_attention_heads", "num_experts", "mamba_n_heads"),
        *("num_local_experts", "n_routed_experts", "moe_num_experts", "rotary_dim"),
        *("qk_rope_head_dim", "index_n_heads"),
    ),
    32: (
        *("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "decoder_hidden_size"),
        *("intermediate_size", "n_inner", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim"),
        *("ffn_hidden_size", "moe_intermediate_size", "shared_expert_intermediate_size"),
        *("expert_ffn_hidden_size", "intermediate_size_mlp", "dff", "dim_ff", "mamba_d_ssm"),
        *("lru_width", "attention_hidden_size", "index_head_dim", "linear_conv_kernel_dim"),
    ),
    64: (
        *("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx"),
        *("max_target_positions", "max_source_positions", "context_length"),
    ),
    8: ("head_dim", "v_head_dim", "qk_nope_head_dim", "kv_lora_rank", "q_lora_rank", "dim_head"),
    16: ("mamba_d_head", "mamba_headdim", "mamba_d_state", "linear_key_head_dim"),
    2: (
        *("num_key_value_heads", "num_kv_heads", "encoder_layers", "num_encoder_layers"),
        *("num_experts_per_tok", "moe_k", "moe_topk", "mamba_n_groups"),
    ),
    1: (
        *("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"),
        *("num_expert_group", "num_nextn_predict_layers"),
    ),
    300: ("vocab_size", "vocab_size_per_layer_input"),
}
SMALL = {name: size for size, names in SIZES.items() for name in names}
LISTS = ("layer_types", "mlp_layer_types", "layers_block_type", "block_types")

SLIDING = ["sliding_attention", "full_attention"] * 2
CHANGES: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"linear_num_heads": 4, "linear_head_dim": 8, "num_experts_per_token": 2},
    "kimi_linear": {"linear_num_heads": 4, "linear_head_dim": 8, "num_experts_per_token": 2},
    "deepseek_v2": {"num_experts_per_tok": 2, "n_routed_experts": 4},
    "deepseek_v4": {"head_dim": 32, "o_groups": 2, "o_lora_rank": 8},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "gemma3n_text": {"num_kv_shared_layers": 0, "layer_types": SLIDING},
    "gemma4_text": {"num_kv_shared_layers": 0, "layer_types": SLIDING},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "ministral": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 2},
    "reformer": {
        "first": {
            **{"is_decoder": True, "attn_layers": ["local"] * 4, "axial_pos_shape": [8, 8]},
            **{"hidden_size": 32, "axial_pos_embds_dim": [16, 16], "local_attn_chunk_length": 8},
        }
    },
    "roc_bert": {"pronunciation_vocab_size": 300, "shape_vocab_size": 300},
    "xlstm": {"first": {"hidden_size": 32, "embedding_dim": 32, "num_heads": 4, "num_blocks": 4}},
    "xmod": {"default_language": "en_XX"},
    "zamba2": {"mamba_headdim": 8, "attention_hidden_size": 64, "attention_head_dim": 16},
    "longcat_flash": {"zero_expert_num": 2},
}
NOT_BUILT = {
    "blt": "its patches are made by a second model of 96 M parameters",
    "cohere_compass_text": "its default config has no rotary base for full attention",
    "dbrx": "its default config lacks rope_theta",
    "dots3_note": "its widths are given per layer",
    "dots3_note_text": "its widths are given per layer",
    "gemma3n": "needs timm",
    "gemma4_assistant": "its default config is refused by itself",
    "gemma4_unified_assistant": "reads keys and values of another model",
    "musicgen": "is built from three configs, not from its own",
    "musicgen_melody": "is built from three configs, not from its own",
    "qwen4_exp": "its default config leaves sizes open",
    "qwen4_exp_text": "its default config leaves sizes open",
    "zamba": "ties weights of layers that a small one does not have",
}
"""Why an architecture is not tried here."""


def shrunk(config: PretrainedConfig) -> None:
    """Make the sizes of a config, and of those inside it, small."""
    for name, value in list(vars(config).items()):
        if isinstance(value, PretrainedConfig):
            shrunk(value)
            if "vision" in name or "audio" in name:
                value.num_hidden_layers = N_LAYERS - 1
        elif name in LISTS and isinstance(value, list):
            setattr(config, name, value[:N_LAYERS])
        elif name.endswith("token_id") and isinstance(value, int) and not 0 <= value < 300:
            setattr(config, name, 0)
        elif (
            isinstance(value, int)
            and not isinstance(value, bool)
            and value > SMALL.get(name, value)
        ):
            setattr(config, name, SMALL[name])
    if getattr(config, "kv_lora_rank", None):  # latent attention, with widths of its own
        config.head_dim = config.qk_rope_head_dim
        config.num_key_value_heads = config.num_attention_heads
        config.qk_head_dim = config.qk_rope_head_dim + config.qk_nope_head_dim


def tiny_config(name: str, *, is_decoder: bool = True) -> PretrainedConfig:
    """Return the small config of an architecture."""
    config = AutoConfig.for_model(name, **CHANGES.get(name, {}).get("first", {}))
    shrunk(config)
    config.is_decoder = is_decoder  # encoders are causal only if they are told to be
    for field, value in CHANGES.get(name, {}).items():
        if field != "first":
            place, _, last = field.rpartition(".")
            setattr(getattr(config, place) if place else config, last, value)
    return config


def tiny_model(name: str, *, is_decoder: bool = True) -> Any:
    """Return a model of random weights in eval mode. ValueError if it is not tiny."""
    config = tiny_config(name, is_decoder=is_decoder)
    with torch.device("meta"):
        n = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if n > MOST_PARAMETERS:
        raise ValueError(f"{name} has {n:,} parameters")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # larger than the usual weights, or no edit would move the output
        for value in model.parameters():
            if value.dim() > 1:
                noise = torch.randn(value.shape, generator=generator) * value.shape[-1] ** -0.5
                value.copy_(noise)
    return model.eval()
