"""What comes in and what goes out, as JSON. Unknown fields and loose types are refused."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Path, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

__all__ = [
    "ApiName",
    "Campaign",
    "CampaignAgent",
    "CampaignRequest",
    "CampaignState",
    "Campaigns",
    "Caution",
    "Check",
    "CheckRequest",
    "Constraints",
    "Device",
    "DeviceRequest",
    "Devices",
    "Effort",
    "FewShotChoice",
    "FewShotRequest",
    "Health",
    "Heartbeat",
    "Job",
    "Lease",
    "LeaseRequest",
    "Manifest",
    "Profile",
    "Readiness",
    "ReportRequest",
    "Reported",
    "Request",
    "Result",
    "RevisionName",
    "Search",
    "SearchRequest",
    "Statistics",
    "Subnet",
    "Supernet",
    "SupernetName",
    "Supernets",
    "Table",
    "TableLinks",
    "Tables",
]

# Neither database takes NUL, and nobody wants a line break in a name.
Label = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9._-]+$")]
ApiName = Annotated[str, Path(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9._-]+$")]
SupernetName = Annotated[str, Query(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9._-]+$")]
RevisionName = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="Digest of the table.")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Range = Annotated[list[float], Field(min_length=2, max_length=2, description="Smallest and largest.")]
CampaignState = Literal["preparing", "measuring", "fitting", "succeeded", "failed", "cancelled"]
Source = Literal["ops", "networks", "few-shot", "published"]
Statistics = Literal["table", "recalibrated"]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Answer(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class Health(_Answer):
    """Whether the process lives."""

    status: Literal["ok"] = "ok"
    version: str


class Readiness(_Answer):
    """Whether the service can answer, part by part."""

    status: Literal["ready", "not-ready"]
    database: bool
    worker: bool
    models: bool = Field(
        description="Whether the weights of the supernets are loaded, where this process can tell."
    )


class Supernet(_Answer):
    """A pre-trained supernet."""

    name: str
    digest: str = Field(description="sha256 over space, weights and BN statistics.")
    space: dict[str, Any]
    card: dict[str, Any] = Field(description="What it is, with measured numbers.")
    ranges: dict[str, Range] = Field(
        description="Smallest and largest value of each metric without a device."
    )
    feasible: dict[str, dict[str, Range]] = Field(
        description="Smallest and largest value of each metric, by the id of each profiled device."
    )


class SupernetSummary(_Answer):
    """A supernet in a list."""

    name: str
    digest: str
    classes: int
    resolutions: list[int]
    summary: str


class Supernets(_Answer):
    """All supernets."""

    items: list[SupernetSummary]


class Profile(_Request):
    """What keys a latency table: the device with everything that changes its timing."""

    device: Label
    runtime: Label
    runtime_version: Label
    provider: Label
    threads: int = Field(ge=0, le=4096, description="Inside one op; 0 where nobody knows.")
    precision: Label
    batch: int = Field(ge=1, le=65536)
    fingerprint: dict[Label, str | int | float] = Field(default_factory=dict, max_length=200)


class DeviceRequest(_Request):
    """A device to enrol."""

    name: Label
    profile: Profile


class Device(_Answer):
    """A device."""

    id: str
    name: str
    profile: dict[str, Any]
    profiled: dict[str, str] = Field(description="Revision of the latency table, by supernet.")
    created_at: datetime


class Devices(_Answer):
    """All devices."""

    items: list[Device]


class CampaignRequest(_Request):
    """A profiling campaign to start."""

    supernet: Name
    effort: Literal["quick", "standard", "thorough"] = "standard"
    base: bool = Field(
        default=True,
        description="Take the ops that the serving table measured from it, unless that table is stale.",
    )
    remeasure: bool = Field(default=False, description="Measure all ops again, whatever `base` says.")


class Progress(_Answer):
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


class CampaignAgent(_Answer):
    """An agent's standing in a campaign."""

    name: str
    state: Literal["active", "quarantined"]
    reason: str | None = Field(description="Why it is, or was, in quarantine.")
    until: datetime | None = Field(description="When it may lease again.")


class Request(_Answer):
    """A request that is ready to be sent."""

    method: Literal["POST"] = "POST"
    href: str
    body: dict[str, Any]


class Check(_Answer):
    """What a check found: the table is stale where `drift` is beyond `limit`, either way."""

    table_revision: str
    drift: float = Field(description="Median over the sentinels of their latency now over then, minus 1.")
    limit: float = Field(description="max(3 x the device's repeat error, 5%).")
    stale: bool
    sentinels: dict[str, float] = Field(description="Latency now over then, by sentinel.")
    searches: int = Field(description="How many searches this table has answered.")
    search_ids: list[str] = Field(description="The newest of them, at most 100.")
    proposal: Request | None = Field(description="The campaign to start where the table is stale.")


class Campaign(_Answer):
    """A profiling campaign."""

    id: str
    device_id: str
    supernet: str
    purpose: Literal["table", "check"]
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


class Campaigns(_Answer):
    """Campaigns, newest first."""

    items: list[Campaign]


class LeaseRequest(_Request):
    """An agent's wish for work."""

    agent: Label
    entries: int = Field(ge=1, le=100_000, description="How many measurements at most.")


