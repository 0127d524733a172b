"""How well cheap estimates find what ablation says matters: every SAE, scalar and estimator.

python -m benchmarks.influence_table           docs/results/influence{,_all}.md: short, and whole
python -m benchmarks.influence_table --check   fail if one of them and the records differ
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.launch.command import command
from benchmarks.render.markdown import RESULTS, plain, replaced, write_or_check
from benchmarks.results.reading import LOCAL_ORIGIN, OWN_ORIGIN
from benchmarks.results.rows import variants
from benchmarks.results.settings import (
    Estimate,
    Setting,
    most_asked_first,
    sae_config,
    sae_title,
    site_order,
    variants_of,
)
from gradsae.errors import UserError
from gradsae.influence.estimator import Estimator
from gradsae.influence.estimators.grad_times_act import GradTimesAct
from gradsae.influence.estimators.hop_then_verify import HopThenVerify
from gradsae.influence.estimators.mean_act import MeanAct
from gradsae.influence.estimators.released_gradsae import ReleasedGradSAE
from gradsae.influence.estimators.screen_then_verify import ScreenThenVerify
from gradsae.records.record import content_id
from gradsae.tables.printing import escaped, markdown_table

EXPERIMENT = "influence_table"
WHOLE, SHORT_PAGE = RESULTS / "influence_all.md", RESULTS / "influence.md"
RANK, FIRST = "influence/spearman", "influence/precision_at_10"
SHORT: tuple[Estimator, ...] = (
    GradTimesAct(),
    HopThenVerify(max_cost=10.0),
    HopThenVerify(max_cost=20.0),
    ScreenThenVerify(max_cost=10.0, first="size"),
    ReleasedGradSAE(),
    MeanAct(),
)
"""Columns of the short form."""


@dataclass(frozen=True, eq=False)
class Section:
    """What is known of one SAE and prompts of one kind."""

    settings: Sequence[Setting]
    """By `most_asked_first`: where two have a score, the first counts."""

    @property
    def first(self) -> Setting:
        return self.settings[0]

    @property
    def title(self) -> str:
        """Model, site, method and text: `smollm2, resid_post.7, TopK, prose`."""
        setting = self.first
        parts = [sae_title(setting)]
        parts += [f"answers of {self.answer} tokens"] if self.answer > 1 else []
        parts += [] if setting.origin in (OWN_ORIGIN, LOCAL_ORIGIN) else [f"by {setting.origin}"]
        return ", ".join(parts)

    @property
    def scalar(self) -> str:
        """The scalar of the target that is explained where a question names no other."""
        return self.first.setup.ask.scalar or "log_prob"

    @property
    def answer(self) -> int:
        """Number of tokens in the target of a prompt."""
        return (self.first.setup.ask.prompts or {}).get("answer_length") or 1

    @property
    def order(self) -> tuple[Any, ...]:
        """Sort key: model, kind of site (the residual stream first), method, depth."""
        return *site_order(self.first), self.answer, self.first.depth or 0, self.title

    def estimators(self) -> list[str]:
        """Return the names of estimators, that with the best rank correlation first."""
        names = dict.fromkeys(name for setting in self.settings for name in variants(setting))
        ranks = {name: self.estimate(f"{RANK}/{name}") for name in names}
        means = {name: rank.mean for name, rank in ranks.items() if rank is not None}
        return sorted(means, key=lambda name: -means[name])

    def questions(self) -> list[str]:
        """Return what scores are named by: "" for the usual scalar and truth, ".logit", ".mean"."""
        names = [
            name
            for setting in self.settings
            for record in setting.records
            for name in record.scores
        ]
        measures = {name.split("/")[1] for name in names if name.startswith(f"{RANK}.")}
        return ["", *sorted(measure.removeprefix("spearman") for measure in measures)]

    def estimate(self, score: str) -> Estimate | None:
        """Return a score of the first setting that has it, or None."""
        estimates = (setting.estimate(score) for setting in self.settings)
        return next((estimate for estimate in estimates if estimate is not None), None)


def sections(settings: Iterable[Setting]) -> list[Section]:
    """Group the settings of the experiment by origin, SAE, kind of prompt and scalar."""
    groups: dict[str, list[Setting]] = {}
    for setting in settings:
        if setting.task == "influence" and setting.setup.experiment == EXPERIMENT:
            prompts = {**(setting.setup.ask.prompts or {}), "n_prompts": None}
            prompts.setdefault("answer_length", 1)  # records from before there was a choice
            key = [setting.origin, sae_config(setting), prompts, setting.setup.ask.scalar]
            groups.setdefault(content_id(key), []).append(setting)
    if not groups:
        raise UserError(
            f"no records of experiment={EXPERIMENT} among those read: "
            f"`python -m benchmarks.run experiment={EXPERIMENT}` makes some"
        )
    made = [Section(most_asked_first(group)) for group in groups.values()]
    return sorted(made, key=lambda section: section.order)


def whole(sections: Sequence[Section]) -> str:
    """Return the page of all: a row per estimator, a column per scalar or further truth."""
    return "\n\n".join([INTRODUCTION, *(_section(section) for section in sections)])


INTRODUCTION = """# How well cheap estimates find what matters

