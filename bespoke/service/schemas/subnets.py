"""Subnets and their models."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from bespoke.service.schemas.common import Outgoing, Range, Sha256

Statistics = Literal["table", "recalibrated"]


class Predicted(Outgoing):
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


class Revisions(Outgoing):
    """What the figures and the weights follow from."""

    table: str | None
    predictor: str
    supernet: str


class Links(Outgoing):
    """Where the rest is."""

    model: str
    manifest: str


class Subnet(Outgoing):
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


class Input(Outgoing):
    """What a model expects."""

    name: str
    shape: list[int | str]
    layout: str
    color: str
    mean: list[float]
    std: list[float]


class Manifest(Outgoing):
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
