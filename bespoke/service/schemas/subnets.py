"""Subnets and their models."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from bespoke.service.schemas.common import Outgoing, Range, Sha256

Statistics = Literal["table", "recalibrated"]
Precision = Literal["fp32", "int8"]
Architecture = dict[str, Any]


class DeviceLatency(Outgoing):
    """A predicted latency on one of several devices."""

    latency_ms: float
    latency_interval_ms: Range | None


class Predicted(Outgoing):
    """Predicted figures; intervals hold with a probability of 90%.

    That of a latency is null where the error of its table was never measured on whole networks.
    """

    top1: float = Field(description="Share of images whose class comes first, in [0, 1].")
    top1_interval: Range
    top1_corrected: float | None = Field(
        default=None,
        description="Top-1 less what choosing the best of many predictions adds to it; null where the "
        "predictor cannot tell.",
    )
    latency_ms: float | None = Field(description="On the main device.")
    latency_interval_ms: Range | None
    devices: dict[str, DeviceLatency] = Field(
        default_factory=dict, description="Of the further devices of a search, by their ids."
    )
    macs: int
    flops: int = Field(description="2 x MACs.")
    params: int
    peak_memory_bytes: int = Field(
        description="Largest sum of activations alive at once, in the model's precision."
    )
    model_size_bytes: int = Field(description="Of the weights as exported, in the model's precision.")


class Revisions(Outgoing):
    """What the figures and the weights follow from."""

    table: str | None
    tables: dict[str, str] = Field(default_factory=dict, description="Of further devices, by their ids.")
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
    architecture: Architecture
    predicted: Predicted
    device_id: str | None
    precision: Precision = Field(description="Of the model: that of the device.")
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
    architecture: Architecture
    supernet: str
    revisions: Revisions
    predicted: Predicted
    precision: Precision
    activation_ranges: Literal["observed", "expected"] | None = Field(
        description="Where the ranges of INT8 activations come from: `observed` on training images, or "
        "`expected` of the weights alone where no data set is registered."
    )
    statistics: str
    device_id: str | None
