"""What is asked of a search, and what it answers."""

from __future__ import annotations

import math
from dataclasses import dataclass
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

    Raises:
        ConstraintInvalid: There is no such metric, the limit is no positive number, or the
            confidence is none or of a metric that is known exactly.
    """

    metric: str
    limit: float
    confidence: float | None = None

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ConstraintInvalid(self.metric, self.limit, f"a limit on one of {', '.join(METRICS)}")
        number = isinstance(self.limit, int | float | np.number) and not isinstance(self.limit, bool)
        if not number or not math.isfinite(self.limit) or self.limit <= 0:
            raise ConstraintInvalid(self.metric, self.limit, "a positive, finite number")
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
        constraints: Limits, at most one a metric; all of them must hold.
        latency: Prices latencies; needed where one is limited.
        seed: Decides everything that is random.
        effort: How long to search.

    Raises:
        ConstraintInvalid: Two limits on one metric, or a latency limit without a pricer.
    """

    space: SearchSpace
    predictor: AccuracyPredictor
    constraints: tuple[Constraint, ...] = ()
    latency: LatencyPricer | None = None
    seed: int = 0
    effort: Effort = Effort()

    def __post_init__(self) -> None:
        names = [constraint.metric for constraint in self.constraints]
        for constraint in self.constraints:
            if names.count(constraint.metric) > 1:
                raise ConstraintInvalid(constraint.metric, constraint.limit, "one limit a metric")
            if constraint.metric == "latency_ms" and self.latency is None:
                raise ConstraintInvalid(
                    "latency_ms", constraint.limit, "a latency limit only together with a latency table"
                )


@dataclass(frozen=True)
class Candidate:
    """An architecture with what is predicted of it.

    Attributes:
        architecture: Canonical.
        top1: Predicted, in [0, 1].
        top1_interval: The predictor's 90% interval, cut to [0, 1].
        metrics: Every metric of ``METRICS``; ``latency_ms`` only where the problem has a pricer.
        latency_interval_ms: The table's 90% interval; None without a pricer.
    """

    architecture: Architecture
    top1: float
    top1_interval: tuple[float, float]
    metrics: dict[str, float]
    latency_interval_ms: tuple[float, float] | None


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
