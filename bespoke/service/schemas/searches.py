"""Searches: what can be asked, and what is answered."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from bespoke.search.problem import MOST_ALTERNATIVES
from bespoke.service.schemas.common import Incoming, Name, Outgoing
from bespoke.service.schemas.subnets import Architecture, Predicted, Subnet
from bespoke.service.schemas.verifications import Verified

Limit = Annotated[float, Field(gt=0, allow_inf_nan=False)]
METRIC = r"latency_ms(:[A-Za-z0-9._-]{1,100})?|macs|flops|params|peak_memory_bytes|model_size_bytes"
Metric = Annotated[
    str, Field(pattern=rf"^({METRIC})$", description="`latency_ms:ID` is that of one of `devices`.")
]
Objective = Annotated[str, Field(pattern=rf"^(top1|{METRIC})$")]
Choice = int | float | bool
MOST_DEVICES = 16


class LatencyLimit(Incoming):
    """A limit on a latency."""

    limit: Limit = Field(description="In ms.")
    confidence: float | None = Field(
        default=None,
        ge=0.5,
        lt=1,
        description="Limits the upper end of the interval that holds this share of latencies; "
        "null limits the prediction.",
    )


def _as_limit(came: Any) -> Any:
    return {"limit": came} if isinstance(came, int | float) else came


def _as_objectives(came: Any) -> Any:
    return {True: {}, False: None}[came] if isinstance(came, bool) else came


LatencyMs = Annotated[LatencyLimit, BeforeValidator(_as_limit, json_schema_input_type=Limit | LatencyLimit)]


class Constraints(Incoming):
    """Upper limits; what is absent or null is not limited."""

    latency_ms: LatencyMs | None = Field(default=None, description="In ms, or with a confidence.")
    macs: Limit | None = None
    flops: Limit | None = Field(default=None, description="2 x MACs.")
    params: Limit | None = None
    peak_memory_bytes: Limit | None = None
    model_size_bytes: Limit | None = None


class DeviceConstraints(Incoming):
    """Limits on one of several devices; without any, its latency is predicted only."""

    latency_ms: LatencyMs | None = Field(default=None, description="In ms, or with a confidence.")


class Effort(Incoming):
    """A limit on the search itself: their product is at most 100,000, of a front or a fleet 10,000."""

    population: int | None = Field(default=None, ge=8, le=4096)
    generations: int | None = Field(default=None, ge=1, le=500)


class Objectives(Incoming):
    """What a front trades against each other."""

    metrics: list[Objective] | None = Field(
        default=None,
        min_length=2,
        max_length=3,
        json_schema_extra={"uniqueItems": True},
        description="Two or three; null is top1 and latency_ms, or without a device top1 and macs.",
    )

    @model_validator(mode="after")
    def _differ(self) -> Self:
        if self.metrics is not None and len(set(self.metrics)) < len(self.metrics):
            raise ValueError("metrics: each of them once")
        return self


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
    device: Name | None = Field(
        default=None, description="The main device: whose latency `constraints` limits."
    )
    constraints: Constraints = Field(default_factory=Constraints)
    devices: dict[Name, DeviceConstraints] = Field(
        default_factory=dict,
        max_length=MOST_DEVICES,
        description="Further devices by their ids: one subnet must hold on all of them.",
    )
    restrict: dict[Name, Choice | Annotated[list[Choice], Field(min_length=1, max_length=100)]] = Field(
        default_factory=dict,
        max_length=20,
        description="The choices that are left of a dimension, e.g. `resolution: 128` or `kernel: [3, 5]`.",
    )
    min_top1: float | None = Field(
        default=None, gt=0, le=1, description="Least predicted top-1; then `minimise` is made small."
    )
    minimise: Metric | None = Field(
        default=None, description="Only with `min_top1`; null is the latency of `device`."
    )
    alternatives: int = Field(
        default=0, ge=0, le=MOST_ALTERNATIVES, description="How many other subnets near the optimum."
    )
    pareto: Annotated[
        Objectives | None, BeforeValidator(_as_objectives, json_schema_input_type=bool | Objectives | None)
    ] = Field(default=None, description="Also the whole front: true, or the metrics that it trades.")
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    effort: Effort = Field(default_factory=Effort)
    verify: Literal["measured", "accuracy"] | None = Field(
        default=None,
        description="Also measure the best few: whole on the device, or their accuracy where a data set is.",
    )


class Caution(Outgoing):
    """A reason for caution."""

    code: Literal["table-stale", "table-provisional"]
    detail: str


class LimitUse(Outgoing):
    """How an answer stands to one limit."""

    metric: str = Field(description="`latency_ms:ID` for a device of `devices`; `top1` for `min_top1`.")
    limit: float
    confidence: float | None
    used: float = Field(description="The prediction, or with a confidence the upper end of its interval.")
    binds: bool = Field(description="Whether a change of one choice would be better, and breaks this limit.")


class FrontMember(Outgoing):
    """A subnet of a front."""

    subnet_id: str
    architecture: Architecture
    predicted: Predicted


class Front(Outgoing):
    """The subnets of which none is better in one metric without being worse in another."""

    metrics: list[Objective]
    members: list[FrontMember] = Field(description="The cheapest first.")
    marginal_prices: list[dict[str, str | float]] = Field(
        description="What the step from a member to the next dearer one costs and buys: `metric`, `from`, "
        "`to`, and e.g. `ms`, `points` and `points_per_ms`. A point is 0.01 of top-1."
    )
    evaluations: int


class Search(Outgoing):
    """A search with its answer."""

    id: str
    request: dict[str, Any] = Field(description="With every default filled in: it can be asked again.")
    subnet: Subnet
    limits: list[LimitUse] = Field(description="How the subnet stands to each limit, and which of them bind.")
    alternatives: list[Subnet] = Field(description="Other subnets near the optimum, best first.")
    front: Front | None = Field(description="Where `pareto` asked for it.")
    warnings: list[Caution] = Field(description="What speaks against relying on the latency.")
    archive: str | None = Field(
        description="Digest of the archive that it was looked up in; null where it was searched."
    )
    head_start: str | None = Field(
        description="Digest of the archive whose members its search began with; null where it was looked up, "
        "or began with nothing."
    )
    improved_by: float | None = Field(
        default=None,
        description="By how many points of top-1 the archive now beats it within the same limits; null where "
        "it does not, for questions that no archive answers, and in the answer to a POST. A point is 0.01 of "
        "top-1.",
    )
    verified: Verified | None = Field(default=None, description="Where `verify` asked for it.")
    evaluations: int
    generations: int
    duration_s: float
    created_at: datetime
