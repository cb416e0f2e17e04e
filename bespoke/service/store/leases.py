"""Leases: measurements go out to agents, and come back as reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from bespoke.service.orm import (
    ArtifactRow,
    Campaign,
    CampaignAgent,
    CampaignEntry,
    Job,
    Lease,
    Measurement,
)
from bespoke.service.store.agents import quarantine_failing, standing
from bespoke.service.store.campaigns import last_job, lock_campaign
from bespoke.service.store.database import Database, changed, found, new_id
from bespoke.service.store.samples import pack, unpack
from bespoke.supernet.errors import AgentQuarantined, InvalidInput, LeaseLost

__all__ = ["LeasedEntry", "Leases", "MeasuredEntry", "Reported"]

QUARANTINE_S = 600.0
MOST_REASONS = 20


@dataclass(frozen=True)
class LeasedEntry:
    """One measurement to do: an entry in a round, and the model to measure."""

    entry_id: str
    kind: str
    round: int
    sha256: str
    size: int


@dataclass(frozen=True)
class MeasuredEntry:
    """One measurement as an agent reports it.

    Attributes:
        entry_id: The entry of the plan.
        round: Counted from 0.
        samples_ms: Raw samples in milliseconds.
        cold_ms: Loading and the first run.
        error: Why there are no samples; None where there are.
        conditions: What the agent told of the device meanwhile: frequency, temperature, ...
    """

    entry_id: str
    round: int
    samples_ms: Sequence[float]
    cold_ms: float | None
    error: str | None
    conditions: dict[str, Any] | None = None


@dataclass(frozen=True)
class Reported:
    """What a report changed: how many results were new, and the job that the last one made."""

    accepted: int
    duplicates: int
    campaign: Campaign
    job: Job | None


class Leases(Database):
    """What agents take on and hand in."""

    def lease(
        self, device_id: str, agent: str, wanted: int, ttl_s: float
    ) -> tuple[Lease, Campaign, list[LeasedEntry]] | None:
        """Give measurements to an agent, oldest campaign first; None where there is nothing to do.

        Measurements of expired leases are given again. An agent gets none of a campaign that has
        quarantined it.
        """
        now = self._now()
        with self._write() as session:
            open_campaigns = (
                sa.select(Campaign)
                .where(Campaign.device_id == device_id, Campaign.state == "measuring")
                .order_by(Campaign.created_at)
            )
            for campaign in session.scalars(open_campaigns):
                about = standing(session, campaign.id, agent, now)
                if about.quarantined_until is not None:
                    continue
                over = sa.select(Lease.id).where(Lease.campaign_id == campaign.id, Lease.expires_at <= now)
                free = (
                    sa.select(Measurement)
                    .where(
                        Measurement.campaign_id == campaign.id,
                        Measurement.reported_at.is_(None),
                        sa.or_(Measurement.lease_id.is_(None), Measurement.lease_id.in_(over)),
                    )
                    .order_by(Measurement.position)
                    .limit(wanted)
                    .with_for_update(skip_locked=True)
                )
                taken = list(session.scalars(free))
                if not taken:
                    continue
                lease = Lease(
                    id=new_id("lse"),
                    campaign_id=campaign.id,
                    agent=agent,
                    created_at=now,
                    expires_at=now + timedelta(seconds=ttl_s),
                )
                session.add(lease)
                session.flush()
                for measurement in taken:
                    measurement.lease_id = lease.id
                return lease, campaign, _leased(session, campaign.id, taken)
        return None

    def extend_lease(self, lease_id: str, ttl_s: float) -> Lease:
        """Keep a lease for another while.

        Raises:
            NotFound: There is no such lease.
            LeaseLost: It has expired, or its campaign is over.
        """
        now = self._now()
        with self._write() as session:
            lease = found(session.get(Lease, lease_id, with_for_update=True), "lease", lease_id)
            campaign = session.get_one(Campaign, lease.campaign_id)
            if lease.expires_at <= now or campaign.state != "measuring":
                raise LeaseLost(lease_id)
            lease.expires_at = now + timedelta(seconds=ttl_s)
            return lease

    def report(
        self, lease_id: str, results: Sequence[MeasuredEntry], quarantine_s: float = QUARANTINE_S
    ) -> Reported:
        """Keep results, each (campaign, entry, round) once; the last one starts the fit.

        A lost lease does not matter: work is not thrown away. Where the results show that an agent is
        not to be trusted (``quarantine.failing``), it is quarantined and all that it measured in
        this campaign is to be measured again.

        Args:
            lease_id: The lease under which they were measured.
            results: What was measured.
            quarantine_s: How long an agent that fails gets no work of the campaign.

        Raises:
            NotFound: There is no such lease.
            InvalidInput: A result is of no measurement of the campaign.
            AgentQuarantined: The agent is quarantined.
        """
        now = self._now()
        with self._write() as session:
            lease = found(session.get(Lease, lease_id), "lease", lease_id)
            # The lock makes reports of one campaign wait for each other, so that ``done`` is right
            # and exactly one of them sees the end.
            campaign = lock_campaign(session, lease.campaign_id)
            about = standing(session, campaign.id, lease.agent, now)
            if about.quarantined_until is not None:
                raise AgentQuarantined(
                    about.agent, about.reason or "", about.quarantined_until.isoformat(timespec="seconds")
                )
            accepted = sum(_keep(session, campaign.id, lease_id, now, r) for r in results)
            campaign.done += accepted
            _note(about, results)
            _end_if_done(session, lease, now)
            if campaign.state == "measuring":
                until = now + timedelta(seconds=quarantine_s)
                campaign.done -= quarantine_failing(session, campaign.id, now, until)
            job = None
            if campaign.state == "measuring" and campaign.done >= campaign.total:
                job = last_job(session, campaign, now)
            return Reported(accepted, len(results) - accepted, campaign, job)

    def reports(self, campaign_id: str) -> list[MeasuredEntry]:
        """All that was reported for a campaign, in the order of measuring."""
        query = (
            sa.select(Measurement)
            .where(Measurement.campaign_id == campaign_id, Measurement.reported_at.is_not(None))
            .order_by(Measurement.position)
        )
        with self._read() as session:
            return [_measured(row) for row in session.scalars(query)]


def _measured(row: Measurement) -> MeasuredEntry:
    samples = unpack(row.samples)
    return MeasuredEntry(row.entry_id, row.round, samples, row.cold_ms, row.error, row.conditions)


def _note(about: CampaignAgent, results: Sequence[MeasuredEntry]) -> None:
    """A report that was taken ends a row of refusals; reasons for bad conditions are kept once."""
    reasons = [reason for r in results for reason in (r.conditions or {}).get("degraded", ())]
    about.refused = 0
    about.degraded = sorted({*about.degraded, *reasons})[:MOST_REASONS]


def _end_if_done(session: Session, lease: Lease, now: datetime) -> None:
    left = sa.select(Measurement.position).where(
        Measurement.lease_id == lease.id, Measurement.reported_at.is_(None)
    )
    if lease.ended_at is None and session.scalars(left.limit(1)).first() is None:
        lease.ended_at = min(now, lease.expires_at)


def _leased(session: Session, campaign_id: str, taken: list[Measurement]) -> list[LeasedEntry]:
    ids = {measurement.entry_id for measurement in taken}
    query = (
        sa.select(CampaignEntry, ArtifactRow.size)
        .join(ArtifactRow, ArtifactRow.sha256 == CampaignEntry.sha256)
        .where(CampaignEntry.campaign_id == campaign_id, CampaignEntry.entry_id.in_(ids))
    )
    known = {entry.entry_id: (entry, size) for entry, size in session.execute(query)}
    return [
        LeasedEntry(m.entry_id, known[m.entry_id][0].kind, m.round, known[m.entry_id][0].sha256, size)
        for m in taken
        for size in [known[m.entry_id][1]]
    ]


def _keep(session: Session, campaign_id: str, lease_id: str, now: datetime, result: MeasuredEntry) -> bool:
    here = sa.and_(
        Measurement.campaign_id == campaign_id,
        Measurement.entry_id == result.entry_id,
        Measurement.round == result.round,
    )
    change = (
        sa.update(Measurement)
        .where(here, Measurement.reported_at.is_(None))
        .values(
            samples=pack(result.samples_ms),
            cold_ms=result.cold_ms,
            error=result.error,
            conditions=result.conditions,
            reported_at=now,
            lease_id=lease_id,
        )
    )
    if changed(session.execute(change)):
        return True
    if session.scalar(sa.select(sa.func.count()).select_from(Measurement).where(here)) == 0:
        raise InvalidInput(
            f"entry {result.entry_id!r} in round {result.round} is no measurement of campaign "
            f"{campaign_id!r}: report what the lease names"
        )
    return False
