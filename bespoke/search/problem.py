"""What is asked of a search, and what it answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bespoke.predictors.accuracy import AccuracyPredictor
from bespoke.supernet.agreement import COVERAGE
from bespoke.supernet.architecture import Architecture, Genomes, SearchSpace
from bespoke.supernet.cost import SlotTable
from bespoke.supernet.errors import ConstraintInvalid, InvalidInput

METRICS = ("latency_ms", "macs", "flops", "params", "peak_memory_bytes", "model_size_bytes")
"""What can be limited. ``flops`` is 2 x ``macs``."""


def latency_of(device: str) -> str:
    """The key of a named device's latency among metrics."""
    return f"latency_ms:{device}"


class LatencyPricer(Protocol):
    """The latency of populations of one space on one device."""

    @property
    def additive(self) -> bool:
        """Whether a latency is the overhead and the sum of the slots, and nothing else."""
        ...

    @property
    def slots(self) -> SlotTable:
        """What each slot adds, in ms; near that, where latencies are not additive."""
        ...

    @property
    def overhead_ms(self) -> float:
        """What every network costs beside its slots."""
        ...

    def latency_ms(self, genomes: Genomes) -> NDArray[np.float64]:
        """Latencies in ms, shape (N,)."""
        ...

    def interval_ms(
        self, latency_ms: NDArray[np.float64], confidence: float = COVERAGE
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lower and upper end of the interval that holds this share of latencies, both (N,).

        Both ends rise with the prediction.
        """
        ...


@dataclass(frozen=True)
class Constraint:
    """A limit on an architecture: the metric is at most this.

    Attributes:
        metric: One of ``METRICS``.
        limit: In the metric's unit; positive and finite.
        confidence: Of a latency: the upper end of the interval that holds this share of latencies
            is limited, and not the prediction. At least 0.5 and less than 1; None for a prediction.
        device: Of a latency: which of the problem's named devices it is about; None for the main one.

    Raises:
        ConstraintInvalid: There is no such metric, the limit is no positive number, the confidence
            is none, or a confidence or a device comes with another metric than a latency.
    """

    metric: str
    limit: float
    confidence: float | None = None
    device: str | None = None

    @property
    def name(self) -> str:
        """The metric's key in answers: ``latency_ms:NAME`` on a named device, else the metric."""
        return latency_of(self.device) if self.device is not None else self.metric

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ConstraintInvalid(self.metric, self.limit, f"a limit on one of {', '.join(METRICS)}")
        number = isinstance(self.limit, int | float | np.number) and not isinstance(self.limit, bool)
        if not number or not math.isfinite(self.limit) or self.limit <= 0:
            raise ConstraintInvalid(self.metric, self.limit, "a positive, finite number")
        if self.device is not None:
            if self.metric != "latency_ms":
                raise ConstraintInvalid(self.metric, self.limit, "a device with latency_ms only")
            if not isinstance(self.device, str) or not self.device:
                raise ConstraintInvalid("device", self.device, "the name of a device")
        if self.confidence is None:
            return
        if self.metric != "latency_ms":
            raise ConstraintInvalid(self.metric, self.limit, "a confidence with latency_ms only")
        share = isinstance(self.confidence, int | float | np.number) and not isinstance(self.confidence, bool)
        if not share or not 0.5 <= self.confidence < 1:
            raise ConstraintInvalid("confidence", self.confidence, "a number from 0.5 to less than 1")


@dataclass(frozen=True)
class Effort:
    """A limit on the search itself.

    Attributes:
        population: How many architectures climb side by side.
        generations: How many steps they climb.

    Raises:
        InvalidInput: Less than 4 architectures or 1 step, or more than 100,000 or 10,000.
    """

    population: int = 64
    generations: int = 28

    def __post_init__(self) -> None:
        if not 4 <= self.population <= 100_000 or not 1 <= self.generations <= 10_000:
            raise InvalidInput(
                f"effort: got population {self.population} and generations {self.generations}, "
                "expected 4 to 100000 and 1 to 10000"
            )


@dataclass(frozen=True)
class Problem:
    """One question: the most accurate architecture of a space within limits.

    Attributes:
        space: Where to search.
        predictor: Of the accuracy.
        constraints: Limits, at most one a metric (and named device); all of them must hold.
        latency: Prices latencies on the main device; needed where its latency is limited.
        seed: Decides everything that is random.
        effort: How long to search.
        devices: Prices latencies on further devices, by their names.

    Raises:
        ConstraintInvalid: Two limits on one metric, or a latency limit without its pricer.
    """

    space: SearchSpace
    predictor: AccuracyPredictor
    constraints: tuple[Constraint, ...] = ()
    latency: LatencyPricer | None = None
    seed: int = 0
    effort: Effort = Effort()
    devices: Mapping[str, LatencyPricer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [constraint.name for constraint in self.constraints]
        for c in self.constraints:
            if names.count(c.name) > 1:
                raise ConstraintInvalid(c.name, c.limit, "one limit a metric")
            if c.device is not None and c.device not in self.devices:
                raise ConstraintInvalid(c.name, c.limit, f"one of the devices {sorted(self.devices)}")
            if c.name == "latency_ms" and self.latency is None:
                raise ConstraintInvalid(
                    "latency_ms", c.limit, "a latency limit only together with a latency table"
                )

    def pricer(self, constraint: Constraint) -> LatencyPricer | None:
        """Who prices the latency that a constraint is about; None where there is none."""
        return self.latency if constraint.device is None else self.devices[constraint.device]


@dataclass(frozen=True)
class Candidate:
    """An architecture with what is predicted of it.

    Attributes:
        architecture: Canonical.
        top1: Predicted, in [0, 1].
        top1_interval: The predictor's 90% interval, its lower end moved by the selection bias, cut to
            [0, 1].
        metrics: Every metric of ``METRICS``; ``latency_ms`` only where the problem has a main pricer,
            and ``latency_ms:NAME`` of each named device.
        latency_interval_ms: The table's 90% interval; None without a main pricer.
        latency_intervals_ms: Those of the named devices' tables, by name.
    """

    architecture: Architecture
    top1: float
    top1_interval: tuple[float, float]
    metrics: dict[str, float]
    latency_interval_ms: tuple[float, float] | None
    latency_intervals_ms: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class SearchResult:
    """The answer.

    Attributes:
        best: The highest predicted top-1 within the limits.
        front: The best that was seen at each smaller price (latency, or else the first limited
            metric, or else MACs), cheapest first; ``best`` is its last member.
        evaluations: How many predictions of the accuracy were made.
        generations: How many steps were taken.
        seed: The problem's.
    """

    best: Candidate
    front: tuple[Candidate, ...]
    evaluations: int
    generations: int
    seed: int
