"""Verifications: what a search found, measured."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bespoke.service.schemas.common import Outgoing, Range
from bespoke.service.schemas.jobs import JobState


class VerifiedCandidate(Outgoing):
    """A subnet with what was predicted and what was measured of it."""

    subnet_id: str
    top1: float = Field(description="Predicted.")
    measured_top1: float | None = Field(default=None, description="On the data set's validation images.")
    latency_ms: float | None = Field(description="Predicted.")
    latency_interval_ms: Range | None = Field(description="Of the prediction, 90%.")
    measured_ms: float | None = Field(
        default=None, description="On the device, by the statistic of its table; null where it failed."
    )
    within: bool | None = Field(default=None, description="Whether the measured latency is within the limit.")


class VerificationRound(Outgoing):
    """What was measured at a time."""

    number: int
    candidates: list[VerifiedCandidate]
    table_revision: str | None = Field(default=None, description="The table that predicted.")
    learned_table_revision: str | None = Field(
        default=None, description="The table that learned of this round; it serves from then on."
    )
    campaign_id: str | None = None


class Verified(Outgoing):
    """How the verification of a search stands."""

    kind: Literal["measured", "accuracy"]
    job_id: str
    state: JobState = Field(description="Of the job.")
    progress: float
    error: str | None
    met: bool | None = Field(
        description="Whether a subnet was measured within the limit; null as long as that is open."
    )
    winner: VerifiedCandidate | None = Field(
        description="The most accurate one within the limit; by prediction, or where accuracy was verified, "
        "by measurement. Of a measured search that minimises a metric, the one with the least of it."
    )
    images: int | None = Field(description="How many images the accuracy was measured on.")
    rounds: list[VerificationRound]
