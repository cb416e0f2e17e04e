"""The agents of a campaign: how each stands, and how long any of them worked."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from statistics import median

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from bespoke.latency_tables.timing import LOW_QUANTILE
from bespoke.service.orm import Campaign, CampaignAgent, CampaignEntry, Lease, Measurement
from bespoke.service.quarantine import REFUSALS_IN_A_ROW, SentinelResult, failing
from bespoke.service.store.campaigns import UNDONE, end_leases
from bespoke.service.store.database import Database, changed, found, insert
from bespoke.service.store.samples import unpack

__all__ = ["Agents", "quarantine_failing", "standing"]


class Agents(Database):
    """Agents within campaigns."""

    def agents(self, campaign_id: str) -> list[CampaignAgent]:
        """All agents that leased something of a campaign, in the order in which they came."""
        query = (
            sa.select(CampaignAgent)
            .where(CampaignAgent.campaign_id == campaign_id)
            .order_by(CampaignAgent.created_at, CampaignAgent.agent)
        )
        with self._read() as session:
            return list(session.scalars(query))

    def refuse_report(self, lease_id: str, reason: str, quarantine_s: float) -> None:
        """Note that a report was refused as absurd; too many in a row quarantine the agent.

        What the agent reported before was found right, and stays.

        Raises:
            NotFound: There is no such lease.
        """
        now = self._now()
        with self._write() as session:
            lease = found(session.get(Lease, lease_id), "lease", lease_id)
            about = standing(session, lease.campaign_id, lease.agent, now)
            about.refused += 1
            if about.refused >= REFUSALS_IN_A_ROW and about.quarantined_until is None:
                until = now + timedelta(seconds=quarantine_s)
                told = f"{about.refused} reports in a row were refused, the last one because of {reason}"
                _quarantine(session, about, told, now, until)

    def campaign_of(self, lease_id: str) -> Campaign:
        """The campaign of a lease.

        Raises:
            NotFound: There is no such lease.
        """
        with self._read() as session:
            lease = found(session.get(Lease, lease_id), "lease", lease_id)
            return session.get_one(Campaign, lease.campaign_id)

    def sentinels_ms(self, campaign_id: str) -> dict[str, float]:
        """Of each sentinel that was measured in a campaign, the median over its measurements, in ms."""
        by_entry: dict[str, list[float]] = {}
        with self._read() as session:
            for result in _sentinels(session, campaign_id):
                by_entry.setdefault(result.entry_id, []).append(result.low_ms)
        return {entry_id: median(values) for entry_id, values in by_entry.items()}

    def active_s(self, campaign_id: str) -> float:
        """Seconds in which at least one agent held a lease of a campaign; waiting for one is not in it."""
        with self._read() as session:
            campaign = found(session.get(Campaign, campaign_id), "campaign", campaign_id)
            leases = session.scalars(sa.select(Lease).where(Lease.campaign_id == campaign_id))
            end = campaign.finished_at or self._now()
            return _covered_s(
                (lease.created_at, min(lease.ended_at or lease.expires_at, end)) for lease in leases
            )

    def at_work(self, campaign_id: str) -> bool:
        """Whether an agent holds a lease of a campaign now."""
        live = sa.select(Lease.id).where(
            Lease.campaign_id == campaign_id, Lease.ended_at.is_(None), Lease.expires_at > self._now()
        )
        with self._read() as session:
            return session.scalars(live.limit(1)).first() is not None


def standing(session: Session, campaign_id: str, agent: str, now: datetime) -> CampaignAgent:
    """An agent's row, made where it is missing; a quarantine that is over is lifted."""
    insert(
        session,
        CampaignAgent,
        campaign_id=campaign_id,
        agent=agent,
        refused=0,
        degraded=[],
        created_at=now,
    )
    about = session.get_one(CampaignAgent, (campaign_id, agent), with_for_update=True)
    if about.quarantined_until is not None and about.quarantined_until <= now:
        about.quarantined_until, about.refused = None, 0
    return about


def quarantine_failing(session: Session, campaign_id: str, now: datetime, until: datetime) -> int:
    """Quarantine the agents whose sentinels fail, and have all that they measured done again.

    Returns:
        How many measurements are to be done again.
    """
    again = 0
    for agent, reason in failing(_sentinels(session, campaign_id)).items():
        dropped = _drop(session, campaign_id, agent)
        told = f"{reason}; its {dropped} results in this campaign are measured again"
        _quarantine(session, standing(session, campaign_id, agent, now), told, now, until)
        again += dropped
    return again


def _quarantine(session: Session, about: CampaignAgent, reason: str, now: datetime, until: datetime) -> None:
    about.reason, about.quarantined_until = reason, until
    end_leases(session, about.campaign_id, now, about.agent)


def _drop(session: Session, campaign_id: str, agent: str) -> int:
    mine = sa.select(Lease.id).where(Lease.campaign_id == campaign_id, Lease.agent == agent)
    here = (Measurement.campaign_id == campaign_id, Measurement.lease_id.in_(mine))
    result = session.execute(
        sa.update(Measurement).where(*here, Measurement.reported_at.is_not(None)).values(UNDONE)
    )
    return int(result.rowcount) if changed(result) else 0  # type: ignore[attr-defined]


def _sentinels(session: Session, campaign_id: str) -> list[SentinelResult]:
    query = (
        sa.select(Measurement.entry_id, Lease.agent, Measurement.samples)
        .join(Lease, Lease.id == Measurement.lease_id)
        .join(
            CampaignEntry,
            sa.and_(
                CampaignEntry.campaign_id == Measurement.campaign_id,
                CampaignEntry.entry_id == Measurement.entry_id,
            ),
        )
        .where(
            Measurement.campaign_id == campaign_id,
            CampaignEntry.kind == "sentinel",
            Measurement.reported_at.is_not(None),
            Measurement.error.is_(None),
        )
        .order_by(Measurement.reported_at, Measurement.position)
    )
    return [
        SentinelResult(entry_id, agent, float(np.quantile(unpack(samples), LOW_QUANTILE)))
        for entry_id, agent, samples in session.execute(query)
        if unpack(samples)
    ]


def _covered_s(spans: Iterable[tuple[datetime, datetime]]) -> float:
    """How long the union of some spans of time is."""
    total, until = 0.0, None
    for start, stop in sorted(spans):
        begin = start if until is None else max(start, until)
        if stop > begin:
            total += (stop - begin).total_seconds()
        until = stop if until is None else max(until, stop)
    return total
