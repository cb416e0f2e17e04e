"""Files that are whole or not there: written beside their place, and moved there once they are complete."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bespoke.supernet.errors import FileInvalid

__all__ = ["digest_of", "replacing", "write_file"]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place at the end, and is removed after an error.

    Args:
        path: The file; its folder is made where it is missing.

    Raises:
        FileInvalid: It cannot be put there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise FileInvalid(path, f"cannot be written: {error}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        try:
            temporary.replace(path)
        except OSError as error:
            raise FileInvalid(path, f"cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_file(path: Path, content: bytes | str) -> None:
    """Replace a file, whole or not at all.

    Raises:
        FileInvalid: It cannot be written.
    """
    with replacing(path) as temporary:
        try:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        except OSError as error:
            raise FileInvalid(path, f"cannot be written: {error}") from error


def digest_of(path: Path) -> str:
    """sha256 of a file, in hex; the file is never whole in memory.

    Raises:
        FileInvalid: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FileInvalid(path, f"cannot be read: {error}") from error
