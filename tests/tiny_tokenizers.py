"""Small tokenizers of each family, trained on a few sentences, with special tokens anywhere."""

from collections.abc import Callable
from itertools import product
from typing import Any

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

TEXT = (
    "The capital of France is Paris, and the capital of Italy is Rome. Anna lives in Paris; Peter "
    "works as a teacher in Rome. Every morning the ferry leaves at seven and comes back at nine. "
    "In 1200 the town of Lyons sent 350 men to the fair, and none of them came home again."
)
SPECIAL = ["<unk>", "<s>", "</s>"]
PLACES = {"nowhere": "$A", "front": "<s> $A", "end": "$A </s>", "both": "<s> $A </s>"}
Made = tuple[Tokenizer, Any]


def _byte_level(*, space: bool) -> Made:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return inner, trainers.BpeTrainer(
        vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )


def _metaspace() -> Made:
    """As SentencePiece has it: a space is a letter, and one is put before every text."""
    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    inner.decoder = decoders.Metaspace(prepend_scheme="always")
    return inner, trainers.BpeTrainer(vocab_size=150, special_tokens=SPECIAL, show_progress=False)


def _llama() -> Made:
    """As Llama 2 has it: by a normaliser. Words are told apart in training alone."""
    inner = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    inner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    inner.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    strip = [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    inner.decoder = decoders.Sequence(strip)
    return inner, trainers.BpeTrainer(vocab_size=150, special_tokens=SPECIAL, show_progress=False)


def _unigram() -> Made:
    inner = Tokenizer(models.Unigram())
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    inner.decoder = decoders.Metaspace(prepend_scheme="first")
    return inner, trainers.UnigramTrainer(
        vocab_size=90, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )


def _wordpiece() -> Made:
    inner = Tokenizer(models.WordPiece(unk_token="<unk>"))  # type: ignore[call-arg]
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    return inner, trainers.WordPieceTrainer(
        vocab_size=150, special_tokens=SPECIAL, show_progress=False
    )


FAMILIES: dict[str, Callable[[], Made]] = {
    "byte_level": lambda: _byte_level(space=False),
    "prefix_space": lambda: _byte_level(space=True),
    "metaspace": _metaspace,
    "llama": _llama,
    "unigram": _unigram,
    "wordpiece": _wordpiece,
}
EACH = [f"{family} {place}" for family, place in product(FAMILIES, PLACES)]


def tokenizer_of(name: str) -> Any:
    """Return a tokenizer by family and place of its special tokens; "slow" has no offsets."""
    if name == "slow":
        return ByT5Tokenizer(extra_ids=0)
    family, place = name.split()
    inner, trainer = FAMILIES[family]()
    inner.train_from_iterator([TEXT] * 3, trainer)
    if family == "llama":
        inner.pre_tokenizer = None  # type: ignore[assignment]
    ids = [(token, SPECIAL.index(token)) for token in SPECIAL]
    inner.post_processor = processors.Sequence(
        [
            *([processors.ByteLevel(trim_offsets=True)] if family == "prefix_space" else []),
            processors.TemplateProcessing(single=PLACES[place], special_tokens=ids),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        add_prefix_space=family == "prefix_space",  # transformers 4 sets it over that of `inner`
    )
