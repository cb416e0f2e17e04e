"""Profiling campaigns and checks."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from bespoke.service.schemas.common import Incoming, Name, Outgoing, Request

CampaignState = Literal["preparing", "measuring", "fitting", "succeeded", "failed", "cancelled"]


class CampaignRequest(Incoming):
    """A profiling campaign to start."""

    supernet: Name
    effort: Literal["quick", "standard", "thorough"] = "standard"
    base: bool = Field(
        default=True,
        description="Take the ops that the serving table measured from it, unless that table is stale.",
    )
    remeasure: bool = Field(default=False, description="Measure all ops again, whatever `base` says.")


class Progress(Outgoing):
    """How far the measuring is."""

    done: int
    total: int
    fraction: float
    active_s: float = Field(description="Seconds in which an agent held a lease; waiting is not in it.")
    at_work: bool = Field(description="Whether an agent holds a lease now.")
    eta_s: float | None = Field(
        description="Seconds of measuring that are left at the pace so far; null when unknown. "
        "Waiting for an agent never counts."
    )


class CampaignAgent(Outgoing):
    """An agent's standing in a campaign."""

    name: str
    state: Literal["active", "quarantined"]
    reason: str | None = Field(description="Why it is, or was, in quarantine.")
    until: datetime | None = Field(description="When it may lease again.")


class Check(Outgoing):
    """What a check found: the table is stale where `drift` is beyond `limit`, either way."""

    table_revision: str
    drift: float = Field(description="Median over the sentinels of their latency now over then, minus 1.")
    limit: float = Field(description="max(3 x the device's repeat error, 5%).")
    stale: bool
    sentinels: dict[str, float] = Field(description="Latency now over then, by sentinel.")
    searches: int | None = Field(
        description="How many searches this table has answered; null in a list of campaigns."
    )
    search_ids: list[str] | None = Field(description="The newest of them, at most 100; null in a list.")
    proposal: Request | None = Field(description="The campaign to start where the table is stale.")


class Campaign(Outgoing):
    """A profiling campaign."""

    id: str
    device_id: str
    supernet: str
    purpose: Literal["table", "check", "verify"]
    effort: str
    state: CampaignState
    progress: Progress
    agents: list[CampaignAgent]
    degraded: list[str] = Field(description="What agents told of bad conditions while they measured.")
    job_id: str
    base_revision: str | None = Field(
        description="The table whose ops were taken as known, or that is checked."
    )
    table_revision: str | None
    check: Check | None
    error: str | None
    created_at: datetime
    finished_at: datetime | None


class Campaigns(Outgoing):
    """Campaigns, newest first."""

    items: list[Campaign]


class CheckRequest(Incoming):
    """A check of a device's latency table."""

    supernet: Name
