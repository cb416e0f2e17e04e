"""Artifacts: immutable bytes under the sha256 of their content, in a folder or on S3."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import obstore
from obstore.exceptions import AlreadyExistsError, NotFoundError
from obstore.store import LocalStore, ObjectStore, S3Store

from bespoke.service.settings import Settings
from bespoke.supernet.errors import InvalidInput, NotFound

__all__ = ["Artifact", "ArtifactStore", "ObjectArtifacts", "open_artifacts"]

CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True)
class Artifact:
    """A stored file: its sha256 in hex, and its size in bytes."""

    sha256: str
    size: int


class ArtifactStore(Protocol):
    """Where bytes are kept.

    A file is whole or absent, never changes, and is found by its digest; putting it again is free, and
    brings it back where it was removed.
    Safe to use from several threads and processes.
    """

    def put(self, content: bytes) -> Artifact:
        """Keep bytes."""
        ...

    def size(self, sha256: str) -> int:
        """Size of a file in bytes.

        Raises:
            NotFound: There is no such file.
        """
        ...

    def read(self, sha256: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes from ``start`` until before ``stop``, in chunks.

        Raises:
            NotFound: There is no such file; raised by the call, not by the iteration.
        """
        ...

    def remove(self, sha256: str) -> None:
        """Forget a file; what is not there changes nothing."""
        ...


class ObjectArtifacts:
    """An ``ArtifactStore`` on any object store that obstore knows."""

    def __init__(self, objects: ObjectStore) -> None:
        """Keep files in ``objects`` as ``sha256/<first two>/<digest>``."""
        self._objects = objects

    def put(self, content: bytes) -> Artifact:
        """See ``ArtifactStore``."""
        sha256 = hashlib.sha256(content).hexdigest()
        # The name is the content's digest, so what is there is the same.
        with suppress(AlreadyExistsError):
            obstore.put(self._objects, _path(sha256), content, mode="create")
        return Artifact(sha256, len(content))

    def size(self, sha256: str) -> int:
        """See ``ArtifactStore``."""
        try:
            return int(obstore.head(self._objects, _path(sha256))["size"])
        except (NotFoundError, FileNotFoundError):
            raise NotFound("artifact", sha256) from None

    def read(self, sha256: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """See ``ArtifactStore``."""
        end = self.size(sha256) if stop is None else stop
        if end <= start:
            return iter(())
        try:
            found = obstore.get(self._objects, _path(sha256), options={"range": (start, end)})
        except (NotFoundError, FileNotFoundError):
            raise NotFound("artifact", sha256) from None
        return (bytes(chunk) for chunk in found.stream(min_chunk_size=CHUNK_BYTES))

    def remove(self, sha256: str) -> None:
        """See ``ArtifactStore``."""
        with suppress(NotFoundError, FileNotFoundError):
            obstore.delete(self._objects, _path(sha256))


def open_artifacts(settings: Settings) -> ArtifactStore:
    """Open the artifact store that the settings name.

    Raises:
        InvalidInput: The address is neither a folder nor ``s3://``.
    """
    address = settings.artifacts
    if address.startswith("s3://"):
        return ObjectArtifacts(S3Store.from_url(address, **_s3(settings)))
    if "://" in address:
        raise InvalidInput(f"artifacts_url: got {address!r}, expected a folder or s3://bucket/prefix")
    return ObjectArtifacts(LocalStore(Path(address).absolute(), mkdir=True))


def _s3(settings: Settings) -> dict[str, Any]:
    options: dict[str, Any] = {"region": settings.s3_region}
    if settings.s3_key_id:
        options["access_key_id"] = settings.s3_key_id
        options["secret_access_key"] = settings.s3_secret.get_secret_value()
    if settings.s3_endpoint:
        options["endpoint"] = settings.s3_endpoint
        options["client_options"] = {"allow_http": True}
    return options


def _path(sha256: str) -> str:
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        raise NotFound("artifact", sha256)
    return f"sha256/{sha256[:2]}/{sha256}"
