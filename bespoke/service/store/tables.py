"""Revisions of latency tables."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from bespoke.service.orm import Campaign, StoredTable
from bespoke.service.store.database import Database, found, insert

__all__ = ["Tables", "read_table"]


class Tables(Database):
    """Latency tables: revisions that are never overwritten."""

    def latest_table(self, device_id: str, supernet: str) -> StoredTable | None:
        """The table of the latest campaign that succeeded; None where there is none."""
        with self._read() as session:
            return session.scalars(_tables(device_id).where(StoredTable.supernet == supernet)).first()

    def latest_tables(self, device_id: str) -> list[StoredTable]:
        """The latest table of each supernet that the device was profiled for."""
        with self._read() as session:
            latest: dict[str, StoredTable] = {}
            for table in session.scalars(_tables(device_id)):
                latest.setdefault(table.supernet, table)
            return list(latest.values())

    def finish_campaign(self, campaign_id: str, revision: str, table: Mapping[str, Any]) -> None:
        """Keep the table that a campaign gave, and serve it from now on; idempotent."""
        with self._write() as session:
            campaign = found(session.get(Campaign, campaign_id), "campaign", campaign_id)
            insert(
                session,
                StoredTable,
                campaign_id=campaign_id,
                revision=revision,
                device_id=campaign.device_id,
                supernet=campaign.supernet,
                table=zlib.compress(json.dumps(table).encode()),
                created_at=self._now(),
            )
            if campaign.state == "fitting":
                campaign.state, campaign.table_revision = "succeeded", revision
                campaign.finished_at = self._now()


def read_table(row: StoredTable) -> dict[str, Any]:
    """The JSON of a stored latency table."""
    table: dict[str, Any] = json.loads(zlib.decompress(row.table))
    return table


def _tables(device_id: str) -> sa.Select[StoredTable]:
    return (
        sa.select(StoredTable)
        .join(Campaign, Campaign.id == StoredTable.campaign_id)
        .where(StoredTable.device_id == device_id, Campaign.state == "succeeded")
        .order_by(Campaign.finished_at.desc(), Campaign.created_at.desc())
    )
