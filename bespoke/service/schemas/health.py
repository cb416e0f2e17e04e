"""Whether the service lives, and can answer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bespoke.service.schemas.common import Outgoing


class Health(Outgoing):
    """Whether the process lives."""

    status: Literal["ok"] = "ok"
    version: str


class Readiness(Outgoing):
    """Whether the service can answer, part by part."""

    status: Literal["ready", "not-ready"]
    database: bool
    worker: bool
    models: bool = Field(
        description="Whether the weights of the supernets are loaded, where this process can tell."
    )
