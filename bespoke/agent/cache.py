"""What an agent keeps on disk: networks by digest, and results that the service has not taken yet."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bespoke.supernet.errors import FileInvalid, InvalidInput, Unavailable
from bespoke.supernet.whole_files import digest_of, replacing, write_file

DIGEST = re.compile(r"[0-9a-f]{64}")
NAME = re.compile(r"[\w-]{1,128}")
MOST_BYTES = 2**30


@dataclass(frozen=True)
class ModelCache:
    """ONNX files by sha256; the least recently used go first.

    Attributes:
        folder: Where the files lie.
        most_bytes: How much they may take together.
    """

    folder: Path
    most_bytes: int = MOST_BYTES

    def get(self, sha256: str, fetch: Callable[[str, Path], None]) -> Path:
        """Where the file of a digest lies; it is fetched where it is missing or damaged.

        Args:
            sha256: The digest, in hex.
            fetch: Writes what belongs to a digest to a path.

        Raises:
            InvalidInput: The digest is none, or what was fetched does not match it.
            Unavailable: Nothing can be written here.
        """
        path = self.path(sha256)
        with suppress(FileInvalid, FileNotFoundError):  # missing, or removed by an agent beside this one
            if digest_of(path) == sha256:
                os.utime(path)
                return path
        try:
            with replacing(path) as temporary:
                fetch(sha256, temporary)
                got = digest_of(temporary)
                if got != sha256:
                    raise InvalidInput(f"artifact {sha256}: the bytes that came have sha256 {got}")
                self._make_room(temporary.stat().st_size)
        except (FileInvalid, OSError) as error:
            raise Unavailable(
                f"networks cannot be kept in {self.folder}: {error}; make room, or take another folder"
            ) from error
        return path

    def path(self, sha256: str) -> Path:
        """Where the file of a digest lies, once it was fetched.

        Raises:
            InvalidInput: The digest is none.
        """
        if not DIGEST.fullmatch(sha256):
            raise InvalidInput(f"artifact digest: got {sha256!r}, expected 64 hexadecimal digits")
        return self.folder / f"{sha256}.onnx"

    def _make_room(self, size: int) -> None:
        files = []
        for file in self.folder.glob("*.onnx"):
            with suppress(FileNotFoundError):  # removed by an agent beside this one
                about = file.stat()
                files.append((about.st_mtime, about.st_size, file))
        used = sum(bytes_ for _, bytes_, _ in files)
        for _, bytes_, file in sorted(files):
            if used + size <= self.most_bytes:
                return
            used -= bytes_
            file.unlink(missing_ok=True)


@dataclass(frozen=True)
class Spool:
    """Results on disk until the service has taken them: neither a cut line nor a kill loses any.

    Attributes:
        folder: One file per lease.
    """

    folder: Path

    def keep(self, lease_id: str, results: Sequence[dict[str, Any]]) -> None:
        """Write all results of a lease that the service has not taken; none removes the file."""
        path = self._path(lease_id)
        if results:
            write_file(path, json.dumps(list(results)).encode())
        else:
            path.unlink(missing_ok=True)

    def waiting(self) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """What earlier runs left: (lease id, results)."""
        for path in sorted(self.folder.glob("*.json")):
            try:
                yield path.stem, json.loads(path.read_text())
            except ValueError:
                path.unlink(missing_ok=True)

    def _path(self, lease_id: str) -> Path:
        return self.folder / f"{plain_id('lease', lease_id)}.json"


def plain_id(kind: str, text: str) -> str:
    """An id that the service gave, once it is sure that it names no other folder.

    Args:
        kind: What it is the id of, for the error.
        text: The id.

    Raises:
        InvalidInput: It has other characters than letters, digits, ``_`` and ``-``.
    """
    if not NAME.fullmatch(text):
        raise InvalidInput(f"{kind} id: got {text!r}, expected letters, digits, _ and -")
    return text
