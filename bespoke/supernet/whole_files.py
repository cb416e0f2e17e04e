"""Files that are whole or not there: written beside their place, and moved there once they are complete."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bespoke.supernet.errors import FileInvalid

__all__ = ["digest_of", "named", "replacing", "write_file", "write_whole"]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place at the end, and is removed after an error.

    Args:
        path: The file; its folder is made where it is missing. Of a link, the file that it leads to.

    Raises:
        FileInvalid: It cannot be put there, or is a folder or a device.
    """
    with named(path):
        if path.exists() and not path.is_file():
            raise FileInvalid(path, "cannot be written: it is no ordinary file; give another path")
        place = Path(os.path.realpath(path)) if path.is_symlink() else path
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with named(path):
            temporary.chmod(0o644)
            temporary.replace(place)
    finally:
        temporary.unlink(missing_ok=True)


def write_file(path: Path, content: bytes | str) -> None:
    """Replace a file, whole or not at all.

    Raises:
        FileInvalid: It cannot be written.
    """
    write_whole({path: content})


def write_whole(files: Mapping[Path, bytes | str]) -> None:
    """Write files beside their places first, and move them there when all of them are written.

    Raises:
        FileInvalid: One cannot be written.
    """
    with ExitStack() as places:
        # Left in the opposite order: moved in that of the files, and none behind one that cannot be.
        temporaries = {path: places.enter_context(replacing(path)) for path in reversed(list(files))}
        for path, content in files.items():
            with named(path):
                temporaries[path].write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Name what cannot be written, in an error of ours.

    Raises:
        FileInvalid: An ``OSError`` came.
    """
    try:
        yield
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
