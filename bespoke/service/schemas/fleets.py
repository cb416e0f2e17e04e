"""Fleets: several devices at once, served by few architectures."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import ConfigDict, Field

from bespoke.service.schemas.common import Incoming, Name, Outgoing
from bespoke.service.schemas.searches import Caution, Constraints, Effort
from bespoke.service.schemas.subnets import Architecture, Subnet

MOST_MEMBERS = 16


class FleetMember(Incoming):
    """A device with its limits."""

    device: Name
    constraints: Constraints = Field(default_factory=Constraints)
    weight: float = Field(default=1.0, gt=0, le=1e6, description="How much it counts beside the others.")


class FleetRequest(Incoming):
    """Several devices, each with its limits, that few architectures shall serve."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "supernet": "ofa-mbv3-imagenette",
                    "members": [
                        {"device": "dev_0", "constraints": {"latency_ms": 4}},
                        {"device": "dev_1", "constraints": {"latency_ms": 9}},
                    ],
                    "subnets": 1,
                }
            ]
        }
    )

    supernet: Name
    members: list[FleetMember] = Field(min_length=1, max_length=MOST_MEMBERS)
    subnets: int = Field(ge=1, le=MOST_MEMBERS, description="How many different architectures at most.")
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    effort: Effort = Field(default_factory=Effort)


class FleetArchitecture(Outgoing):
    """An architecture, and whom it serves."""

    architecture: Architecture
    top1: float = Field(description="Predicted.")
    members: list[int] = Field(description="Places in the request.")


class Served(Outgoing):
    """A member, and what serves it."""

    device: str
    constraints: dict[str, Any]
    architecture: int = Field(description="Place among `architectures`.")
    subnet: Subnet = Field(description="That architecture for this device, with its latency and precision.")
    alone_top1: float = Field(description="Predicted top-1 of an architecture of its own.")
    cost_top1: float = Field(description="What serving others as well costs it.")


class Simplification(Outgoing):
    """What fewer architectures cost."""

    subnets: int = Field(description="At most so many.")
    mean_top1: float | None = Field(description="Weighted mean; null where so few cannot meet all limits.")
    cost_top1: float | None = Field(description="Of that mean, against one architecture for each member.")


class Fleet(Outgoing):
    """Who is served by what."""

    id: str
    request: dict[str, Any] = Field(description="With every default filled in: it can be asked again.")
    architectures: list[FleetArchitecture]
    members: list[Served] = Field(description="In the order of the request.")
    mean_top1: float
    by_subnets: list[Simplification] = Field(description="For 1, 2, ... architectures.")
    exact: bool = Field(description="Whether every partition was weighed; else groups were merged greedily.")
    warnings: list[Caution] = Field(description="What speaks against relying on the latencies.")
    evaluations: int
    created_at: datetime
