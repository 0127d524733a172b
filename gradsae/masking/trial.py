"""One question under every mask of every ranking."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae.influence.target import Answer, NextToken, Target
from gradsae.masking.design import Design
from gradsae.masking.interplay import Interplay
from gradsae.masking.masked import Joint, mask_columns, masks, masks_later, run, unique_rows
from gradsae.masking.rankings import Ranker, mark_target
from gradsae.masking.sets import LatentSet, kept_latents
from gradsae.masking.writing import Writer
from gradsae.prompts.questions.question import Question
from gradsae.prompts.seen import SeenPrompt
from gradsae.seeds import make_generator
from gradsae.steering.interventions import Text


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """What every mask did to one question; scores run over the active latents."""

    index: int
    question: Question
    latents: Int[Tensor, " active"]
    peak: Int[Tensor, " active"]
    """Position at which each latent is largest."""
    scores: Mapping[str, Float[Tensor, " active"]]
    sets: Sequence[LatentSet]
    drop: Float[Tensor, " sets"]
    """log p(answer) clean minus masked, nats."""
    mark_drop: Float[Tensor, " sets"] | None
    """The same of the mark's log-probability, where the format has a mark."""
    clean: float
    """log p(answer), nats."""
    empty: float
    """The same with every active latent off."""
    written: Mapping[int, str]
    """By index into `sets`: the answer that the model wrote."""
    interplays: Mapping[str, Interplay]
    forward_equivalents: float


def attempt(
    question: Question,
    text: Text,
    index: int,
    writer: Writer | None,
    ranker: Ranker,
    design: Design,
) -> Trial:
    """Rank the latents of a question, mask them, and let the model write if there is a writer."""
    seen, fraction = text.seen, text.seen.rerun.fraction
    target = Answer(tokens=question.answer_ids)
    n_answer = len(question.answer_ids)
    mark = None if question.mark is None else mark_target(question.mark, n_answer)
    generator = make_generator(design.seed, f"eval masking {index}")
    ranked = ranker.rank(seen, target, mark, generator)
    sets, tops = design.sets(seen, ranked.scores), design.tops(seen, ranked.scores)
    targets: list[Target] = [target]
    if mark is not None:
        targets.append(NextToken(token=mark.token, position=mark.position))
    groups = design.groups(tops)
    joint = _score(seen, targets, sets, groups, writer, ranker.batch_rows)
    drop, n = joint.drop.double().cpu(), len(sets)
    return Trial(
        index=index,
        question=question,
        latents=seen.latents.cpu(),
        peak=seen.codes.argmax(0).cpu(),
        scores={name: values.cpu() for name, values in ranked.scores.items()},
        sets=sets,
        drop=drop[0, :n],
        mark_drop=drop[1, :n] if mark is not None else None,
        clean=joint.clean[0].item(),
        empty=joint.clean[0].item() - drop[0, n].item(),
        written={i: joint.written[i] for i in _to_write(sets)} if writer else {},
        interplays=design.interplays(drop[0, n + 1 :], tops),
        forward_equivalents=ranked.forward_equivalents
        + text.read_cost
        + joint.n_reruns * fraction
        + joint.written_cost,
    )


def _to_write(sets: Sequence[LatentSet]) -> list[int]:
    """Return the masks under which the model writes: insertion is scored by probability alone."""
    return [i for i, latent_set in enumerate(sets) if latent_set.kind != "keep"]


def _score(
    seen: SeenPrompt,
    targets: Sequence[Target],
    sets: Sequence[LatentSet],
    groups: Sequence[Sequence[int]],
    writer: Writer | None,
    batch_rows: int,
) -> Joint:
    """Score the sets, the mask of everything and the groups of interplay, each mask once."""
    everything = list(range(seen.n_active))
    further = mask_columns(seen.n_active, [everything, *groups], seen.codes)
    factors, place = unique_rows(torch.cat([kept_latents(seen, sets), further]))
    write = torch.zeros(len(factors), dtype=torch.bool, device=factors.device)
    if writer is not None:
        write[place[_to_write(sets)]] = True
    parts = []
    for rows, author in ((write.nonzero()[:, 0], writer), ((~write).nonzero()[:, 0], None)):
        if len(rows):
            edits = masks(seen, factors[rows])
            later = masks_later(seen, factors[rows], author.sae.d_sae) if author else None
            joint = run(seen, targets, edits, batch_rows=batch_rows, writer=author, later=later)
            parts.append((rows, joint))
    return _joined(parts, place)


def _joined(parts: Sequence[tuple[Tensor, Joint]], place: Tensor) -> Joint:
    """Return the scores of all masks from those of the different ones, in the order of `place`."""
    clean = parts[0][1].clean
    order = torch.cat([rows for rows, _ in parts]).argsort()
    drop = torch.cat([joint.drop for _, joint in parts], dim=1)[:, order][:, place]
    texts = [text for rows, joint in parts for text in joint.written or [""] * len(rows)]
    texts = [texts[i] for i in order[place].tolist()]
    runs = sum(joint.n_reruns for _, joint in parts)
    cost = sum(joint.written_cost for _, joint in parts)
    return Joint(clean[:, None] - drop, clean, texts, runs, cost)
