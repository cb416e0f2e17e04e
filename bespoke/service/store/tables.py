"""Revisions of latency tables."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, defer

from bespoke.service.orm import Device, Search, StoredSubnet, StoredTable
from bespoke.service.store.campaigns import lock_campaign
from bespoke.service.store.database import Database, found, insert, new_id, table_of

__all__ = ["TableToKeep", "Tables", "add_table_row", "read_table", "tables_in_order"]


@dataclass(frozen=True)
class TableToKeep:
    """A latency table that is to be kept.

    Attributes:
        revision: Its digest.
        source: How it was made.
        provisional: Whether it only serves until a full one is there.
        table: Its JSON, the quality card included.
    """

    revision: str
    source: str
    provisional: bool
    table: Mapping[str, Any]


_ABOUT = [column for column in table_of(StoredTable).c if column.name != "table"]
_OF_DEVICE = (
    StoredTable.device_id == sa.bindparam("device_id"),
    StoredTable.supernet == sa.bindparam("supernet"),
)
_STATE = sa.select(*_ABOUT).where(*_OF_DEVICE, StoredTable.revision == sa.bindparam("revision"))
_SERVING_FIRST = (StoredTable.provisional, StoredTable.created_at.desc(), StoredTable.id)
_SERVING = sa.select(*_ABOUT).where(*_OF_DEVICE).order_by(*_SERVING_FIRST).limit(1)


class Tables(Database):
    """Latency tables: revisions that are never overwritten."""

    def latest_table(self, device_id: str, supernet: str) -> StoredTable | None:
        """The table that serves now (see ``StoredTable``); None where there is none."""
        query = tables_in_order(StoredTable.device_id == device_id, StoredTable.supernet == supernet)
        with self._read() as session:
            return session.scalars(query.limit(1)).first()

    def serving_state(self, device_id: str, supernet: str) -> StoredTable | None:
        """What ``latest_table`` gives, without its content; of another process, as it was ``FRESH_S`` ago."""
        return self._state(_SERVING, device_id=device_id, supernet=supernet)

    def latest_tables(self, device_id: str) -> list[StoredTable]:
        """The table that serves now for each supernet, without its content."""
        latest: dict[str, StoredTable] = {}
        for table in self.tables(device_id):
            if table.supernet not in latest or latest[table.supernet].provisional > table.provisional:
                latest[table.supernet] = table
        return list(latest.values())

    def tables(self, device_id: str, supernet: str | None = None) -> list[StoredTable]:
        """All revisions of a device, or of it and a supernet, newest first; without their content."""
        query = (
            sa.select(StoredTable)
            .where(StoredTable.device_id == device_id)
            .options(defer(StoredTable.table))
            .order_by(StoredTable.created_at.desc(), StoredTable.id)
        )
        if supernet is not None:
            query = query.where(StoredTable.supernet == supernet)
        with self._read() as session:
            return list(session.scalars(query))

    def table(self, device_id: str, revision: str) -> StoredTable:
        """A revision of a device.

        Raises:
            NotFound: There is no such revision.
        """
        query = tables_in_order(StoredTable.device_id == device_id, StoredTable.revision == revision)
        with self._read() as session:
            return found(session.scalars(query.limit(1)).first(), "latency table", revision)

    def table_state(self, device_id: str | None, supernet: str, revision: str | None) -> StoredTable | None:
        """A revision without its content; None where there is none. It may be ``FRESH_S`` old."""
        if device_id is None or revision is None:
            return None
        return self._state(_STATE, device_id=device_id, supernet=supernet, revision=revision)

    def _state(self, query: sa.Select[Any], **named: str) -> StoredTable | None:
        def read() -> StoredTable | None:
            with self._look() as connection:
                row = connection.execute(query, named).first()
                return None if row is None else StoredTable(**row._mapping)

        return self._recent.once(tuple(named.items()), read)

    def table_by_id(self, table_id: str) -> StoredTable:
        """A revision by its row.

        Raises:
            NotFound: There is none.
        """
        with self._read() as session:
            return found(session.get(StoredTable, table_id), "latency table", table_id)

    def revision_of(self, table_id: str) -> str | None:
        """The revision of a row, without its content; None where there is no such row."""
        with self._read() as session:
            return session.scalar(sa.select(StoredTable.revision).where(StoredTable.id == table_id))

    def other_tables(self, device_id: str, supernet: str) -> list[StoredTable]:
        """What full tables serve the other devices for a supernet, by the age of the device."""
        with self._read() as session:
            others = session.scalars(
                sa.select(Device.id).where(Device.id != device_id).order_by(Device.created_at, Device.id)
            ).all()
        serving = [self.latest_table(other, supernet) for other in others]
        return [table for table in serving if table is not None and not table.provisional]

    def add_table(self, device_id: str, supernet: str, kept: TableToKeep) -> tuple[StoredTable, bool]:
        """Keep a table that no campaign made; the same revision again is the same row.

        Returns:
            The row, and whether it is new.

        Raises:
            NotFound: There is no such device.
        """
        with self._write() as session:
            found(session.get(Device, device_id), "device", device_id)
            new = add_table_row(session, device_id, supernet, kept, None, self._now())
            return session.scalars(_of_revision(device_id, supernet, kept.revision)).one(), new

    def finish_campaign(self, campaign_id: str, kept: TableToKeep) -> None:
        """Keep the table that a campaign gave, and serve it from now on; idempotent."""
        with self._write() as session:
            campaign = lock_campaign(session, campaign_id)
            if campaign.state == "fitting":
                now = self._now()
                add_table_row(session, campaign.device_id, campaign.supernet, kept, campaign_id, now)
                campaign.state, campaign.table_revision, campaign.finished_at = (
                    "succeeded",
                    kept.revision,
                    now,
                )

    def searches_with_table(self, device_id: str, revision: str, limit: int) -> tuple[int, list[str]]:
        """How many searches a table answered, and the ids of the newest of them."""
        main = sa.and_(StoredSubnet.device_id == device_id, StoredSubnet.table_revision == revision)
        # Of further devices: both are names that stand nowhere else in that text.
        text = sa.cast(StoredSubnet.tables, sa.Text)
        used = sa.or_(main, sa.and_(text.contains(device_id), text.contains(revision)))
        joined = sa.select(Search.id).join(StoredSubnet, StoredSubnet.id == Search.subnet_id).where(used)
        count = sa.select(sa.func.count()).select_from(joined.subquery())
        newest = joined.order_by(Search.created_at.desc(), Search.id).limit(limit)
        with self._read() as session:
            return session.scalar(count) or 0, list(session.scalars(newest))


def read_table(row: StoredTable) -> dict[str, Any]:
    """The JSON of a stored latency table."""
    table: dict[str, Any] = json.loads(zlib.decompress(row.table))
    return table


def tables_in_order(*where: sa.ColumnElement[bool]) -> sa.Select[StoredTable]:
    """Tables, the one that serves first."""
    return sa.select(StoredTable).where(*where).order_by(*_SERVING_FIRST)


def _of_revision(device_id: str, supernet: str, revision: str) -> sa.Select[StoredTable]:
    return sa.select(StoredTable).where(
        StoredTable.device_id == device_id,
        StoredTable.supernet == supernet,
        StoredTable.revision == revision,
    )


def add_table_row(
    session: Session,
    device_id: str,
    supernet: str,
    kept: TableToKeep,
    campaign_id: str | None,
    now: datetime,
) -> bool:
    """Add a revision unless it is there; whether it is new."""
    return insert(
        session,
        StoredTable,
        id=new_id("tbl"),
        device_id=device_id,
        supernet=supernet,
        revision=kept.revision,
        source=kept.source,
        provisional=kept.provisional,
        quality=kept.table.get("quality"),
        campaign_id=campaign_id,
        table=zlib.compress(json.dumps(kept.table).encode()),
        created_at=now,
    )
