"""Files that torch wrote, read as plain tensors: nothing in them is ever run."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bespoke.supernet.errors import FileInvalid, Unavailable


def read_tensors(path: Path) -> dict[str, Any]:
    """Read a file of named tensors, at its top or under ``state_dict``.

    Args:
        path: A file that ``torch.save`` wrote.

    Returns:
        Dense tensors on the CPU, by name, in the file's order.

    Raises:
        FileInvalid: The file is missing, cut off, holds code, or holds something else.
        Unavailable: torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise Unavailable(
            f"{path} is a torch file: install torch (pip install 'bespoke-search[train]') to read it"
        ) from error
    if not path.is_file():
        raise FileInvalid(path, "no such file; expected a file that torch.save wrote")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        if foreign is None:
            raise FileInvalid(path, "is no readable torch file: damaged, or of another kind") from error
        raise FileInvalid(
            path, f"holds more than tensors: {foreign[1]}, which is code; nothing of it was loaded or run"
        ) from error
    except Exception as error:  # A damaged pickle can end in any error at all.
        raise FileInvalid(path, f"is no readable torch file: {type(error).__name__}: {error}") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise FileInvalid(path, f"expected a dictionary of tensors, got {type(content).__name__}")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            got = type(tensor).__name__
            raise FileInvalid(path, f"expected tensors by name, got {name!r}, which is a {got}")
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise FileInvalid(path, f"tensor {name!r}: expected dense numbers, got {tensor.layout}")
    return dict(content)
