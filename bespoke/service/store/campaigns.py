"""Profiling campaigns: their plan, their models, their state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from bespoke.service.orm import (
    ArtifactRow,
    Campaign,
    CampaignEntry,
    Device,
    Job,
    Lease,
    Measurement,
    StoredTable,
)
from bespoke.service.store.database import Database, found, insert, new_id
from bespoke.service.store.jobs import end_job, new_job
from bespoke.supernet.errors import Conflict, InvalidInput

__all__ = [
    "ACTIVE",
    "LAST_JOB",
    "UNDONE",
    "Campaigns",
    "EntryModel",
    "end_leases",
    "going_on",
    "last_job",
    "lock_campaign",
]

INSERTED_AT_ONCE = 500
ACTIVE = ("preparing", "measuring", "fitting")
LAST_JOB = {"table": "fit-campaign", "check": "judge-check"}
"""What runs when the last measurement is in, by the purpose; the job of a verification waits for it."""

UNDONE = {
    "samples": None,
    "cold_ms": None,
    "error": None,
    "conditions": None,
    "reported_at": None,
    "lease_id": None,
}
"""Columns of a measurement that is to be done (again)."""


@dataclass(frozen=True)
class EntryModel:
    """The artifact of one entry of a profiling plan."""

    entry_id: str
    kind: str
    sha256: str


class Campaigns(Database):
    """Profiling campaigns."""

    def add_campaign(
        self,
        device_id: str,
        supernet: str,
        effort: str,
        *,
        purpose: str = "table",
        use_base: bool = True,
        base_table: str | None = None,
    ) -> tuple[Campaign, Job]:
        """Start a campaign, with the job that prepares it.

        Args:
            device_id: The device.
            supernet: Whose ops, or for a check whose sentinels, are measured.
            effort: Name in ``latency_tables.profiling.EFFORTS``.
            purpose: ``table`` or ``check``.
            use_base: Whether ops that the device's table has already are taken from it.
            base_table: Id of the table that a check compares with.

        Raises:
            NotFound: There is no such device.
            Conflict: One is going on for the same device, supernet and purpose.
        """
        now, campaign_id = self._now(), new_id("cmp")
        job = new_job("prepare-campaign", {"campaign_id": campaign_id}, self._now())
        campaign = Campaign(
            id=campaign_id,
            device_id=device_id,
            supernet=supernet,
            purpose=purpose,
            effort=effort,
            use_base=use_base,
            base_table=base_table,
            state="preparing",
            job_id=job.id,
            total=0,
            done=0,
            created_at=now,
        )
        try:
            with self._write() as session:
                found(session.get(Device, device_id), "device", device_id)
                session.add_all([campaign, job])
        except IntegrityError:
            raise going_on(campaign) from None
        return campaign, job

    def resume_campaign(self, campaign_id: str) -> tuple[Campaign, Job]:
        """Take up a campaign that was cancelled or failed: only what is missing is measured.

        Entries that could not be measured are missing too. The job writes the models of what is
        missing, or fits where nothing is.

        Raises:
            NotFound: There is no such campaign.
            Conflict: It goes on or has succeeded, or another one of its kind goes on.
        """
        try:
            with self._write() as session:
                campaign = lock_campaign(session, campaign_id)
                if campaign.purpose not in LAST_JOB:
                    raise Conflict(
                        f"campaign {campaign_id!r} is part of a verification: ask for that search again"
                    )
                if campaign.state not in ("cancelled", "failed"):
                    raise Conflict(
                        f"campaign {campaign_id!r} is {campaign.state}: only a cancelled or failed one "
                        "is resumed"
                    )
                here = Measurement.campaign_id == campaign_id
                session.execute(
                    sa.update(Measurement).where(here, Measurement.error.is_not(None)).values(UNDONE)
                )
                campaign.done = _count(session, here, Measurement.reported_at.is_not(None))
                complete = 0 < campaign.total <= campaign.done
                kind = LAST_JOB[campaign.purpose] if complete else "prepare-campaign"
                job = new_job(kind, {"campaign_id": campaign_id}, self._now())
                session.add(job)
                campaign.state, campaign.job_id = "fitting" if complete else "preparing", job.id
                campaign.error = campaign.finished_at = None
        except IntegrityError:
            raise going_on(self.campaign(campaign_id)) from None
        return campaign, job

    def campaign(self, campaign_id: str) -> Campaign:
        """A campaign.

        Raises:
            NotFound: There is no such campaign.
        """
        with self._read() as session:
            return found(session.get(Campaign, campaign_id), "campaign", campaign_id)

    def campaigns(self, device_id: str, most: int | None = None) -> list[Campaign]:
        """The campaigns of a device, newest first, or so many of them."""
        query = (
            sa.select(Campaign)
            .where(Campaign.device_id == device_id)
            .order_by(Campaign.created_at.desc(), Campaign.id)
            .limit(most)
        )
        with self._read() as session:
            return list(session.scalars(query))

    def last_check_at(self, table: StoredTable) -> datetime | None:
        """When the newest check of a table began, however it ended; None where there is none."""
        checks = (
            Campaign.device_id == table.device_id,
            Campaign.purpose == "check",
            Campaign.base_table == table.id,
        )
        with self._read() as session:
            return session.scalar(sa.select(sa.func.max(Campaign.created_at)).where(*checks))

    def set_plan(self, campaign_id: str, plan: dict[str, Any], base_table: str | None = None) -> None:
        """Keep the profiling plan of a campaign, and the table whose ops it leaves out; idempotent."""
        with self._write() as session:
            campaign = found(session.get(Campaign, campaign_id), "campaign", campaign_id)
            campaign.plan, campaign.base_table = plan, base_table

    def unwritten(self, campaign_id: str, entry_ids: Sequence[str]) -> set[str]:
        """Those of some entries that are still to be measured, and whose model is not there."""
        done = (
            sa.select(Measurement.entry_id)
            .where(Measurement.campaign_id == campaign_id)
            .group_by(Measurement.entry_id)
            .having(sa.func.count(Measurement.reported_at) == sa.func.count())
        )
        written = (
            sa.select(CampaignEntry.entry_id)
            .join(ArtifactRow, ArtifactRow.sha256 == CampaignEntry.sha256)
            .where(CampaignEntry.campaign_id == campaign_id, ArtifactRow.pruned_at.is_(None))
        )
        with self._read() as session:
            return set(entry_ids) - set(session.scalars(done)) - set(session.scalars(written))

    def add_entries(self, campaign_id: str, entries: Sequence[EntryModel]) -> None:
        """Keep the models of some entries; one that was written anew takes the other's place."""
        with self._write() as session:
            for entry in entries:
                here = {"campaign_id": campaign_id, "entry_id": entry.entry_id}
                if not insert(session, CampaignEntry, **here, kind=entry.kind, sha256=entry.sha256):
                    again = sa.update(CampaignEntry).filter_by(**here)
                    session.execute(again.values(sha256=entry.sha256))

    def start_measuring(self, campaign_id: str, order: Sequence[tuple[str, int]]) -> Job | None:
        """Open a prepared campaign to agents; idempotent, and nothing happens to a cancelled one.

        A resumed campaign keeps the measurements that it has.

        Args:
            campaign_id: The campaign, with the models of all entries that are to be measured.
            order: (entry id, round) of every measurement, in the order of measuring.

        Returns:
            The job that the last measurement makes, where results that came late were the last ones.

        Raises:
            InvalidInput: There is nothing to measure.
        """
        if not order:
            raise InvalidInput(f"campaign {campaign_id!r} has nothing to measure: start another one")
        with self._write() as session:
            campaign = lock_campaign(session, campaign_id)
            if campaign.state != "preparing":
                return None
            here = Measurement.campaign_id == campaign_id
            if not _count(session, here):
                rows = [
                    {"campaign_id": campaign_id, "position": position, "entry_id": entry_id, "round": round_}
                    for position, (entry_id, round_) in enumerate(order)
                ]
                for start in range(0, len(rows), INSERTED_AT_ONCE):
                    session.execute(sa.insert(Measurement), rows[start : start + INSERTED_AT_ONCE])
            campaign.state, campaign.total = "measuring", len(order)
            campaign.measuring_at = campaign.measuring_at or self._now()
            # Agents may have handed in what they still had while the models were written.
            return last_job(session, campaign, self._now()) if campaign.done >= campaign.total else None

    def cancel_campaign(self, campaign_id: str) -> Campaign:
        """Stop a campaign and its job; what was measured is kept. A second time changes nothing.

        Raises:
            NotFound: There is no such campaign.
            Conflict: It has ended otherwise.
        """
        with self._write() as session:
            campaign = lock_campaign(session, campaign_id)
            if campaign.state in ("succeeded", "failed"):
                raise Conflict(f"campaign {campaign_id!r} has {campaign.state}: it cannot be cancelled")
            if campaign.state != "cancelled":
                now = self._now()
                campaign.state, campaign.finished_at = "cancelled", now
                end_leases(session, campaign_id, now)
                end_job(session, self._now(), campaign.job_id, state="cancelled")
            return campaign

    def finish_check(self, campaign_id: str, result: dict[str, Any]) -> None:
        """Keep what a check found, and mark its table by it; idempotent.

        Args:
            campaign_id: The check.
            result: With ``stale``, which says whether the table is.
        """
        with self._write() as session:
            campaign = lock_campaign(session, campaign_id)
            if campaign.state != "fitting":
                return
            now = self._now()
            campaign.state, campaign.result, campaign.finished_at = "succeeded", result, now
            table = session.get(StoredTable, campaign.base_table, with_for_update=True)
            if table is not None:
                table.checked_at = now
                told = {"campaign_id": campaign_id, "at": now.isoformat(), **result}
                table.stale = told if result["stale"] else None


