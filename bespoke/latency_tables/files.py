"""Table files: read within bounds and without guessing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bespoke.supernet.errors import FileInvalid, InvalidInput

MOST_BYTES = 64_000_000
"""A table of all 25 resolutions of the largest space is below 1 MB; more is something else."""


def read_text(path: Path, expected: str = "a latency table") -> str:
    """The text of a file, without the byte order mark that spreadsheets put first.

    Raises:
        FileInvalid: It cannot be read, is larger than ``MOST_BYTES``, or is no UTF-8.
    """
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise FileInvalid(path, f"is {size} bytes, expected {expected} of at most {MOST_BYTES}")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FileInvalid(path, f"expected {expected}; {error}") from error


def parse_json(text: str | bytes) -> Any:
    """JSON as it stands: a key that an object holds twice, or a number that is none, is an error.

    Raises:
        InvalidInput: It is no JSON, or one of these; says where.
    """
    if len(text) > MOST_BYTES:
        raise InvalidInput(f"got {len(text)} bytes of JSON, expected at most {MOST_BYTES}")
    try:
        return json.loads(text, object_pairs_hook=_distinct, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"expected JSON; {error}") from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidInput(f"the key {twice!r} stands {names.count(twice)} times in one object")
    return found


def _no_number(name: str) -> Any:
    raise InvalidInput(f"got {name} for a number, expected a finite one")
