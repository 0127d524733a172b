"""JSON files that hold one object, and the checksum inside some of them.

A sealed object has a key `checksum`: the sha256 of its other keys and values, however they are
spaced or ordered. A file without one, as older versions wrote it, is taken as it is.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradsae.errors import UserError

CHECKSUM = "checksum"
MAX_BYTES = 64 * 10**6
"""More is no file of ours: a store of 10,000 shards has 3 MB."""


def read_object(path: Path, remedy: str = "") -> dict[str, Any]:
    """Return the object in a JSON file; every number in it is finite.

    Raises UserError, naming the file and ending in `remedy`, for one that is missing, too large,
    not JSON or not an object.
    """
    end = f"; {remedy}" if remedy else ""
    try:
        if not path.exists():
            raise UserError(f"{path.parent}: {path.name} is missing{end}")
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: must be a file of at most {MAX_BYTES / 1e6:.0f} MB{end}")
        value = json.loads(
            path.read_text(encoding="utf-8"), parse_constant=_refuse, parse_float=_finite
        )
        json.dumps(value, ensure_ascii=False).encode()  # refuses halves of characters
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}{end}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged JSON ({error}){end}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: must hold a JSON object, got a {type(value).__name__}{end}")
    return value


def sealed(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON values with their checksum."""
    values = json.loads(json.dumps(data, allow_nan=False))  # tuples become lists, as in the file
    return {**values, CHECKSUM: checksum_of(values)}


def unsealed(data: Mapping[str, Any], path: Path, remedy: str = "") -> dict[str, Any]:
    """Return an object without its checksum; UserError where it has one that differs."""
    rest = {name: value for name, value in data.items() if name != CHECKSUM}
    if CHECKSUM in data and data[CHECKSUM] != checksum_of(rest):
        end = f"; {remedy}" if remedy else ""
        raise UserError(f"damaged file {path}: its content differs from its checksum{end}")
    return rest


def is_sealed(path: Path) -> bool:
    """Return whether the object in a JSON file has a checksum."""
    return CHECKSUM in read_object(path)


def checksum_of(values: Mapping[str, Any]) -> str:
    """Return the sha256 of JSON values, however they are spaced or ordered."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no finite number")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:20]} is too large a number")
    return number
