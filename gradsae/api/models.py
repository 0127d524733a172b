"""Language models for a notebook: by name, from a folder or a hub, or one already in memory."""

from pathlib import Path
from typing import Any

from torch import nn

from gradsae.api import presets
from gradsae.errors import UserError
from gradsae.lm.model import LM, load, wrap
from gradsae.lm.spec import DTYPES, LanguageModel
from gradsae.storage.files import expanded


def load_model(
    model: str | Path | LM | nn.Module,
    tokenizer: Any = None,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    revision: str | None = None,
) -> LM:
    """Load a causal language model, or wrap one that is in memory.

    The model is frozen and put into evaluation mode, also one that was handed over. Effects of
    single latents are small: bfloat16 rounds most of them away, so the default is float32.

    Args:
        model: One of
            a name that this project knows ("smollm2", "gemma3_270m", "tiny_random");
            a folder with config.json, tokenizer and safetensors, or a file `*.gguf`;
            a hub id ("Qwen/Qwen2.5-1.5B");
            a causal language model of transformers, which stays on its device and in its dtype.
        tokenizer: The tokenizer of a model in memory; every other kind brings its own.
        device: Where to put the weights: "cpu", "cuda", "cuda:1". Not for a model in memory.
        dtype: "float32" or "bfloat16". Not for a model in memory.
        revision: Branch, tag or commit on the hub.

    Returns:
        The model with its hook sites: `lm.n_layers`, `lm.d_model`, `lm.tokenize(text)`, and
        `lm.read(site, token_ids)` for the activations at a site.

    Raises:
        UserError: The model is unknown, cannot be fetched, is damaged, or has an architecture in
            which the decoder blocks are not found.

    Example:
        >>> model = gradsae.load_model("smollm2")
        >>> model = gradsae.load_model(my_transformers_model, my_tokenizer)
    """
    if isinstance(model, LM):
        return model
    if isinstance(model, nn.Module):
        return _in_memory(model, tokenizer)
    if dtype not in DTYPES:
        raise UserError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    return load(_spec(str(model), dtype, revision), device)


def _in_memory(model: nn.Module, tokenizer: Any) -> LM:
    if tokenizer is None:
        raise UserError(
            "a model in memory needs its tokenizer: load_model(model, tokenizer), for example "
            "with tokenizer = AutoTokenizer.from_pretrained(...)"
        )
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "get_text_config"):
        raise UserError(
            f"a model in memory must be a causal language model of transformers, got a "
            f"{type(model).__name__} without a config"
        )
    name = Path(getattr(config, "_name_or_path", "") or type(model).__name__).name
    return wrap(model, tokenizer, LanguageModel(name=name, source="memory", licence="unknown"))


def _spec(name: str, dtype: str, revision: str | None) -> LanguageModel:
    """Return the specification of a model by its name, path or hub id."""
    path = expanded(name)
    rest: dict[str, Any] = {"name": path.name, "licence": "unknown", "dtype": dtype}
    if path.is_dir():
        return LanguageModel(source="folder", folder=str(path), **rest)
    if path.suffix == ".gguf":
        return LanguageModel(source="gguf", gguf=str(path), **rest)
    if name.count("/") == 1 and not name.startswith((".", "~", "/")):
        return LanguageModel(source="hub", hub_id=name, revision=revision, **rest)
    names = presets.names("model")
    if name not in names:
        raise UserError(
            f"there is no model {name!r}: give one of {', '.join(names)}, an existing folder, a "
            "file *.gguf, a hub id owner/name, or a model of transformers with its tokenizer"
        )
    return presets.build("model", name, changes={"dtype": dtype})
