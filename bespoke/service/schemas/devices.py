"""Devices."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from bespoke.service.schemas.common import Incoming, Label, Outgoing


class Profile(Incoming):
    """What keys a latency table: the device with everything that changes its timing."""

    device: Label
    runtime: Label
    runtime_version: Label
    provider: Label
    threads: int = Field(ge=0, le=4096, description="Inside one op; 0 where nobody knows.")
    precision: Label
    batch: int = Field(ge=1, le=65536)
    fingerprint: dict[Label, str | int | float] = Field(default_factory=dict, max_length=200)


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
