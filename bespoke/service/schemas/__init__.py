"""What comes in and what goes out, as JSON. Unknown fields and loose types are refused."""

from __future__ import annotations

from bespoke.service.schemas.campaigns import (
    Campaign,
    CampaignAgent,
    CampaignRequest,
    Campaigns,
    CampaignState,
    Check,
    CheckRequest,
    Progress,
)
from bespoke.service.schemas.common import ApiName, Request, RevisionName, SupernetName
from bespoke.service.schemas.datasets import (
    ActiveRounds,
    Dataset,
    DatasetProgress,
    DatasetRequest,
    Datasets,
    DatasetShard,
)
from bespoke.service.schemas.devices import Device, DeviceRequest, Devices, Profile
from bespoke.service.schemas.fleets import Fleet, FleetArchitecture, FleetRequest, Served, Simplification
from bespoke.service.schemas.health import Health, Readiness
from bespoke.service.schemas.jobs import Job, JobState
from bespoke.service.schemas.leases import (
    Heartbeat,
    Lease,
    LeaseEntry,
    LeaseRequest,
    Reported,
    ReportRequest,
    Result,
)
from bespoke.service.schemas.searches import (
    Caution,
    Constraints,
    Effort,
    Front,
    FrontMember,
    LimitUse,
    Search,
    SearchRequest,
)
from bespoke.service.schemas.subnets import (
    Input,
    Links,
    Manifest,
    Precision,
    Predicted,
    Revisions,
    Statistics,
    Subnet,
)
from bespoke.service.schemas.supernets import Supernet, Supernets, SupernetSummary
from bespoke.service.schemas.tables import FewShotChoice, FewShotRequest, Source, Table, TableLinks, Tables
from bespoke.service.schemas.verifications import VerificationRound, Verified, VerifiedCandidate

__all__ = [
    "ActiveRounds",
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
    "Dataset",
    "DatasetProgress",
    "DatasetRequest",
    "DatasetShard",
    "Datasets",
    "Device",
    "DeviceRequest",
    "Devices",
    "Effort",
    "FewShotChoice",
    "FewShotRequest",
    "Fleet",
    "FleetArchitecture",
    "FleetRequest",
    "Front",
    "FrontMember",
    "Health",
    "Heartbeat",
    "Input",
    "Job",
    "JobState",
    "Lease",
    "LeaseEntry",
    "LeaseRequest",
    "LimitUse",
    "Links",
    "Manifest",
    "Precision",
    "Predicted",
    "Profile",
    "Progress",
    "Readiness",
    "ReportRequest",
    "Reported",
    "Request",
    "Result",
    "RevisionName",
    "Revisions",
    "Search",
    "SearchRequest",
    "Served",
    "Simplification",
    "Source",
    "Statistics",
    "Subnet",
    "Supernet",
    "SupernetName",
    "SupernetSummary",
    "Supernets",
    "Table",
    "TableLinks",
    "Tables",
    "VerificationRound",
    "Verified",
    "VerifiedCandidate",
]
