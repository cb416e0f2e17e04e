"""Archives: the fronts that are kept, generation by generation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from bespoke.service.orm import ArchiveRow, Lease, Search, StoredSubnet
from bespoke.service.store.database import Database, found, insert

__all__ = ["ArchiveKey", "Archives"]


@dataclass(frozen=True)
class ArchiveKey:
    """What an archive follows from.

    Attributes:
        supernet_digest: Of the supernet, whose space is searched.
        table_revision: Of the latency table that prices; empty for the archive without a device.
        predictor_revision: Of the accuracy predictor.
    """

    supernet_digest: str
    table_revision: str
    predictor_revision: str


class Archives(Database):
    """Generations of archives; none is ever overwritten, so that every answer can be repeated."""

    def newest_archive(self, key: ArchiveKey) -> tuple[int, bool] | None:
        """The newest generation of an archive, and whether it is settled; None where there is none."""
        query = (
            sa.select(ArchiveRow.generation, ArchiveRow.settled)
            .where(*_of(key))
            .order_by(ArchiveRow.generation.desc())
            .limit(1)
        )
        with self._read() as session:
            row = session.execute(query).first()
            return None if row is None else (row[0], row[1])

    def archive(self, key: ArchiveKey, generation: int) -> ArchiveRow:
        """A generation of an archive.

        Raises:
            NotFound: There is none.
        """
        query = sa.select(ArchiveRow).where(*_of(key), ArchiveRow.generation == generation)
        with self._read() as session:
            return found(session.scalars(query).first(), "archive", f"generation {generation}")

    def archive_named(self, key: ArchiveKey, digest: str) -> ArchiveRow:
        """The generation of an archive with a digest.

        Raises:
            NotFound: There is none.
        """
        query = sa.select(ArchiveRow).where(*_of(key), ArchiveRow.digest == digest)
        with self._read() as session:
            return found(session.scalars(query).first(), "archive", digest)

    def add_archive(self, key: ArchiveKey, generation: int, digest: str, members: bytes) -> None:
        """Keep a generation; idempotent."""
        with self._write() as session:
            insert(
                session,
                ArchiveRow,
                supernet_digest=key.supernet_digest,
                table_revision=key.table_revision,
                predictor_revision=key.predictor_revision,
                generation=generation,
                digest=digest,
                settled=False,
                members=members,
                created_at=self._now(),
            )

    def settle_archive(self, key: ArchiveKey) -> None:
        """Say that further generations of an archive are not worth their time."""
        with self._write() as session:
            session.execute(sa.update(ArchiveRow).where(*_of(key)).values(settled=True))

    def searched_architectures(self, key: ArchiveKey, limit: int) -> list[dict[str, Any]]:
        """The newest architectures that requests were answered with by a search of their own."""
        query = (
            sa.select(StoredSubnet.architecture)
            .join(Search, Search.subnet_id == StoredSubnet.id)
            .where(
                StoredSubnet.supernet_digest == key.supernet_digest,
                StoredSubnet.predictor_revision == key.predictor_revision,
                sa.func.coalesce(StoredSubnet.table_revision, "") == key.table_revision,
                Search.archive.is_(None),
            )
            .order_by(Search.created_at.desc(), Search.id)
            .limit(limit)
        )
        with self._read() as session:
            return list(session.scalars(query))

    def last_search_at(self) -> datetime | None:
        """When the last search was kept; None where there was none."""
        with self._read() as session:
            return session.scalars(
                sa.select(Search.created_at).order_by(Search.created_at.desc()).limit(1)
            ).first()

    def measuring(self, lately_s: float = 0.0) -> bool:
        """Whether an agent holds a lease now: what else runs on its machine would disturb it.

        Args:
            lately_s: A lease that was handed in no longer ago than this counts too.
        """
        now = self._now()
        live = sa.select(Lease.id).where(
            sa.or_(
                sa.and_(Lease.ended_at.is_(None), Lease.expires_at > now),
                Lease.ended_at > now - timedelta(seconds=lately_s),
            )
        )
        with self._read() as session:
            return session.scalars(live.limit(1)).first() is not None


def _of(key: ArchiveKey) -> Sequence[sa.ColumnElement[bool]]:
    return (
        ArchiveRow.supernet_digest == key.supernet_digest,
        ArchiveRow.table_revision == key.table_revision,
        ArchiveRow.predictor_revision == key.predictor_revision,
    )
