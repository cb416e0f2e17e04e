"""JSON files that must hold an object."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bespoke.supernet.errors import FileInvalid


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        FileInvalid: It cannot be read, is no JSON, or holds something else.
    """
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise FileInvalid(path, f"no readable JSON: {error}") from error
    if not isinstance(data, dict):
        raise FileInvalid(path, f"got a JSON {type(data).__name__}, expected an object")
    return data
