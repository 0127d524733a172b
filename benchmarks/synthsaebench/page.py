"""The parts of docs/results/synthsaebench.md that come from records."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.render.cells import number
from benchmarks.render.markdown import plain
from benchmarks.results.commands import commands_of
from benchmarks.results.growth import n_rows
from benchmarks.results.labels import labels
from benchmarks.results.settings import Setting
from benchmarks.synthsaebench.published import MILLION, PUBLISHED, Published
from benchmarks.synthsaebench.terms import TERMS, Term
from benchmarks.synthsaebench.world import NAME, version_of
from gradsae.errors import UserError
from gradsae.tables.printing import Markdown, escaped, markdown_table

D_SAE = 4096
"""Latents of a trained SAE: the benchmark's."""
HOLLOW = "○"
"""Marks a line that others published."""
OVER_ALL = {"detection/f1": "F1", "recovery/mcc": "MCC", "coverage/f1": "coverage"}
"""Scores over all features, with their heads."""
BAND = re.compile(r"coverage/f1/[\d.e+-]+-[\d.e+-]+")
"""Coverage of the features of one band of rates."""
WHERE = ["method", "world", "rows seen", "seeds"]
SCORED = "rows scored"


class Line(NamedTuple):
    """One setting on a published world."""

    setting: Setting
    label: str
    world: str
    rows: int
    """Rows that the training saw."""

    def where(self) -> list[str]:
        """Return its cells under WHERE."""
        n = n_latents(self.setting)
        label = escaped(self.label + (f", {n:,} latents" if n != D_SAE else ""))
        name = Markdown(f"*{label}*") if self.setting.about.is_control else label
        is_trained = not self.setting.about.is_control and self.setting.method != "pretrained"
        rows = millions(self.rows) if is_trained else "-"
        return [name, self.world, rows, str(self.setting.n_seeds)]


def lines_of(settings: Sequence[Setting]) -> list[Line]:
    """Return the settings of D_SAE latents, and controls, on the published worlds.

    v2 first, then longest trainings, then by F1; controls last. UserError if there are none.
    """
    groups: dict[tuple[str, int], list[Setting]] = {}
    for setting in settings:
        world = version_of(setting.first) if setting.task == "recovery" else ""
        if world and (setting.about.is_control or n_latents(setting) == D_SAE):
            groups.setdefault((world, n_rows(setting.first)), []).append(setting)
    if not groups:
        raise UserError(f"no records of {NAME} among those read")
    lines = [
        Line(setting, label, *where)
        for where, group in groups.items()
        for setting, label in zip(group, labels(group), strict=True)
    ]
    return sorted(lines, key=_place)


def _place(line: Line) -> tuple[bool, bool, int, float]:
    is_control, f1 = line.setting.about.is_control, line.setting.mean("latents/f1") or 0.0
    return is_control, not line.world.startswith("v2"), 0 if is_control else -line.rows, -f1


def n_latents(setting: Setting) -> int:
    """Return the number of latents that F1 is a mean over; 0 where the record has none."""
    return setting.first.n.get("latents/f1") or int(setting.setup.trainer.number("d_sae") or 0)


def theirs(settings: Sequence[Setting]) -> str:
    """Return the table of their scores: ours from records, then what others published."""
    rows = [
        [*line.where(), *scores_of(line.setting), _scored(line.setting)]
        for line in lines_of(settings)
    ]
    rows += [[*_published(line), "-"] for line in PUBLISHED]
    return markdown_table([*WHERE, *(term.header for term in TERMS), SCORED], rows)


def _scored(setting: Setting) -> str:
    """Return the number of held-out rows behind F1."""
    return f"{setting.first.n.get('latents/rows', 0):,}"


def scores_of(setting: Setting) -> list[str]:
    """Return the cells of one setting under the heads of TERMS."""
    return [_cell(setting, term) for term in TERMS]


def _cell(setting: Setting, term: Term) -> str:
    estimate = setting.estimate(term.score)
    if estimate is None:
        return "-"
    converted = {
        end: term.of(value, n_latents(setting))
        for end in ("mean", "low", "high")
        if (value := getattr(estimate, end)) is not None
    }
    text = shown(term, converted["mean"])
    if estimate.over != "seeds" or estimate.low is None or estimate.high is None:
        return text
    return f"{text} ±{shown(term, abs(converted['high'] - converted['mean']))}"


def shown(term: Term, value: float) -> str:
    """Return `.879`, `25.0`, or a whole number of latents."""
    return plain(value, {"dead_latents": 0, "sae_l0": 1}.get(term.name, 3))


def _published(line: Published) -> list[str]:
    scores = [
        shown(term, line.scores[term.name]) if term.name in line.scores else "-" for term in TERMS
    ]
    name = f"{HOLLOW} {line.method} ({_pages().index(line.source) + 1})"
    return [name, line.world, millions(line.rows), str(line.seeds), *scores]


def sources(settings: Sequence[Setting]) -> str:
    """Return the numbered list of the pages that published numbers; the settings say nothing."""
    return "\n".join(f"{i}. {escaped(page)}" for i, page in enumerate(_pages(), 1))


def _pages() -> list[str]:
    return list(dict.fromkeys(line.source for line in PUBLISHED))


def millions(n: int) -> str:
    return f"{n / MILLION:.1f}M" if n < 10 * MILLION else f"{n / MILLION:.0f}M"


def over_all(settings: Sequence[Setting]) -> str:
    """Return the table of our scores over all features, and of coverage by band of rates."""
    lines = lines_of(settings)
    every = dict.fromkeys(name for line in lines for name in line.setting.first.scores)
    bands = [name for name in every if BAND.fullmatch(name)]
    heads = [*WHERE, *OVER_ALL.values(), *(name.rpartition("/")[2] for name in bands)]
    rows = [
        [*line.where(), *(number(line.setting.estimate(name)) for name in (*OVER_ALL, *bands))]
        for line in lines
    ]
    return markdown_table(heads, rows)


def request(settings: Sequence[Setting]) -> str:
    """Return the text of an issue for their page of results: table and commands."""
    lines = [line for line in lines_of(settings) if not line.setting.about.is_control]
    lines = [line for line in lines if line.world.startswith("v2")]
    heads = ["SAE", "samples", "seeds", *(term.header for term in TERMS), SCORED]
    rows = [
        [
            *(line.label, millions(line.rows), str(line.setting.n_seeds)),
            *(*scores_of(line.setting), _scored(line.setting)),
        ]
        for line in lines
    ]
    records = [record for line in lines for record in line.setting.records]
    commands = [f"    {command}" for command in commands_of(records)]
    scored = [f"    python -m benchmarks.synthsaebench {line.setting.first.id}" for line in lines]
    parts = [
        ABOUT,
        markdown_table(heads, rows),
        "Training, then scoring by sae-lens:",
        "\n".join([*commands, *scored]),
    ]
    return "```\n" + "\n\n".join(parts) + "\n```"


ABOUT = """Results on SynthSAEBench-16k v2 from gradsae

SAEs of width 4,096 and batches of 1,024. The world has the law of v2 (children scaled by their
parents) with random numbers of its own. Scores are those of `eval_sae_on_synthetic_data`: the last
command prints our numbers beside those that sae-lens itself gives the SAE on the same rows. The SAE
is exported where your format can hold it (not peel, which is scored through its own encoder). F1
and dead latents depend on the number of rows that are scored."""
