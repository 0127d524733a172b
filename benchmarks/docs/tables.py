"""Tables of docs/results/ that are small: one function each, from published settings alone."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import log

from benchmarks import regret as regrets
from benchmarks.influence_table import number
from benchmarks.render.markdown import plain
from benchmarks.results.settings import Setting
from benchmarks.synthsaebench import page as synthsaebench
from gradsae.errors import UserError
from gradsae.tables.printing import Markdown, escaped, markdown_table

Table = Callable[[Sequence[Setting]], str]

TOY = {
    "GBA": ("GBA, our recipe", "100 / 100"),
    "GBA targets .5 to .001": ("GBA, targets that cover the true rate", "100 / 100"),
    "GBA targets .01 to .0001": ("GBA, targets far too low", "38 / 4"),
    "GBA published": ("GBA as published", ""),
    "TopK K=10": ("TopK K=10", ""),
    "TopK K=20": ("TopK K=20", "100 / 98"),
    "TopK K=30": ("TopK K=30", "98 / 24"),
    "TopK K=50": ("TopK K=50", "95 / 23"),
}
"""Label of a row of experiment=gba_toy: its name in the table, and FRR in the GBA paper."""
FRR, MCC = ("recovery/frr_0.8", "recovery/frr_0.9"), "recovery/mcc"
L0, FVU, DEAD = "sparsity/l0", "reconstruction/fvu", "sparsity/dead"
LIKE_L0 = 32
"""The l0 at which the table of SmolLM2 compares methods."""
MILLION = 1_000_000


def gba_toy(settings: Sequence[Setting]) -> str:
    """Return feature recovery of each recipe on the GBA paper's toy beside the paper's numbers."""
    by_label = {s.setup.label: s for s in of_experiment(settings, "gba_toy")}
    rows = []
    for label, (name, paper) in TOY.items():
        setting = by_label[label]
        ours = " / ".join(f"{100 * mean(setting, score):.0f}" for score in FRR)
        rest = [shown(setting, MCC, 3), shown(setting, L0, 1), shown(setting, FVU, 2)]
        rows.append([name, str(setting.n_seeds), ours, paper, *rest])
    return markdown_table(["method", "seeds", "ours", "paper", "MCC", "l0", "FVU"], rows)


def lm_recovery(settings: Sequence[Setting]) -> str:
    """Return FVU (l0) of each method on SmolLM2 at the setting whose l0 is nearest to LIKE_L0."""
    trained = [
        s
        for s in of_experiment(settings, "lm_frontier", "lm_depths")
        if s.setup.model.name == "smollm2" and s.setup.source.get("n_tokens") >= MILLION
    ]
    again = of_experiment(settings, "lm_consistency")
    places = [("prose", 7), ("prose", 15), ("prose", 22), ("code", 15)]
    rows = []
    for method in dict.fromkeys(s.method for s in trained):
        same_method = [s for s in trained if s.method == method]
        at = [nearest(s for s in same_method if where(s) == place) for place in places]
        dead = shown(at[1], DEAD, 2) if at[1] else "-"
        again_shares = [found_again(again, method, text) for text in ("prose", "code")]
        rows.append([name_of(same_method[0]), *map(at_l0, at), dead, *again_shares])
    rows.sort(key=lambda row: row[2])
    heads = [f"block {depth}" + ", code" * (text == "code") for text, depth in places]
    heads += ["dead, block 15", "found again", "found again, code"]
    return markdown_table(["method", *heads], rows)


def where(setting: Setting) -> tuple[str, int | None]:
    return setting.setup.corpus.name, setting.depth


def nearest(settings: Iterable[Setting]) -> Setting | None:
    """Return the setting whose l0 is nearest to LIKE_L0 as a ratio, or None if there is none."""
    return min(settings, key=lambda s: abs(log(mean(s, L0) / LIKE_L0)), default=None)


def at_l0(setting: Setting | None) -> str:
    """Return `.166 (32)`, or a dash."""
    return "-" if setting is None else f"{shown(setting, FVU, 3)} ({mean(setting, L0):.0f})"


def found_again(settings: Sequence[Setting], method: str, text: str) -> str:
    """Return the share of latents that two other seeds find, on block 15 and one kind of text."""
    matching = [s for s in settings if s.method == method and where(s)[0] == text]
    matching = [s for s in matching if s.setup.source.get("n_tokens") >= MILLION]
    estimate = matching[0].estimate("consistency/mcs_0.9") if matching else None
    return number(estimate) if estimate else "-"


def masking(settings: Sequence[Setting]) -> str:
    """Return what is lost with each estimator's first ten latents off, in the middle of SmolLM2."""
    setting = most_asked(of_experiment(settings, "masking"), "masking/questions", 15)
    heads = {
        "masking/drop": "drop of the answer",
        "masking/advantage": "advantage",
        "masking/mark_drop": "drop of the format's bracket",
        "masking/mark_advantage": "advantage",
        "masking/em": "exact match",
    }
    names = [name for name in variants_of(setting, "masking/drop") if name != "mean_act"]
    rows = [
        [setting.variant(name).label, *(interval(setting, f"{score}/{name}") for score in heads)]
        for name in [*names, "mean_act"]
    ]
    return markdown_table(["latents ranked by", *heads.values()], rows)


