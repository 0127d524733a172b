"""One question under every mask of every ranking."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae.influence.target import Answer, NextToken, Target
from gradsae.interfaces import Skipped
from gradsae.masking.interplay import Interplay, from_drops, groups_of
from gradsae.masking.masked import Joint, mask_columns, masks, masks_later, run, unique_rows
from gradsae.masking.rankings import ORACLE, Ranker, mark_target
from gradsae.masking.sets import K, LatentSet, count, kept_latents, sets_of, top
from gradsae.masking.writing import Writer
from gradsae.prompts.questions.question import Question
from gradsae.seeds import make_generator
from gradsae.steering.interventions import Text
from gradsae.steering.matched import match, strength

MAIN = "grad_times_act"
"""The ranking that random_matched is matched to."""
MATCHED = "random_matched"


class Settings(NamedTuple):
    """See the fields of `Masking`."""

    ranker: Ranker
    ks: Sequence[K]
    main_k: K
    kinds: Sequence[str]
    n_paired: int
    n_nearest: int
    batch_rows: int
    seed: int


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
    question: Question, text: Text, index: int, writer: Writer | None, settings: Settings
) -> Trial:
    """Rank the latents of a question, mask them, and let the model write if there is a writer."""
    seen, fraction = text.seen, text.seen.rerun.fraction
    target = Answer(tokens=question.answer_ids)
    n_answer = len(question.answer_ids)
    mark = None if question.mark is None else mark_target(question.mark, n_answer)
    generator = make_generator(settings.seed, f"eval masking {index}")
    ranked = settings.ranker.rank(seen, target, mark, generator)
    sets = sets_of(seen, ranked.scores, settings.ks, settings.kinds) + _matched(
        text, ranked.scores, settings
    )
    targets: list[Target] = [target]
    if mark is not None:
        targets.append(NextToken(token=mark.token, position=mark.position))
    tops = _tops(text, ranked.scores, settings)
    joint = _score(text, targets, sets, tops, writer, settings)
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
        interplays=_interplays(drop[0, n + 1 :], tops, settings.n_paired),
        forward_equivalents=ranked.forward_equivalents
        + text.read_cost
        + joint.n_reruns * fraction
        + joint.written_cost,
    )


def _matched(text: Text, scores: Mapping[str, Tensor], settings: Settings) -> list[LatentSet]:
    """Sets as large and as strong as those of the main ranking, at random; none where there are
    too few latents left to match."""
    sets = []
    for k in settings.ks if "top" in settings.kinds else ():
        chosen = top(scores[MAIN], count(text.seen, k))
        generator = make_generator(settings.seed, f"eval masking matched {k}")
        matched = match(strength(text.seen), chosen, generator, n_nearest=settings.n_nearest)
        if not isinstance(matched, Skipped):
            sets.append(LatentSet(ranking=MATCHED, kind="top", k=k, columns=matched.columns))
    return sets


def _tops(
    text: Text, scores: Mapping[str, Tensor], settings: Settings
) -> dict[str, Int[Tensor, " main_k"]]:
    """Return the sets whose interplay is measured: of the main ranking and of the truth."""
    n = count(text.seen, settings.main_k)
    return {name: top(scores[name], n) for name in (MAIN, ORACLE) if name in scores}


def _to_write(sets: Sequence[LatentSet]) -> list[int]:
    """Masks that take latents off; insertion is scored by probability alone."""
    return [i for i, one in enumerate(sets) if one.kind != "keep"]


def _score(
    text: Text,
    targets: Sequence[Target],
    sets: Sequence[LatentSet],
    tops: Mapping[str, Int[Tensor, " main_k"]],
    writer: Writer | None,
    settings: Settings,
) -> Joint:
    """Score the sets, the mask of everything and the groups of interplay, each mask once."""
    seen = text.seen
    groups = [group for columns in tops.values() for group in groups_of(columns, settings.n_paired)]
    nothing_left = list(range(seen.n_active))
    more = mask_columns(seen.n_active, [nothing_left, *groups], seen.codes)
    kept, place = unique_rows(torch.cat([kept_latents(seen, sets), more]))
    write = torch.zeros(len(kept), dtype=torch.bool, device=kept.device)
    if writer is not None:
        write[place[_to_write(sets)]] = True
    parts = []
    for rows, by in ((write.nonzero()[:, 0], writer), ((~write).nonzero()[:, 0], None)):
        if len(rows):
            edits = masks(seen, kept[rows])
            later = masks_later(seen, kept[rows], by.sae.d_sae) if by else None
            joint = run(
                seen, targets, edits, batch_rows=settings.batch_rows, writer=by, later=later
            )
            parts.append((rows, joint))
    return _joined(parts, place)


def _joined(parts: Sequence[tuple[Tensor, Joint]], place: Tensor) -> Joint:
    """Return the scores of all masks from those of the different ones, in the order of `place`."""
    clean = parts[0][1].clean
    order = torch.cat([rows for rows, _ in parts]).argsort()
    drop = torch.cat([done.drop for _, done in parts], dim=1)[:, order][:, place]
    texts = [text for rows, done in parts for text in done.written or [""] * len(rows)]
    texts = [texts[i] for i in order[place].tolist()]
    runs = sum(done.n_reruns for _, done in parts)
    cost = sum(done.written_cost for _, done in parts)
    return Joint(clean[:, None] - drop, clean, texts, runs, cost)


def _interplays(
    drop: Float[Tensor, " groups"], tops: Mapping[str, Int[Tensor, " main_k"]], n_paired: int
) -> dict[str, Interplay]:
    found, at = {}, 0
    for name, columns in tops.items():
        n_groups = len(groups_of(columns, n_paired))
        found[name] = from_drops(drop[at : at + n_groups], len(columns), n_paired)
        at += n_groups
    return found
