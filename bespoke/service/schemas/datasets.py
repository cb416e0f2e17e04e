"""Data sets of accuracy predictors."""

from __future__ import annotations

from typing import Any, Self

from pydantic import AwareDatetime, Field, model_validator

from bespoke.predictors.dataset import FEWEST_SUBNETS
from bespoke.predictors.gaussian import MOST_EXAMPLES
from bespoke.service.schemas.common import Incoming, Outgoing
from bespoke.service.schemas.jobs import JobState


class ActiveRounds(Incoming):
    """Subnets that are not drawn but chosen, because a predictor is unsure of them."""

    subnets: int = Field(ge=1, le=MOST_EXAMPLES, description="How many of the data set's, over all rounds.")
    rounds: int = Field(default=2, ge=1, le=20, description="In how many rounds.")


class DatasetRequest(Incoming):
    """A data set to measure."""

    subnets: int = Field(default=1000, ge=FEWEST_SUBNETS, le=100_000, description="How many to measure.")
    shards: int = Field(default=1, ge=1, le=256, description="Into how many jobs each round is cut.")
    seed: int | None = Field(
        default=None,
        ge=0,
        lt=2**31,
        description="Which subnets are drawn; null for those of its training, or 0. Which images were held "
        "out of training, the supernet's card tells; where it does not, this has to be the training's.",
    )
    active: ActiveRounds | None = Field(default=None, description="Null where all of them are drawn.")
    views: int = Field(default=1, ge=1, le=4, description="Crops of each image that are evaluated.")
    side: int | None = Field(
        default=None,
        ge=16,
        le=1024,
        description="Of the kept images in pixels, where the supernet's card does not tell that of its "
        "training; null for what its inputs need.",
    )
    fit: bool = Field(default=True, description="Whether the predictor is fitted and served in the end.")

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if self.active is None:
            return self
        if self.subnets > MOST_EXAMPLES:
            raise ValueError(f"active: expected null, or {MOST_EXAMPLES} subnets at most; got {self.subnets}")
        drawn = self.subnets - self.active.subnets
        if drawn < FEWEST_SUBNETS:
            raise ValueError(
                f"active.subnets: {self.active.subnets} of {self.subnets} leave {drawn} to draw, expected "
                f"{FEWEST_SUBNETS} at least"
            )
        if self.active.rounds > self.active.subnets:
            raise ValueError("active.rounds: expected one subnet at least in each round")
        return self


class DatasetProgress(Outgoing):
    """How far the measuring is."""

    done: int = Field(description="Subnets that were measured.")
    total: int
    fraction: float


class DatasetShard(Outgoing):
    """What one worker measures of one round."""

    round: int = Field(description="0 for the subnets that are drawn.")
    number: int
    state: JobState
    done: int
    total: int
    worker: str | None = Field(description="Who measures it, or measured it last.")
    job_id: str
    error: str | None


class Dataset(Outgoing):
    """Subnets measured on held-out training images."""

    id: str
    supernet: str
    supernet_digest: str
    request: dict[str, Any] = Field(description="As it was asked for, with what it left open.")
    state: JobState = Field(description="Of the job.")
    progress: DatasetProgress
    shards: list[DatasetShard] = Field(description="Of the rounds so far.")
    job_id: str
    error: str | None
    predictor: dict[str, Any] | None = Field(
        description="What was fitted: `predictor_revision`, and how good it is, as the model card tells."
    )
    file: str = Field(description="Where what was measured so far can be read.")
    created_at: AwareDatetime
    finished_at: AwareDatetime | None


class Datasets(Outgoing):
    """Data sets, newest first."""

    items: list[Dataset]
