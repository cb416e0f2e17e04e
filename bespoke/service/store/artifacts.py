"""Files of the artifact store, as rows: the bytes are elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import sqlalchemy as sa

from bespoke.service.orm import ArtifactRow, Campaign, CampaignEntry, SubnetModel
from bespoke.service.store.database import Database, found, insert
from bespoke.supernet.errors import NotFound

__all__ = ["Artifacts"]

ACTIVE = ("preparing", "measuring", "fitting")
PRUNED_AT_ONCE = 20
"""Their bytes are removed while nobody else may write to a SQLite database."""


class Artifacts(Database):
    """What is in the artifact store.

    Whoever writes bytes calls ``add_artifact`` *before*: it waits for a pruning of the same file to
    end, so that the bytes are never removed after they were written again.
    """

    def add_artifact(self, sha256: str, size: int, media_type: str) -> None:
        """Remember that a file is, or is going to be, in the artifact store; idempotent."""
        now = self._now()
        values = {"sha256": sha256, "size": size, "media_type": media_type}
        with self._write() as session:
            insert(session, ArtifactRow, **values, created_at=now)
            here = sa.update(ArtifactRow).where(ArtifactRow.sha256 == sha256)
            session.execute(here.values(touched_at=now, pruned_at=None))

    def artifact(self, sha256: str) -> ArtifactRow:
        """A file of the artifact store.

        Raises:
            NotFound: There is no such file, or no more.
        """
        with self._read() as session:
            row = found(session.get(ArtifactRow, sha256), "artifact", sha256)
        if row.pruned_at is not None:
            raise NotFound("artifact", sha256)
        return row

    def prune(self, remove: Callable[[str], None], unused_s: float, at_once: int = PRUNED_AT_ONCE) -> int:
        """Forget some files that neither a campaign that goes on nor a subnet needs.

        Args:
            remove: Removes the bytes of a file; called with its sha256, inside the transaction.
            unused_s: Files that were written or asked for since are left: their campaign may be on
                its way.
            at_once: Most files of one call.

        Returns:
            How many files were removed.
        """
        now = self._now()
        wanted = (
            sa.select(CampaignEntry.sha256)
            .join(Campaign, Campaign.id == CampaignEntry.campaign_id)
            .where(CampaignEntry.sha256 == ArtifactRow.sha256, Campaign.state.in_(ACTIVE))
        )
        shipped = sa.select(SubnetModel.sha256).where(SubnetModel.sha256 == ArtifactRow.sha256)
        last_use = sa.func.coalesce(ArtifactRow.touched_at, ArtifactRow.created_at)
        unused = (
            sa.select(ArtifactRow)
            .where(
                ArtifactRow.pruned_at.is_(None),
                last_use
                <= sa.bindparam("before", now - timedelta(seconds=unused_s), ArtifactRow.created_at.type),
                ~wanted.exists(),
                ~shipped.exists(),
            )
            .limit(at_once)
            .with_for_update(skip_locked=True)
        )
        with self._write() as session:
            rows = list(session.scalars(unused))
            for row in rows:
                remove(row.sha256)
                row.pruned_at = now
        return len(rows)
