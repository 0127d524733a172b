"""One question under every mask, in every order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae.influence.estimator import Estimator
from gradsae.influence.target import Answer, NextToken, Target
from gradsae.interfaces import ModelSource, Skipped
from gradsae.masking.interplay import Interplay, interplay
from gradsae.masking.masked import off_latents, score, tokens_written, write_answers
from gradsae.masking.rankings import ORACLE, mark_target, rank
from gradsae.masking.sets import K, LatentSet, count, kept_latents, sets_of, top
from gradsae.questions.question import Format, Question
from gradsae.sae import SAE
from gradsae.seeds import make_generator
from gradsae.steering.interventions import Text
from gradsae.steering.matched import match, strength

MAIN = "grad_times_act"
"""The ranking that random_matched is matched to."""
MATCHED = "random_matched"


class Settings(NamedTuple):
    """See the fields of `Masking`."""

    rankings: Sequence[Estimator]
    ks: Sequence[K]
    main_k: K
    kinds: Sequence[str]
    oracle: bool
    written: bool
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
    """Place in `sets` -> the answer that the model wrote."""
    interplays: Mapping[str, Interplay]
    forward_equivalents: float


def attempt(
    source: ModelSource,
    sae: SAE,
    question: Question,
    text: Text,
    index: int,
    form: Format,
    how: Settings,
) -> Trial:
    """Rank the latents of a question, mask them, and let the model write."""
    seen, fraction = text.seen, text.seen.suffix.fraction
    target = Answer(tokens=question.answer_ids)
    n_answer = len(question.answer_ids)
    mark = None if question.mark is None else mark_target(question.mark, n_answer)
    ranked = rank(
        seen,
        target,
        mark,
        how.rankings,
        oracle=how.oracle,
        batch_rows=how.batch_rows,
        generator=make_generator(how.seed, f"eval masking {index}"),
    )
    sets = sets_of(seen, ranked.scores, how.ks, how.kinds) + _matched(text, ranked.scores, how)
    kept = torch.cat([kept_latents(seen, sets), torch.zeros(1, seen.n_active).to(seen.codes)])
    targets: list[Target] = [target]
    if mark is not None:
        targets.append(NextToken(token=mark.token, position=mark.position))
    found = score(seen, targets, kept, batch_rows=how.batch_rows)
    drop, spent = found.drop.double().cpu(), ranked.forward_equivalents + text.read_cost
    written = _write(source, sae, question, text, sets, form, how) if how.written else {}
    spent += found.suffix_runs * fraction + len(written) * tokens_written(question)
    interplays = _interplays(text, target, ranked.scores, how)
    spent += sum(one.suffix_runs for one in interplays.values()) * fraction
    return Trial(
        index=index,
        question=question,
        latents=seen.latents.cpu(),
        peak=seen.codes.argmax(0).cpu(),
        scores={name: values.cpu() for name, values in ranked.scores.items()},
        sets=sets,
        drop=drop[0, :-1],
        mark_drop=drop[1, :-1] if mark is not None else None,
        clean=found.clean[0].item(),
        empty=found.clean[0].item() - drop[0, -1].item(),
        written=written,
        interplays=interplays,
        forward_equivalents=spent,
    )


def _matched(text: Text, scores: Mapping[str, Tensor], how: Settings) -> list[LatentSet]:
    """Sets as large and as strong as those of the main ranking, at random; none where there are
    too few latents left to match."""
    sets = []
    for k in how.ks if "top" in how.kinds else ():
        chosen = top(scores[MAIN], count(text.seen, k))
        generator = make_generator(how.seed, f"eval masking matched {k}")
        found = match(strength(text.seen), chosen, generator, n_nearest=how.n_nearest)
        if not isinstance(found, Skipped):
            sets.append(LatentSet(ranking=MATCHED, kind="top", k=k, columns=found.columns))
    return sets


def _write(
    source: ModelSource,
    sae: SAE,
    question: Question,
    text: Text,
    sets: Sequence[LatentSet],
    form: Format,
    how: Settings,
) -> dict[int, str]:
    """Written answers of the masks that take latents off; insertion is scored by probability."""
    places = [i for i, one in enumerate(sets) if one.kind != "keep"]
    off = off_latents(text.seen, [sets[i] for i in places], sae.arch.d_sae)
    answers = write_answers(source, sae, question, off, form, batch_rows=how.batch_rows)
    return dict(zip(places, answers, strict=True))


def _interplays(
    text: Text, target: Target, scores: Mapping[str, Tensor], how: Settings
) -> dict[str, Interplay]:
    """Of the top sets of the main ranking and of the truth."""
    return {
        name: interplay(
            text.seen,
            target,
            top(scores[name], count(text.seen, how.main_k)),
            n_paired=how.n_paired,
            batch_rows=how.batch_rows,
        )
        for name in (MAIN, ORACLE)
        if name in scores
    }