class LeaseEntry(_Answer):
    """One measurement to do."""

    entry_id: str
    kind: str
    round: int
    sha256: str = Field(description="The model, at /v1/artifacts/{sha256}.")
    size: int


class Lease(_Answer):
    """Measurements that are an agent's for a while."""

    lease_id: str
    campaign_id: str
    expires_at: datetime
    ttl_s: float
    measure: dict[str, float | int] = Field(description="How to measure: times in ms, counts.")
    entries: list[LeaseEntry]


class Heartbeat(_Answer):
    """Until when a lease holds now."""

    expires_at: datetime


# The bounds are described here and checked in ``reports.py``, where a refusal can name the entry.
Milliseconds = Annotated[
    float, Field(json_schema_extra={"exclusiveMinimum": 0, "maximum": 3_600_000}, description="In ms.")
]
Number = Annotated[float, Field(allow_inf_nan=False)]


class Result(_Request):
    """One measurement that was done."""

    entry_id: Label
    round: int = Field(ge=0, le=2**31 - 1)
    samples_ms: list[Milliseconds] = Field(max_length=100_000)
    cold_ms: Milliseconds | None = None
    error: Annotated[str, Field(max_length=10_000)] | None = None
    started_at: Number | Label | None = Field(default=None, description="Unix seconds, or ISO 8601.")
    frequency_mhz: Number | None = None
    temperature_c: Number | None = None
    rejected: int | None = Field(default=None, ge=0, le=2**31 - 1, description="Samples left out.")
    repeated: int | None = Field(
        default=None, ge=0, le=2**31 - 1, description="Windows measured again for drift."
    )
    degraded: list[Label] = Field(default_factory=list, max_length=20)


class ReportRequest(_Request):
    """What an agent measured."""

    results: list[Result] = Field(min_length=1, max_length=10_000)


class Reported(_Answer):
    """What a report changed."""

    accepted: int
    duplicates: int
    campaign_state: str


class TableLinks(_Answer):
    """Where a revision is, in each of its forms."""

    content: str
    csv: str
    ofa: str
    plot: str


class Table(_Answer):
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


class Tables(_Answer):
    """Revisions, newest first."""

    items: list[Table]


class CheckRequest(_Request):
    """A check of a device's latency table."""

    supernet: Name


class FewShotRequest(_Request):
    """A few measured networks of a new device."""

    supernet: Name
    samples: list[dict[str, Any]] = Field(
        min_length=1,
        max_length=1000,
        description="Architectures, each with its `latency_ms` beside its other fields.",
    )


class FewShotChoice(_Answer):
    """The networks to measure on a new device."""

    architectures: list[dict[str, Any]]


Limit = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Constraints(_Request):
    """Upper limits; what is absent or null is not limited."""

    latency_ms: Limit | None = None
    macs: Limit | None = None
    flops: Limit | None = Field(default=None, description="2 x MACs.")
    params: Limit | None = None
    peak_memory_bytes: Limit | None = None
    model_size_bytes: Limit | None = None


class Effort(_Request):
    """A limit on the search itself."""

    population: int | None = Field(default=None, ge=8, le=4096)
    generations: int | None = Field(default=None, ge=1, le=500)


class SearchRequest(_Request):
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


class Predicted(_Answer):
    """Predicted figures; intervals hold with a probability of 90%."""

    top1: float = Field(description="Share of images whose class comes first, in [0, 1].")
    top1_interval: Range
    latency_ms: float | None
    latency_interval_ms: Range | None
    macs: int
    flops: int = Field(description="2 x MACs.")
    params: int
    peak_memory_bytes: int
    model_size_bytes: int


class Revisions(_Answer):
    """What the figures and the weights follow from."""

    table: str | None
    predictor: str
    supernet: str


class Links(_Answer):
    """Where the rest is."""

    model: str
    manifest: str


class Subnet(_Answer):
    """A subnet: an architecture of a supernet with its predicted figures."""

    id: str
    supernet: str
    architecture: dict[str, Any]
    predicted: Predicted
    device_id: str | None
    statistics: Statistics = Field(description="Source of the BN statistics.")
    revisions: Revisions
    links: Links
    created_at: datetime


class Caution(_Answer):
    """A reason for caution."""

    code: Literal["table-stale", "table-provisional"]
    detail: str


class Search(_Answer):
    """A search with its answer."""

    id: str
    request: dict[str, Any] = Field(description="With every default filled in: it can be asked again.")
    subnet: Subnet
    warnings: list[Caution] = Field(description="What speaks against relying on the latency.")
    evaluations: int
    generations: int
    duration_s: float
    created_at: datetime


class Input(_Answer):
    """What a model expects."""

    name: str
    shape: list[int | str]
    layout: str
    color: str
    mean: list[float]
    std: list[float]


class Manifest(_Answer):
    """A model file and what it was made of."""

    file: str
    sha256: Sha256
    size: int
    opset: int
    input: Input
    output: str
    classes: int
    class_names: list[str] | None
    architecture: dict[str, Any]
    supernet: str
    revisions: Revisions
    predicted: Predicted
    statistics: str
    device_id: str | None


class Job(_Answer):
    """The run of a task."""

    id: str
    kind: str
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    progress: float
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    created_at: AwareDatetime
    started_at: AwareDatetime | None
    finished_at: AwareDatetime | None
