"""Profiling campaigns: their plan, their models, their state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from bespoke.service.orm import Campaign, CampaignEntry, Device, Job, Measurement
from bespoke.service.store.database import Database, found, insert, new_id
from bespoke.service.store.jobs import end_job, new_job
from bespoke.supernet.errors import Conflict

__all__ = ["Campaigns", "EntryModel"]

INSERTED_AT_ONCE = 500


@dataclass(frozen=True)
class EntryModel:
    """The artifact of one entry of a profiling plan."""

    entry_id: str
    kind: str
    sha256: str


class Campaigns(Database):
    """Profiling campaigns."""

    def add_campaign(self, device_id: str, supernet: str, effort: str) -> tuple[Campaign, Job]:
        """Start a campaign, with the job that prepares it.

        Raises:
            NotFound: There is no such device.
            Conflict: One is going on for the same device and supernet.
        """
        now, campaign_id = self._now(), new_id("cmp")
        job = new_job("prepare-campaign", {"campaign_id": campaign_id}, self._now())
        campaign = Campaign(
            id=campaign_id,
            device_id=device_id,
            supernet=supernet,
            effort=effort,
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
            raise Conflict(
                f"device {device_id!r} is being profiled for {supernet!r} already: "
                "wait for that campaign, or cancel it"
            ) from None
        return campaign, job

    def campaign(self, campaign_id: str) -> Campaign:
        """A campaign.

        Raises:
            NotFound: There is no such campaign.
        """
        with self._read() as session:
            return found(session.get(Campaign, campaign_id), "campaign", campaign_id)

    def set_plan(self, campaign_id: str, plan: dict[str, Any]) -> None:
        """Keep the profiling plan of a campaign; idempotent."""
        with self._write() as session:
            found(session.get(Campaign, campaign_id), "campaign", campaign_id).plan = plan

    def add_entries(self, campaign_id: str, entries: Sequence[EntryModel]) -> None:
        """Keep the models of some entries; idempotent."""
        with self._write() as session:
            for entry in entries:
                insert(
                    session,
                    CampaignEntry,
                    campaign_id=campaign_id,
                    entry_id=entry.entry_id,
                    kind=entry.kind,
                    sha256=entry.sha256,
                )

    def start_measuring(self, campaign_id: str, order: Sequence[tuple[str, int]]) -> None:
        """Open a prepared campaign to agents; idempotent, and nothing happens to a cancelled one.

        Args:
            campaign_id: The campaign, with the models of all its entries.
            order: (entry id, round) of every measurement, in the order of measuring.
        """
        with self._write() as session:
            campaign = found(
                session.get(Campaign, campaign_id, with_for_update=True), "campaign", campaign_id
            )
            if campaign.state != "preparing":
                return
            rows = [
                {"campaign_id": campaign_id, "position": position, "entry_id": entry_id, "round": round_}
                for position, (entry_id, round_) in enumerate(order)
            ]
            for start in range(0, len(rows), INSERTED_AT_ONCE):
                session.execute(sa.insert(Measurement), rows[start : start + INSERTED_AT_ONCE])
            campaign.state, campaign.total, campaign.measuring_at = "measuring", len(rows), self._now()

    def cancel_campaign(self, campaign_id: str) -> Campaign:
        """Stop a campaign and its job; what was measured is kept. A second time changes nothing.

        Raises:
            NotFound: There is no such campaign.
            Conflict: It has ended otherwise.
        """
        with self._write() as session:
            campaign = found(
                session.get(Campaign, campaign_id, with_for_update=True), "campaign", campaign_id
            )
            if campaign.state in ("succeeded", "failed"):
                raise Conflict(f"campaign {campaign_id!r} has {campaign.state}: it cannot be cancelled")
            if campaign.state != "cancelled":
                campaign.state, campaign.finished_at = "cancelled", self._now()
                end_job(session, self._now(), campaign.job_id, state="cancelled")
            return campaign
