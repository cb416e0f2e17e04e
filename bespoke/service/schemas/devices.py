"""Devices."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from bespoke.service.schemas.common import Incoming, Label, Outgoing

# Only a text with bounds is looked at: half of a surrogate pair could be stored, and never be answered.
Fact = Annotated[str, Field(max_length=10_000)] | int | float


class Profile(Incoming):
    """What keys a latency table: the device with everything that changes its timing."""

    device: Label
    runtime: Label
    runtime_version: Label
    provider: Label
    threads: int = Field(ge=0, le=4096, description="Inside one op; 0 where nobody knows.")
    precision: Label
    batch: int = Field(ge=1, le=65536)
    fingerprint: dict[Label, Fact] = Field(default_factory=dict, max_length=200)


class DeviceRequest(Incoming):
    """A device to enrol."""

    name: Label
    profile: Profile


class Device(Outgoing):
    """A device."""

    id: str
    name: str
    profile: dict[str, Any]
    profiled: dict[str, str] = Field(description="Revision of the latency table, by supernet.")
    created_at: datetime


class Devices(Outgoing):
    """All devices."""

    items: list[Device]
