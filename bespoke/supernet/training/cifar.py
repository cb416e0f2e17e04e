"""CIFAR-10 and CIFAR-100 as their authors publish them for Python.

The files are pickles, which could hold any code: only what the official ones are made of is let in.

Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009).
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bespoke.supernet.errors import FileInvalid

SIDE = 32
TEN = (("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"), ("test_batch",))
HUNDRED = (("train",), ("test",))
FOLDERS = ("cifar-10-batches-py", "cifar-100-python")

_reconstruct = np.empty(0).__reduce__()[0]
_ALLOWED: Mapping[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _OnlyArrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Give numpy's array and its parts; nothing else may be named in the file."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"names {module}.{name}, which may run code")
        return _ALLOWED[module, name]


def cifar_folder(root: Path) -> Path | None:
    """The folder with CIFAR's files: this one, or the official one in it; None where there is none."""
    for folder in (root, *(root / name for name in FOLDERS)):
        if (folder / "batches.meta").is_file() or (folder / "meta").is_file():
            return folder
    return None


def cifar_classes(folder: Path) -> tuple[str, ...]:
    """The names of CIFAR's classes.

    Args:
        folder: Where the unpacked files stand.

    Raises:
        FileInvalid: The file that names them is cut off, or holds something else.
    """
    ten = (folder / "batches.meta").is_file()
    meta = folder / ("batches.meta" if ten else "meta")
    classes = _field(meta, _read(meta), b"label_names" if ten else b"fine_label_names", list)
    return tuple(c.decode() if isinstance(c, bytes) else str(c) for c in classes)


def read_cifar(folder: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
    """Read one split.

    Args:
        folder: Where the unpacked files stand.
        split: ``train`` or ``val`` (the official test images).

    Returns:
        Images of shape (N, 32, 32, 3), labels of shape (N,), and the classes' names.

    Raises:
        FileInvalid: A file is missing or cut off, or holds something else than CIFAR's does.
    """
    ten = (folder / "batches.meta").is_file()
    names = (TEN if ten else HUNDRED)[split != "train"]
    label_key, classes = b"labels" if ten else b"fine_labels", cifar_classes(folder)
    parts, labels = [], []
    for path in (folder / name for name in names):
        content = _read(path)
        data = _field(path, content, b"data", np.ndarray)
        told = _field(path, content, label_key, list)
        if data.dtype != np.uint8 or data.shape != (len(told), 3 * SIDE * SIDE):
            raise FileInvalid(
                path, f"got {data.dtype} images {data.shape} for {len(told)} labels, expected uint8 (N, 3072)"
            )
        if any(type(label) is not int or not 0 <= label < len(classes) for label in told):
            raise FileInvalid(path, f"expected labels from 0 to {len(classes) - 1}")
        parts.append(data.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))
        labels += told
    return np.ascontiguousarray(np.concatenate(parts)), np.array(labels, np.int64), classes


def _read(path: Path) -> dict[Any, Any]:
    try:
        with path.open("rb") as file:
            content = _OnlyArrays(file, encoding="bytes").load()
    except OSError as error:
        raise FileInvalid(path, f"cannot be read: {error.strerror}") from error
    except Exception as error:  # A damaged pickle can end in any error at all.
        raise FileInvalid(path, f"no official CIFAR file for Python, and not loaded: {error}") from error
    if not isinstance(content, dict):
        raise FileInvalid(path, f"got a {type(content).__name__}, expected a dictionary")
    return content


def _field(path: Path, content: dict[Any, Any], key: bytes, kind: type) -> Any:
    value = content.get(key, content.get(key.decode()))
    if not isinstance(value, kind):
        got = type(value).__name__
        raise FileInvalid(path, f"field {key.decode()!r}: got {got}, expected {kind.__name__}")
    return value
