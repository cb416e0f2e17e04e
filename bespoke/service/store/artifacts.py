"""Files of the artifact store, as rows: the bytes are elsewhere."""

from __future__ import annotations

from bespoke.service.orm import ArtifactRow
from bespoke.service.store.database import Database, found, insert

__all__ = ["Artifacts"]


class Artifacts(Database):
    """What is in the artifact store."""

    def add_artifact(self, sha256: str, size: int, media_type: str) -> None:
        """Remember that a file is in the artifact store; idempotent."""
        with self._write() as session:
            insert(
                session,
                ArtifactRow,
                sha256=sha256,
                size=size,
                media_type=media_type,
                created_at=self._now(),
            )

    def artifact(self, sha256: str) -> ArtifactRow:
        """A file of the artifact store.

        Raises:
            NotFound: There is no such file.
        """
        with self._read() as session:
            return found(session.get(ArtifactRow, sha256), "artifact", sha256)
