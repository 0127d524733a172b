"""Small language models, SAEs and hand-made reruns that tests of prompts and influence share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradsae.influence.ablation import ablate
from gradsae.influence.estimator import Estimator
from gradsae.influence.target import Target
from gradsae.interfaces import HeldOut, ModelSource, Stream
from gradsae.lm.model import LM, load
from gradsae.lm.rerun import Rerun
from gradsae.lm.sites import Site, parse_site
from gradsae.lm.spec import LanguageModel
from gradsae.prompts.seen import SeenPrompt
from gradsae.sae.model import SAE, make_sae
from gradsae.seeds import make_generator

LLAMA = {
    **{"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "head_dim": 8},
    **{"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2},
    # Wider than the default of 0.02, or nothing a latent does would move the output.
    **{"max_position_embeddings": 64, "initializer_range": 0.3, "tie_word_embeddings": False},
}


def tiny_lm() -> LM:
    """Four blocks of width 32 over bytes, random weights."""
    return load(LanguageModel(name="tiny", source="random", licence="none", config=LLAMA))


def random_sae(d_in: int = 32, d_sae: int = 64, k: int | None = 5, **changes: Any) -> SAE:
    """TopK with random weights: an untrained SAE whose latents still write somewhere."""
    settings: dict[str, Any] = {} if k is None else {"k": k}
    settings |= {"d_in": d_in, "d_sae": d_sae, "gate": "topk"} | changes
    sae = make_sae(**settings)
    generator = make_generator(0, "test sae")
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return sae


@dataclass(frozen=True)
class Windows(ModelSource):
    """Windows of random bytes, read by a tiny model; position 0 is dropped."""

    model: LM
    place: str = "resid_post.1"
    length: int = 24
    name = "windows"

    @property
    def d_in(self) -> int:
        return self.model.d_model

    def lm(self) -> LM:
        return self.model

    def site(self) -> Site:
        return parse_site(self.place)

    def eval_windows(self, n: int, seed: int) -> Sequence[Tensor]:
        generator = make_generator(seed, "eval windows")
        return [torch.randint(0, 256, (self.length,), generator=generator) for _ in range(n)]

    def dropped(self, token_ids: Tensor, acts: Tensor) -> Tensor:
        return self.model.special_positions(token_ids)

    def stream(self, batch_size: int, seed: int, device: torch.device) -> Stream:
        raise NotImplementedError

    def held_out(self, n: int, seed: int) -> HeldOut:
        raise NotImplementedError

    def names(self) -> dict[str, dict[str, str]]:
        return {"model": {"name": "tiny"}, "corpus": {"name": "bytes"}}

    def activations_id(self) -> str:
        return "windows"

    def identity(self) -> dict[str, Any]:
        return {}

    def provenance(self) -> dict[str, Any]:
        return {}


class PlainRerun(Rerun):  # pyright: ignore[reportGeneralTypeIssues]  # final, but for tests
    """A hand-made model after the site: last-position logits as a function of the activation."""

    def __init__(
        self, clean: Tensor, function: Callable[[Tensor], Tensor], fraction: float = 0.5
    ) -> None:
        """`function` maps activations [batch pos d_in] to logits [batch vocab]."""
        vars(self).update(clean=clean, function=function, share=fraction, rows=0.0)

    @property
    def fraction(self) -> float:
        return vars(self)["share"]

    @property
    def n_rows(self) -> float:
        """Rows that were run; a row counts as the share of positions from its start on."""
        return vars(self)["rows"]

    def rerun_start(self, start: int) -> int:
        return start

    def logits(
        self, activation: Tensor, positions: Sequence[int] | None = None, *, start: int = 0
    ) -> Tensor:
        assert torch.equal(
            activation[:, :start], self.clean[:start].expand_as(activation[:, :start])
        )
        vars(self)["rows"] += len(activation) * (1 - start / len(self.clean))
        return vars(self)["function"](activation)[:, None]


def planted(
    codes: Tensor,
    directions: Tensor,
    function: Callable[[Tensor], Tensor],
    *,
    error: Tensor | float = 0.0,
) -> SeenPrompt:
    """A prompt whose clean activation is codes @ directions + error."""
    n_pos, n_active = codes.shape
    return SeenPrompt(
        token_ids=torch.zeros(n_pos, dtype=torch.int64),
        rerun=PlainRerun(codes @ directions + error, function),
        latents=torch.arange(n_active),
        codes=codes,
        directions=directions,
        scale=codes.new_ones(n_pos, 1),
    )


def effects(seen: SeenPrompt, target: Target, batch_rows: int = 8) -> Tensor:
    """The true effect of every active latent."""
    columns = torch.arange(seen.n_active)
    return ablate(seen, target, columns, batch_rows=batch_rows).effect


def estimate(estimator: Estimator, seen: SeenPrompt, target: Target) -> Tensor:
    return estimator.scores(seen, target, make_generator(0, "test"))


def linear_rerun(generator: torch.Generator) -> SeenPrompt:
    """Three positions, five latents; the logits are a linear map of all positions."""
    unembed = torch.randn(3, 6, 7, generator=generator, dtype=torch.float64)
    return planted(
        torch.rand(3, 5, generator=generator, dtype=torch.float64),
        torch.randn(5, 6, generator=generator, dtype=torch.float64),
        lambda x: torch.einsum("bpd, pdv -> bv", x, unembed),
        error=0.3,
    )


def quadratic(generator: torch.Generator, n_active: int) -> tuple[SeenPrompt, Tensor]:
    """m = x H x / 2, no error term; and what each latent writes, summed over positions."""
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    hessian = root @ root.T
    seen = planted(
        torch.rand(3, n_active, generator=generator, dtype=torch.float64),
        torch.randn(n_active, 6, generator=generator, dtype=torch.float64),
        lambda x: torch.einsum("bpd, de, bqe -> b", x, hessian, x)[:, None] / 2,
    )
    written = seen.codes.sum(0)[:, None] * seen.directions
    return seen, torch.einsum("ad, de, ae -> a", written, hessian, written)