def end_leases(session: Session, campaign_id: str, now: datetime, agent: str | None = None) -> None:
    """End the live leases of a campaign, or of one agent in it."""
    mine = () if agent is None else (Lease.agent == agent,)
    live = (Lease.campaign_id == campaign_id, Lease.ended_at.is_(None), Lease.expires_at > now)
    session.execute(sa.update(Lease).where(*live, *mine).values(ended_at=now, expires_at=now))


def lock_campaign(session: Session, campaign_id: str) -> Campaign:
    """A campaign that nobody else changes until the transaction ends.

    Rows that refer to it may still be added: an agent that leases never waits for one that reports.

    Raises:
        NotFound: There is no such campaign.
    """
    row = session.get(Campaign, campaign_id, with_for_update={"key_share": True})
    return found(row, "campaign", campaign_id)


def last_job(session: Session, campaign: Campaign, now: datetime) -> Job | None:
    """End the measuring of a campaign, with the job that makes something of it, if it has one."""
    kind = LAST_JOB.get(campaign.purpose)
    if kind is None:
        campaign.state, campaign.finished_at = "succeeded", now
        return None
    job = new_job(kind, {"campaign_id": campaign.id}, now)
    session.add(job)
    campaign.state, campaign.job_id = "fitting", job.id
    return job


def _count(session: Session, *where: sa.ColumnElement[bool]) -> int:
    return session.scalar(sa.select(sa.func.count()).select_from(Measurement).where(*where)) or 0


def going_on(campaign: Campaign) -> Conflict:
    """What is said where a campaign of the same purpose goes on."""
    what = {"table": "profiled", "check": "checked"}.get(campaign.purpose, "measured by a verification")
    return Conflict(
        f"device {campaign.device_id!r} is being {what} for {campaign.supernet!r} already: "
        "wait for that campaign, or cancel it"
    )
