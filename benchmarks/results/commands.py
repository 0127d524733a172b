"""The commands that make records again, rebuilt from words that are checked.

A record says under `provenance.command` what was typed. That is a stranger's text which readers
copy into a terminal. So no page shows it: what is shown is composed anew of the words that
`benchmarks.run` knows, and a command with any other word is not shown.
"""

import re
import shlex
from collections.abc import Iterable
from functools import cache

from benchmarks.places import CONF
from gradsae.records.record import Record

START = ["python", "-m", "benchmarks.run"]
FLAGS = {"-m", "--multirun"}
KEY = re.compile(r"\+{0,2}(?:hydra\.sweeper\.params\.)?([a-z]\w*)(?:[./@][A-Za-z]\w*)*", re.ASCII)
VALUE = re.compile(r"(?!/)[\w.,:+\-/ \[\]{}'\"]*", re.ASCII)
FORBIDDEN = re.compile(r"_target_|\.\.|\./")
"""In a value: a class to build, and a file outside conf/."""
OLDER = {"part", "influence", "masking", "steering", "steering_budget", "coefficients"}
"""Keys and groups of earlier versions, which published records name."""
NOT_THE_RECORDS = {"tracking", "results", "device", "force", "report"}
"""Keys that say where and how a cell ran, not which. They are left out."""


def command_of(record: Record) -> str | None:
    """Return the command that makes a record again; None where one of its words is not known."""
    return rebuilt(record.provenance["command"])


def commands_of(records: Iterable[Record]) -> list[str]:
    """Return the commands of some records, each once; those that are not known are left out."""
    return [each for each in dict.fromkeys(map(command_of, records)) if each is not None]


@cache
def rebuilt(command: str) -> str | None:
    """Return a command of `benchmarks.run` composed anew of its checked words, or None."""
    try:
        words = shlex.split(command)
    except ValueError:
        return None
    if words[: len(START)] != START:
        return None
    words = words[len(START) :]
    if not all(word in FLAGS or is_known(word) for word in words):
        return None
    return shlex.join([*START, *(word for word in words if _key(word) not in NOT_THE_RECORDS)])


def is_known(word: str) -> bool:
    """Return whether a word sets a field, or chooses a file of a group, that conf/ has."""
    key, sign, value = word.partition("=")
    match = KEY.fullmatch(key)
    if not sign or match is None or FORBIDDEN.search(word):
        return False
    launcher = key == "hydra/launcher"
    return (match[1] in _known_keys() or launcher) and VALUE.fullmatch(value) is not None


def _key(word: str) -> str:
    key = word.partition("=")[0].lstrip("+")
    return "device" if key == "hydra/launcher" else re.split("[./@]", key)[0]


@cache
def _known_keys() -> frozenset[str]:
    """Return the groups of conf/ and the keys of its first file."""
    groups = {path.name for path in CONF.iterdir() if path.is_dir()} - {"hydra"}
    text = (CONF / "config.yaml").read_text(encoding="utf-8")
    keys = re.findall(r"^([a-z]\w*):", text, flags=re.MULTILINE)
    return frozenset({*groups, *keys, *OLDER, "row"} - {"hydra", "defaults"})
