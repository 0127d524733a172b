"""One prompt at one site of a model: what `influence` and `steer` have in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gradsae.about import About
from gradsae.api.models import load_model
from gradsae.api.saes import PlacedSAE, load_sae
from gradsae.errors import UserError
from gradsae.interfaces import HeldOut, ModelSource, Stream
from gradsae.lm.model import LM
from gradsae.lm.sites import Site, parse_site
from gradsae.prompts.seen import check_weights
from gradsae.prompts.sets import Prompt, make_prompt, next_logits, tokens_of
from gradsae.trainers.pretrained import same_model


@final
@dataclass(frozen=True, kw_only=True)
class PromptPlace(ModelSource):
    """A site of a model, without a corpus: prompts come from the caller.

    Position 0 and special tokens are left out of every edit, as they are in training.
    """

    name: ClassVar[str] = "prompt"

    model: LM
    place: Site

    @property
    def about(self) -> About:
        return About(label="one prompt")

    @property
    def d_in(self) -> int:
        return self.model.d_model

    def lm(self) -> LM:
        return self.model

    def site(self) -> Site:
        return self.place

    def dropped(
        self, token_ids: Int[Tensor, "batch pos"], acts: Float[Tensor, "batch pos d_in"]
    ) -> Bool[Tensor, "batch pos"]:
        return self.model.special_positions(token_ids).to(acts.device)

    def names(self) -> dict[str, dict[str, str]]:
        return {"model": {"name": self.model.name}, "corpus": {"name": "none"}}

    def activations_id(self) -> str:
        raise self._has_no("activation store")

    def eval_windows(self, n: int, seed: int) -> Sequence[Int[Tensor, " pos"]]:
        raise self._has_no("text")

    def stream(self, batch_size: int, seed: int, device: torch.device) -> Stream:
        raise self._has_no("training activations")

    def held_out(self, n: int, seed: int) -> HeldOut:
        raise self._has_no("held-out activations")

    def identity(self) -> dict[str, Any]:
        return {"model": self.model.name, "site": str(self.place)}

    def provenance(self) -> dict[str, Any]:
        return {"model": self.model.provenance()}

    def _has_no(self, thing: str) -> UserError:
        return UserError(f"a single prompt has no {thing}: use a source, for example lm_layer")


class PromptSetup(NamedTuple):
    """A prompt with its target, the SAE, and the site where the SAE reads."""

    source: PromptPlace
    placed: PlacedSAE
    prompt: Prompt
    target_prob: float
    """Probability of the target's first token, in [0, 1]."""
    notes: list[str]

    @property
    def lm(self) -> LM:
        return self.source.model

    @property
    def token_ids(self) -> Int[Tensor, " pos"]:
        """The prompt and, of a target of several tokens, all but the last of them."""
        ids = self.prompt.token_ids
        forced = [self.prompt.target, *self.prompt.rest][:-1]
        return torch.cat([ids, ids.new_tensor(forced)])


def set_up(
    model: Any, sae: Any, prompt: str, site: str | None, target: str | int | None
) -> PromptSetup:
    """Return the prompt with its target at the site of the SAE.

    Raises:
        UserError: The site is unknown, the prompt is empty or too long, or the target is no
            text of at least one token.
    """
    lm, placed = load_model(model), load_sae(sae)
    place = placed.site if site is None else parse_site(site)
    if place is None:
        raise UserError(
            f'the SAE {placed.name} does not say where it belongs: give site="resid_post.15", or '
            'load it with load_sae(..., site="resid_post.15")'
        )
    lm.check_site(place)
    check_weights(placed.sae)
    placed.sae.to(lm.device)
    token_ids = lm.prompt(prompt)[0]
    logits = next_logits(lm, token_ids)
    tokens = _target(lm, prompt, target, logits)
    made = make_prompt(lm, token_ids, tokens[0], "prompt")
    probability = logits.double().softmax(-1)[tokens[0]].item()
    with_target = Prompt(**{**vars(made), "rest": tuple(tokens[1:])})
    source = PromptPlace(model=lm, place=place)
    return PromptSetup(source, placed, with_target, probability, _warnings(lm, placed, place))


def _target(
    lm: LM, prompt: str, target: str | int | None, logits: Float[Tensor, " vocab"]
) -> list[int]:
    """Return the tokens of the target: by default the model's most likely next one."""
    if target is None:
        return [int(logits.argmax())]
    if isinstance(target, bool) or not isinstance(target, str | int):
        raise UserError(f"target must be a text or the number of a token, got {target!r}")
    if isinstance(target, int):
        return [target]
    return tokens_of(lm, prompt, target)


def _warnings(lm: LM, placed: PlacedSAE, place: Site) -> list[str]:
    """Return what may be wrong with the pair of model and SAE."""
    notes = []
    if placed.site is not None and placed.site != place:
        notes.append(f"The SAE's files say it belongs to {placed.site}, not to {place}.")
    if placed.model and not same_model(placed.model, lm.name):
        notes.append(f"The SAE's files say model {placed.model}; this one is called {lm.name}.")
    return notes
