"""Searches."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from bespoke.service.schemas.common import Incoming, Name, Outgoing
from bespoke.service.schemas.subnets import Subnet

Limit = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Constraints(Incoming):
    """Upper limits; what is absent or null is not limited."""

    latency_ms: Limit | None = None
    macs: Limit | None = None
    flops: Limit | None = Field(default=None, description="2 x MACs.")
    params: Limit | None = None
    peak_memory_bytes: Limit | None = None
    model_size_bytes: Limit | None = None


class Effort(Incoming):
    """A limit on the search itself."""

    population: int | None = Field(default=None, ge=8, le=4096)
    generations: int | None = Field(default=None, ge=1, le=500)


class SearchRequest(Incoming):
    """A budget, and where it holds."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"supernet": "ofa-mbv3-imagenette", "device": "dev_0", "constraints": {"latency_ms": 4}}
            ]
        }
    )

    supernet: Name
    device: Name | None = Field(default=None, description="Needed where latency_ms is limited.")
    constraints: Constraints = Field(default_factory=Constraints)
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    effort: Effort = Field(default_factory=Effort)


class Caution(Outgoing):
    """A reason for caution."""

    code: Literal["table-stale", "table-provisional"]
    detail: str


class Search(Outgoing):
    """A search with its answer."""

    id: str
    request: dict[str, Any] = Field(description="With every default filled in: it can be asked again.")
    subnet: Subnet
    warnings: list[Caution] = Field(description="What speaks against relying on the latency.")
    evaluations: int
    generations: int
    duration_s: float
    created_at: datetime
