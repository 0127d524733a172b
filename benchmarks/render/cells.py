"""Cells of the tables of recovery."""

from benchmarks.render.markdown import plain
from benchmarks.results.settings import Estimate, Setting
from gradsae.tables.printing import Markdown, escaped


def name_of(setting: Setting) -> str:
    return str(setting.setup.label or setting.about.label)


def italics(setting: Setting) -> Markdown:
    return Markdown(f"*{escaped(name_of(setting))}*")


def number(estimate: Estimate | None) -> str:
    """Return `.812 ±.013` or `7.91 ±.05`; the mean alone where there is no interval."""
    if estimate is None:
        return "-"
    digits = 3 if abs(estimate.mean) < 1.5 else 2 if abs(estimate.mean) < 100 else 0
    text = plain(estimate.mean, digits)
    if estimate.high is None:
        return text
    return f"{text} ±{plain(estimate.high - estimate.mean, digits)}"
