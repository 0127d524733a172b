"""Words of a command that Hydra's grammar cannot read as they stand."""

import re
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from gradsae.errors import UserError


def readable(words: Sequence[str]) -> list[str]:
    """Return the words, with the value in quotes where that alone makes them readable.

    A shell takes the quotes of `results='/tmp/café'` away; letters with accents, parentheses and
    the like need a second pair. Raises UserError where quotes do not help.
    """
    parser = OverridesParser.create()
    return [word if _is_read(parser, word) else _quoted(parser, word) for word in words]


def _is_read(parser: OverridesParser, word: str) -> bool:
    """Return whether Hydra reads a word: a flag, which is not its grammar's, or an override."""
    if word.startswith("-") or "=" not in word:
        return True
    try:
        parser.parse_override(word)
    except HydraException:
        return False
    return True


def _quoted(parser: OverridesParser, word: str) -> str:
    key, _, value = word.partition("=")
    escaped = re.sub(r"(\\+)(?='|$)", r"\1\1", value).replace("'", "\\'")
    quoted = f"{key}='{escaped}'"
    is_list = "," in value or value[:1] in ("[", "{")
    if is_list or not _is_read(parser, quoted):
        raise UserError(
            f"cannot read {word}: put each text that has other signs than letters, digits, blanks "
            f"and -_./:@+%* in quotes twice, as in \"{key}='...'\""
        )
    return quoted
