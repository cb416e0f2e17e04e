"""Verifications: what searches found, measured, and the campaigns and tables that this makes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from bespoke.service.orm import Campaign, Device, Job, Lease, StoredTable, Verification
from bespoke.service.store.campaigns import ACTIVE, end_leases, going_on, lock_campaign
from bespoke.service.store.database import Database, found, new_id
from bespoke.service.store.jobs import new_job
from bespoke.service.store.tables import TableToKeep, add_table_row, tables_in_order

__all__ = ["Verifications"]


class Verifications(Database):
    """Verifications of searches."""

    def add_verification(self, search_id: str, kind: str) -> tuple[Verification, Job]:
        """Start the verification of a search, with its job.

        Args:
            search_id: The search.
            kind: ``measured`` or ``accuracy``.
        """
        now = self._now()
        job = new_job("verify-search", {"search_id": search_id}, now)
        verification = Verification(
            search_id=search_id, kind=kind, job_id=job.id, rounds=[], result=None, created_at=now
        )
        with self._write() as session:
            session.add_all([job, verification])
        return verification, job

    def verification(self, search_id: str) -> Verification | None:
        """The verification of a search; None where nobody asked for one."""
        with self._read() as session:
            return session.get(Verification, search_id)

    def keep_round(self, search_id: str, told: Mapping[str, Any]) -> None:
        """Keep what a round of a verification found; the same round again takes its place.

        Args:
            search_id: The search.
            told: With its ``number``, counted from 0.
        """
        with self._write() as session:
            row = session.get(Verification, search_id, with_for_update=True)
            verification = found(row, "verification", search_id)
            others = [one for one in verification.rounds if one["number"] != told["number"]]
            verification.rounds = sorted([*others, dict(told)], key=lambda one: one["number"])

    def finish_verification(self, search_id: str, result: dict[str, Any]) -> None:
        """Keep what a verification came to; idempotent."""
        with self._write() as session:
            row = session.get(Verification, search_id, with_for_update=True)
            found(row, "verification", search_id).result = result

    def add_verify_campaign(
        self, device_id: str, supernet: str, effort: str, job_id: str, base_table: str, plan: dict[str, Any]
    ) -> Campaign:
        """Start a campaign that measures what a search found; the one that its job has going on, if any.

        Args:
            device_id: The device.
            supernet: The supernet.
            effort: Name in ``latency_tables.profiling.EFFORTS``.
            job_id: The job of the verification.
            base_table: Id of the table whose predictions are compared with.
            plan: The networks to measure.

        Raises:
            NotFound: There is no such device.
            Conflict: Another verification measures on this device for this supernet.
        """
        own = sa.select(Campaign).where(
            Campaign.job_id == job_id, Campaign.purpose == "verify", Campaign.state.in_(ACTIVE)
        )
        campaign = Campaign(
            id=new_id("cmp"),
            device_id=device_id,
            supernet=supernet,
            purpose="verify",
            effort=effort,
            use_base=False,
            base_table=base_table,
            state="preparing",
            plan=plan,
            job_id=job_id,
            total=0,
            done=0,
            created_at=self._now(),
        )
        try:
            with self._write() as session:
                found(session.get(Device, device_id), "device", device_id)
                before = session.scalars(own).first()
                if before is not None:
                    return before
                session.add(campaign)
        except IntegrityError:
            raise going_on(campaign) from None
        return campaign

    def keep_learned(self, campaign_id: str, kept: TableToKeep) -> bool:
        """Keep the table that learned from a campaign that verified; it serves from now on. Idempotent.

        Returns:
            Whether it was kept: another table may serve since the campaign began.
        """
        with self._write() as session:
            campaign = lock_campaign(session, campaign_id)
            where = (
                StoredTable.device_id == campaign.device_id,
                StoredTable.supernet == campaign.supernet,
            )
            serving = session.scalars(tables_in_order(*where).limit(1)).one()
            if campaign.base_table != serving.id and campaign_id != serving.campaign_id:
                return False
            add_table_row(session, campaign.device_id, campaign.supernet, kept, campaign_id, self._now())
            campaign.table_revision = kept.revision
            return True

    def fail_campaign(self, campaign_id: str, error: str) -> None:
        """End a campaign that nobody measures; nothing happens to one that has ended."""
        with self._write() as session:
            campaign = lock_campaign(session, campaign_id)
            if campaign.state in ACTIVE:
                campaign.state, campaign.error, campaign.finished_at = "failed", error, self._now()
                end_leases(session, campaign_id, self._now())

    def see_device(self, device_id: str) -> None:
        """Note that an agent of a device asks for work now."""
        with self._write() as session:
            session.execute(sa.update(Device).where(Device.id == device_id).values(seen_at=self._now()))

    def agent_seen_at(self, device_id: str) -> datetime | None:
        """When an agent of a device was last heard of; now, where one holds a lease.

        Raises:
            NotFound: There is no such device.
        """
        now = self._now()
        live = (
            sa.select(Lease.id)
            .join(Campaign, Campaign.id == Lease.campaign_id)
            .where(Campaign.device_id == device_id, Lease.ended_at.is_(None), Lease.expires_at > now)
        )
        with self._read() as session:
            device = found(session.get(Device, device_id), "device", device_id)
            return now if session.scalars(live.limit(1)).first() is not None else device.seen_at
