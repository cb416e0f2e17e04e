"""Supernets."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from bespoke.service.schemas.common import Outgoing, Range


class Supernet(Outgoing):
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


class SupernetSummary(Outgoing):
    """A supernet in a list."""

    name: str
    digest: str
    classes: int
    resolutions: list[int]
    summary: str


class Supernets(Outgoing):
    """All supernets."""

    items: list[SupernetSummary]
