"""Workers: who lives."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from bespoke.service.orm import Worker
from bespoke.service.store.database import Database, insert

__all__ = ["Workers"]


class Workers(Database):
    """The processes that run jobs."""

    def beat(self, worker_id: str) -> None:
        """Say that a worker lives."""
        now = self._now()
        with self._write() as session:
            insert(session, Worker, id=worker_id, started_at=now, seen_at=now)
            session.execute(sa.update(Worker).where(Worker.id == worker_id).values(seen_at=now))

    def live_workers(self, within_s: float) -> set[str]:
        """Names of the workers that were seen lately."""
        since = self._now() - timedelta(seconds=within_s)
        with self._read() as session:
            return set(session.scalars(sa.select(Worker.id).where(Worker.seen_at >= since)))

    def remove_worker(self, worker_id: str) -> None:
        """Say that a worker has gone."""
        with self._write() as session:
            session.execute(sa.delete(Worker).where(Worker.id == worker_id))