def steering_budget(settings: Sequence[Setting]) -> str:
    """Return the effect at a fixed KL, and how well a score predicts the effect of one latent."""
    heads = {
        "budget/effect_at_kl": "effect at the KL budget",
        "budget/predicts": "predicts sizes",
        "budget/grad_predicts_better": "gradient predicts better by",
        "budget/predicts_signed": "predicts with signs",
    }
    rows = []
    for depth in (7, 15, 22):
        setting = most_asked(of_experiment(settings, "steering_budget"), "budget/prompts", depth)
        n = setting.first.n["budget/prompts"]
        for name in variants_of(setting, "budget/effect_at_kl"):
            cells = (interval(setting, f"{score}/{name}") for score in heads)
            rows.append([f"block {depth}, {n} prompts", setting.variant(name).label, *cells])
    return markdown_table(["where", "latents chosen by", *heads.values()], rows)


def regret(settings: Sequence[Setting]) -> str:
    """Return what each method's default loses against the best setting of its grid."""
    return regrets.table_of([record for s in settings for record in s.records])


def of_experiment(settings: Iterable[Setting], *names: str) -> list[Setting]:
    """Return the settings of some experiments; UserError if there are none."""
    chosen = [s for s in settings if s.setup.experiment in names]
    if not chosen:
        raise UserError(
            f"no records of experiment={' or '.join(names)} among those read: "
            f"`python -m benchmarks.run experiment={names[0]}` makes some"
        )
    return chosen


def most_asked(settings: Iterable[Setting], n: str, depth: int) -> Setting:
    """Return the setting at a block that has the most questions or prompts."""
    return max((s for s in settings if s.depth == depth), key=lambda s: s.first.n.get(n, 0))


def variants_of(setting: Setting, score: str) -> list[str]:
    """Return the variants of a score, the largest value first."""
    prefix = f"{score}/"
    names = [name for name in setting.first.scores if name.startswith(prefix)]
    return [name.removeprefix(prefix) for name in sorted(names, key=lambda x: -mean(setting, x))]


def name_of(setting: Setting) -> str:
    """Return the label of a method, in italics for a control."""
    about = setting.about
    return Markdown(f"*{escaped(about.label)}*") if about.is_control else about.label


def mean(setting: Setting, score: str) -> float:
    estimate = setting.estimate(score)
    if estimate is None:
        raise UserError(f"no {score} in the records of {setting.setup.experiment}")
    return estimate.mean


def shown(setting: Setting, score: str, digits: int) -> str:
    return plain(mean(setting, score), digits)


def interval(setting: Setting, score: str) -> str:
    """Return a mean with its 95 % interval, or a dash where there is no such score."""
    estimate = setting.estimate(score)
    if estimate is None:
        return "-"
    if estimate.low is None or estimate.high is None:
        return plain(estimate.mean, 2)
    ends = (plain(end, 2) for end in (estimate.low, estimate.high))
    return f"{plain(estimate.mean, 2)} [{', '.join(ends)}]"


TABLES: Mapping[str, Mapping[str, Table]] = {
    "recovery.md": {
        "gba_toy": gba_toy,
        "lm_recovery": lm_recovery,
    },
    "synthsaebench.md": {
        "theirs": synthsaebench.theirs,
        "over_all": synthsaebench.over_all,
        "published": synthsaebench.sources,
        "request": synthsaebench.request,
    },
    "masking.md": {"masking": masking},
    "steering.md": {"steering_budget": steering_budget},
    "regret.md": {"regret": regret},
}
"""Page of docs/results: its tables by the name of their markers."""
