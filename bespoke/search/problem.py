"""What is asked of a search, and what it answers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bespoke.predictors.accuracy import AccuracyPredictor
from bespoke.supernet.agreement import COVERAGE
from bespoke.supernet.architecture import Architecture, Genomes, SearchSpace
from bespoke.supernet.cost import SlotTable
from bespoke.supernet.errors import ConstraintInvalid, InvalidInput
from bespoke.supernet.ops import PRECISIONS

METRICS = ("latency_ms", "macs", "flops", "params", "peak_memory_bytes", "model_size_bytes")
"""What can be limited. ``flops`` is 2 x ``macs``."""

BYTES = ("peak_memory_bytes", "model_size_bytes")
"""Those of them that follow from the precision."""

MOST_ALTERNATIVES = 16
MOST_POPULATION, MOST_GENERATIONS = 100_000, 10_000


def _whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


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

        Both ends rise with the prediction; both are the prediction where nobody measured how far off it is.
        """
        ...


def knows_its_error(latency: LatencyPricer) -> bool:
    """Whether anybody measured how far off the predictions are: else there is no interval to tell."""
    low, high = latency.interval_ms(np.ones(1))
    return bool(low[0] < high[0])


@dataclass(frozen=True)
class Constraint:
    """A limit on an architecture: the metric is at most this.

    Attributes:
        metric: One of ``METRICS``.
        limit: In the metric's unit; positive and finite.
        confidence: Of a latency: the upper end of the interval that holds this share of latencies
            is limited, and not the prediction. At least 0.5 and less than 1; None for a prediction.
        device: Of a latency: which of the problem's named devices it is about; None for the main one.
        precision: Of bytes: as a model of this precision has them; None for the problem's.

    Raises:
        ConstraintInvalid: There is no such metric, the limit is no positive number, the confidence
            is none, a confidence or a device comes with another metric than a latency, or a precision with
            another metric than bytes.
    """

    metric: str
    limit: float
    confidence: float | None = None
    device: str | None = None
    precision: str | None = None

    @property
    def name(self) -> str:
        """The key in answers: the metric, ``latency_ms:NAME`` of a named device, or ``METRIC:PRECISION``."""
        if self.precision is not None:
            return f"{self.metric}:{self.precision}"
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
        if self.precision is not None:
            if self.metric not in BYTES:
                raise ConstraintInvalid(
                    self.metric, self.limit, f"a precision with {' and '.join(BYTES)} only"
                )
            if self.precision not in PRECISIONS:
                raise ConstraintInvalid("precision", self.precision, f"one of {', '.join(PRECISIONS)}")
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

    A search is a sequence of rounds, which the product of both cuts off; so more effort knows all
    that less effort knows, and never answers worse for the same seed and head start.

    Attributes:
        population: How many architectures climb side by side.
        generations: How many steps they climb.

    Raises:
        InvalidInput: Less than 4 architectures or 1 step, or more than 100,000 or 10,000.
    """

    population: int = 64
    generations: int = 28

    def __post_init__(self) -> None:
        if not 4 <= self.population <= MOST_POPULATION or not 1 <= self.generations <= MOST_GENERATIONS:
            raise InvalidInput(
                f"effort: got population {self.population} and generations {self.generations}, "
                f"expected 4 to {MOST_POPULATION} and 1 to {MOST_GENERATIONS}"
            )


@dataclass(frozen=True, eq=False)
class HeadStart:
    """Architectures that are known before a search begins.

    Attributes:
        genomes: (N, G), canonical, of the problem's space; within its limits or not.
        top1: (N,), as the problem's predictor predicts it.
    """

    genomes: Genomes
    top1: NDArray[np.float64]

    @staticmethod
    def together(known: Iterable[HeadStart | None]) -> HeadStart | None:
        """What any of several knows; None where none knows anything."""
        given = [one for one in known if one is not None]
        if not given:
            return None
        return HeadStart(
            np.concatenate([one.genomes for one in given]), np.concatenate([one.top1 for one in given])
        )


@dataclass(frozen=True)
class Problem:
    """One question: the most accurate architecture of a space within limits.

    Attributes:
        space: Where to search.
        predictor: Of the accuracy.
        constraints: Limits, at most one a metric (and named device); all of them must hold.
        latency: Prices latencies on the main device; needed where its latency is limited.
        seed: Decides everything that is random; 0 or more.
        effort: How long to search.
        devices: Prices latencies on further devices, by their names.
        minimise: A metric whose least value is asked for, among the architectures of at least
            ``min_top1``: one of ``METRICS``, or ``latency_ms:NAME`` of a named device. None asks for the
            highest top-1.
        min_top1: The least predicted top-1, of more than 0 to 1; given if and only if ``minimise`` is.
        alternatives: How many more networks to give that differ from the best and from one another,
            at most ``MOST_ALTERNATIVES``.
        precision: What models are written in, one of ``PRECISIONS``: bytes are counted in it.
        head_start: What is known before; no answer is worse than the best of it that the limits allow.

    Raises:
        ConstraintInvalid: Two limits on one metric, a latency limit without its pricer, one of
            ``minimise`` and ``min_top1`` without the other, or a value that none of them can have.
    """

    space: SearchSpace
    predictor: AccuracyPredictor
    constraints: tuple[Constraint, ...] = ()
    latency: LatencyPricer | None = None
    seed: int = 0
    effort: Effort = Effort()
    devices: Mapping[str, LatencyPricer] = field(default_factory=dict)
    minimise: str | None = None
    min_top1: float | None = None
    alternatives: int = 0
    precision: str = "fp32"
    head_start: HeadStart | None = field(default=None, compare=False, repr=False)

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
            pricer = None if c.confidence is None else self.pricer(c)
            if pricer is not None and not knows_its_error(pricer):
                raise ConstraintInvalid(
                    f"{c.name} confidence",
                    c.confidence,
                    "a latency table whose error on whole networks was measured, so that it has an interval; "
                    "leave the confidence out to limit the prediction",
                )
        self._check_goal()
        if not _whole(self.seed) or self.seed < 0:
            raise ConstraintInvalid("seed", self.seed, "a whole number, 0 or more")
        if not _whole(self.alternatives) or not 0 <= self.alternatives <= MOST_ALTERNATIVES:
            raise ConstraintInvalid("alternatives", self.alternatives, f"0 to {MOST_ALTERNATIVES}")
        if self.precision not in PRECISIONS:
            raise ConstraintInvalid("precision", self.precision, f"one of {', '.join(PRECISIONS)}")

    def _check_goal(self) -> None:
        if (self.minimise is None) != (self.min_top1 is None):
            given = "minimise" if self.min_top1 is None else "min_top1"
            raise ConstraintInvalid(given, getattr(self, given), "minimise and min_top1 together")
        if self.minimise is None or self.min_top1 is None:
            return
        own = METRICS if self.latency is not None else METRICS[1:]
        known = [*own, *map(latency_of, self.devices)]
        if self.minimise not in known:
            raise ConstraintInvalid("minimise", self.minimise, f"one of {', '.join(known)}")
        share = isinstance(self.min_top1, int | float | np.number) and not isinstance(self.min_top1, bool)
        if not share or not 0 < self.min_top1 <= 1:
            raise ConstraintInvalid("min_top1", self.min_top1, "a number of more than 0 to 1")

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
        latency_interval_ms: The table's 90% interval; None without a main pricer, or where its error was
            never measured.
        latency_intervals_ms: Those of the named devices' tables, by name; None as above.
    """

    architecture: Architecture
    top1: float
    top1_interval: tuple[float, float]
    metrics: dict[str, float]
    latency_interval_ms: tuple[float, float] | None
    latency_intervals_ms: Mapping[str, tuple[float, float] | None] = field(default_factory=dict)


@dataclass(frozen=True)
class SearchResult:
    """The answer.

    Attributes:
        best: The highest predicted top-1 within the limits; where a metric is minimised, the least of
            it with the least top-1 or more.
        front: The best that was seen at each price (latency, or else the first limited metric, or
            else MACs; the minimised metric where there is one), cheapest first, at most 32; ``best``
            is its last member, and its first one where a metric is minimised.
        evaluations: How many predictions of the accuracy were made.
        generations: How many steps were taken, one after the other.
        seed: The problem's.
        alternatives: As many as were asked for, best first, none better than ``best``; fewer where no
            more were found. Any two of them, and each of them and ``best``, differ in at least a fifth
            of the choices that matter in either (a block that only one of them has differs).
    """

    best: Candidate
    front: tuple[Candidate, ...]
    evaluations: int
    generations: int
    seed: int
    alternatives: tuple[Candidate, ...] = ()
