"""Revisions of latency tables."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from bespoke.service.schemas.common import Incoming, Name, Outgoing

Source = Literal["ops", "networks", "few-shot", "published"]


class TableLinks(Outgoing):
    """Where a revision is, in each of its forms."""

    content: str
    csv: str
    ofa: str
    plot: str


class Table(Outgoing):
    """A revision of a latency table; it never changes, but for what later checks say of its device."""

    revision: str
    device_id: str
    supernet: str
    source: Source = Field(description="How it was made.")
    provisional: bool
    current: bool = Field(description="Whether it serves searches now.")
    stale: bool
    stale_reason: dict[str, Any] | None
    quality: dict[str, Any] | None = Field(description="Its quality card.")
    campaign_id: str | None
    checked_at: datetime | None
    created_at: datetime
    links: TableLinks


class Tables(Outgoing):
    """Revisions, newest first."""

    items: list[Table]


class FewShotRequest(Incoming):
    """A few measured networks of a new device."""

    supernet: Name
    samples: list[dict[str, Any]] = Field(
        min_length=1,
        max_length=1000,
        description="Architectures, each with its `latency_ms` beside its other fields.",
    )


class FewShotChoice(Outgoing):
    """The networks to measure on a new device."""

    architectures: list[dict[str, Any]]
