"""Interventions: edits of the codes of chosen latents, on a prompt or on other text.

    activation(edited) = clean + (edited - codes) * scale @ directions

as in `gradsae.prompts.seen`: the SAE's error is held fixed, and an edit that changes nothing leaves
every bit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, final, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gradsae import checks
from gradsae.interfaces import ModelSource
from gradsae.prompts.seen import SeenPrompt, see_from
from gradsae.sae.dictionary import Dictionary

Mode = Literal["scale", "set", "add"]
MODES: tuple[str, ...] = get_args(Mode)


@final
@dataclass(frozen=True, kw_only=True)
class Intervention:
    """One edit of codes.

    scale: the latent's own values times the dose; 1 changes nothing, 0 is off.
    set:   the dose times the latent's reference value at every kept position, whether the latent
           fires there or not. Negative doses push against the latent's direction.
    add:   the latent's own values plus the dose times its reference value at every kept position;
           0 changes nothing, and small doses are small edits.
    """

    mode: Mode
    dose: float

    def __post_init__(self) -> None:
        checks.one_of("mode", self.mode, MODES)
        if self.mode == "scale":
            checks.number("dose (with mode=scale)", self.dose, low=0)
        else:
            checks.number("dose", self.dose)

    def apply(
        self,
        codes: Float[Tensor, "pos k"],
        is_kept: Bool[Tensor, " pos"],
        reference: Float[Tensor, " k"],
    ) -> Float[Tensor, "pos k"]:
        """Return the edited codes; positions that are not kept stay as they are."""
        if self.mode == "scale":
            return codes * self.dose
        start = codes if self.mode == "add" else 0.0
        return torch.where(is_kept[:, None], start + self.dose * reference, codes)


OFF = Intervention(mode="scale", dose=0.0)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Chosen:
    """The latents that are steered together."""

    latents: Int[Tensor, " k"]
    directions: Float[Tensor, "k d_in"]
    """The vector that one unit of each code writes, before the SAE's scale."""
    reference: Float[Tensor, " k"]
    """Value that dose 1 of mode `set` gives each latent: its largest on the prompt."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Text:
    """Any text seen through the SAE."""

    seen: SeenPrompt
    is_kept: Bool[Tensor, " pos"]
    """Positions that the SAE sees. Only these are edited."""

    @property
    def read_cost(self) -> float:
        """Forward-equivalents of reading the text: the model up to the site."""
        return 1 - self.seen.rerun.fraction

    def choose(self, columns: Int[Tensor, " k"]) -> Chosen:
        """Return the latents of some columns of `seen.codes`, with their reference values."""
        return Chosen(
            latents=self.seen.latents[columns],
            directions=self.seen.directions[columns],
            reference=self.seen.codes[:, columns].amax(0),
        )

    def codes_of(self, latents: Int[Tensor, " k"]) -> Float[Tensor, "pos k"]:
        """Return the codes of any latents on this text, 0 for those that do not fire on it."""
        column = torch.searchsorted(self.seen.latents, latents).clamp_max(self.seen.n_active - 1)
        fires = self.seen.latents[column] == latents
        return torch.where(fires, self.seen.codes[:, column], 0.0)

    def activation(
        self, chosen: Chosen, edited: Float[Tensor, "pos k"]
    ) -> Float[Tensor, "pos d_in"]:
        """Return the site's activation, in raw units, under edited codes of the chosen latents."""
        change = (edited - self.codes_of(chosen.latents)) * self.seen.scale
        return self.seen.clean + change @ chosen.directions

    def steered(self, chosen: Chosen, intervention: Intervention) -> Float[Tensor, "pos d_in"]:
        """Return the site's activation, in raw units, under an intervention."""
        codes = self.codes_of(chosen.latents)
        return self.activation(chosen, intervention.apply(codes, self.is_kept, chosen.reference))


def read(source: ModelSource, sae: Dictionary, token_ids: Int[Tensor, " pos"]) -> Text:
    """Run the model up to the source's site; NoActiveLatentError if there is nothing to edit."""
    seen = see_from(source, sae, token_ids)
    dropped = source.dropped(seen.token_ids[None], seen.rerun.clean[None])[0]
    return Text(seen=seen, is_kept=~dropped)


class SteeredBatch(NamedTuple):
    """Logits of one batch of interventions, beside those of an unedited row of the same batch."""

    indices: Int[Tensor, " batch"]
    """Into the list of interventions."""
    clean: Float[Tensor, "n_positions vocab"]
    edited: Float[Tensor, "batch n_positions vocab"]
    forward_equivalents: float


@torch.no_grad()
def run_steered(
    text: Text,
    chosen: Chosen,
    interventions: Sequence[Intervention],
    *,
    positions: Sequence[int] | None = None,
    batch_rows: int,
) -> Iterator[SteeredBatch]:
    """Rerun the model from the site under each intervention that changes anything.

    An intervention that changes no bit of the activation is not run. The first row of every batch
    is unedited, so differences between kernels for different batch sizes cancel.
    """
    clean, rerun = text.seen.clean[None], text.seen.rerun
    edited = torch.stack([text.steered(chosen, intervention) for intervention in interventions])
    changed = (edited != clean).flatten(1).any(1).nonzero().squeeze(1)
    for index in changed.split(batch_rows - 1) if len(changed) else ():
        logits = rerun.logits(torch.cat([clean, edited[index]]), positions)
        yield SteeredBatch(index, logits[0], logits[1:], len(logits) * rerun.fraction)