Written by `python -m benchmarks.influence_table` from `results/records/`; commands are in
`conf/experiment/influence_table.yaml`. Truth: the target with a latent ablated at every position,
SAE error kept; `log_prob` is of the model's own most likely next token. Spearman / precision@10
over the active latents of a prompt, mean over prompts and its 95 % bootstrap interval over them.
Cost is in forward passes of the whole model per prompt and question. Names after a dot are other
scalars of the same runs, or other truths (`mean`, `resample`: put in place of the code; `entry`:
one position; `joint_8`: sets of 8; `shapley_2`: share by sampled orders; `dose_1`: added)."""


def _section(section: Section) -> str:
    active, price = map(section.estimate, ("influence/n_active", "influence/cost/ablation"))
    prompts = section.first.setup.ask.prompts or {}
    about = f"Prompts of {prompts.get('length')} tokens"
    about += f"; {active.mean:.0f} active latents" if active else ""
    about += f"; ablating all of them costs {price.mean:.0f}." if price else "."
    questions = section.questions()
    heads = ["estimator", "cost", "n", *(q.removeprefix(".") or section.scalar for q in questions)]
    rows: list[list[str]] = []
    for name in section.estimators():
        rank = section.estimate(f"{RANK}/{name}")
        assert rank is not None  # of `estimators`
        cost = section.estimate(f"influence/cost/{name}")
        texts = [
            variants_of(section.settings, [name])[name].label,
            plain(cost.mean, 1) if cost else "-",
            str(rank.n),
        ]
        rows.append(texts + [_pair(section, name, q, rank.n) for q in questions])
    return "\n".join([f"## {escaped(section.title)}", "", about, "", markdown_table(heads, rows)])


def short(sections: Sequence[Section]) -> str:
    """Return a row for each SAE on which more than two estimators of `SHORT` were measured."""
    heads = ["SAE of", "n", "ablation", *(estimator.about.label for estimator in SHORT)]
    rows: list[list[str]] = []
    for section in sections:
        ranks = [section.estimate(f"{RANK}/{estimator.name}") for estimator in SHORT]
        price = section.estimate("influence/cost/ablation")
        counts = [rank.n for rank in ranks if rank is not None]
        if len(counts) > 2 and price is not None:
            n = max(counts)
            about = [section.title, str(n), f"{price.mean:.0f}"]
            rows.append(about + [_pair(section, estimator.name, "", n) for estimator in SHORT])
    return markdown_table(heads, rows)


def _pair(section: Section, name: str, question: str, n: int) -> str:
    """Return rank correlation / precision: `.981 [.977, .984] / .952 [.939, .965]`.

    The number of prompts follows where it is not `n`.
    """
    scores = [section.estimate(f"{score}{question}/{name}") for score in (RANK, FIRST)]
    estimates = [estimate for estimate in scores if estimate is not None]
    if not estimates:
        return "-"
    text = " / ".join(map(number, estimates))
    return text if estimates[0].n == n else f"{text} (n {estimates[0].n})"


def number(estimate: Estimate) -> str:
    """Return a mean to three decimals, and its interval where that is wider than the rounding."""
    if estimate.low is None or estimate.high is None:
        return plain(estimate.mean, 3)
    mean, low, high = (plain(x, 3) for x in (estimate.mean, estimate.low, estimate.high))
    return mean if low == mean == high else f"{mean} [{low}, {high}]"


def pages(settings: Sequence[Setting]) -> dict[Path, str]:
    """Return the text of both pages by path."""
    every = sections(settings)
    page = replaced(SHORT_PAGE.read_text(), EXPERIMENT, short(every))
    return {WHOLE: whole(every) + "\n", SHORT_PAGE: page}


def main() -> None:
    write_or_check("influence_table", __doc__, pages)


if __name__ == "__main__":
    sys.exit(command(main))
