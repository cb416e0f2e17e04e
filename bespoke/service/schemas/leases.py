"""What agents ask for and hand in."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from bespoke.latency_tables.timing import LONGEST_COLD_MS, LONGEST_MS, MOST_RUNS
from bespoke.service.schemas.common import Incoming, Label, Outgoing


class LeaseRequest(Incoming):
    """An agent's wish for work."""

    agent: Label
    entries: int = Field(ge=1, le=100_000, description="How many measurements at most.")


class LeaseEntry(Outgoing):
    """One measurement to do."""

    entry_id: str
    kind: str
    round: int
    sha256: str = Field(description="The model, at /v1/artifacts/{sha256}.")
    size: int


class Lease(Outgoing):
    """Measurements that are an agent's for a while."""

    lease_id: str
    campaign_id: str
    expires_at: datetime
    ttl_s: float
    measure: dict[str, float | int] = Field(description="How to measure: times in ms, counts.")
    entries: list[LeaseEntry]


class Heartbeat(Outgoing):
    """Until when a lease holds now."""

    expires_at: datetime


# The bounds are described here and checked in ``reports.py``, where a refusal can name the entry.
def _milliseconds(longest: float) -> Any:
    return Field(json_schema_extra={"exclusiveMinimum": 0, "maximum": longest}, description="In ms.")


Milliseconds = Annotated[float, _milliseconds(LONGEST_MS)]
ColdMilliseconds = Annotated[float, _milliseconds(LONGEST_COLD_MS)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class Result(Incoming):
    """One measurement that was done."""

    entry_id: Label
    round: int = Field(ge=0, le=2**31 - 1)
    samples_ms: list[Milliseconds] = Field(json_schema_extra={"maxItems": MOST_RUNS})
    cold_ms: ColdMilliseconds | None = None
    error: Annotated[str, Field(max_length=10_000)] | None = None
    started_at: Number | Label | None = Field(default=None, description="Unix seconds, or ISO 8601.")
    frequency_mhz: Number | None = None
    temperature_c: Number | None = None
    rejected: int | None = Field(default=None, ge=0, le=2**31 - 1, description="Samples left out.")
    repeated: int | None = Field(
        default=None, ge=0, le=2**31 - 1, description="Windows measured again for drift."
    )
    degraded: list[Label] = Field(default_factory=list, max_length=20)


class ReportRequest(Incoming):
    """What an agent measured."""

    results: list[Result] = Field(min_length=1, max_length=10_000)


class Reported(Outgoing):
    """What a report changed."""

    accepted: int
    duplicates: int
    campaign_state: str
