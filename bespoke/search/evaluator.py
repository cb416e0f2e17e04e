"""From genomes to metrics, vectorised over the population, and the exact range of each metric."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from bespoke.search.elimination import Factor, Join, minimise, slot_factors
from bespoke.search.problem import (
    Candidate,
    Constraint,
    LatencyPricer,
    Problem,
    knows_its_error,
    latency_of,
)
from bespoke.search.restriction import of_base
from bespoke.supernet.architecture import Genomes, SearchSpace, decode_all
from bespoke.supernet.cost import SlotTable, op_bytes, op_macs, op_params, op_peak_bytes
from bespoke.supernet.genomes import extremes, neighbours, sample

_SCALED_ON, _NEAR = 1024, 64
"""Sums are scaled to a limit on so many of that many random architectures: those nearest to it."""

_BISECTIONS = 60


@dataclass(frozen=True, eq=False)
class Price:
    """How one metric follows from the slots: ``offset + scale * (sum or maximum of the slots)``.

    Attributes:
        metric: One of ``METRICS``, or ``latency_ms:NAME`` of a named device.
        slots: A number per slot.
        scale: Positive.
        offset: What every architecture costs.
        maximum: Whether the largest slot counts and not the sum.
        exact: The metric itself, where it is no sum over slots; the slots then only guide.
    """

    metric: str
    slots: SlotTable
    scale: float = 1.0
    offset: float = 0.0
    maximum: bool = False
    exact: Callable[[Genomes], NDArray[np.float64]] | None = None

    @property
    def join(self) -> Join:
        """How slots are joined."""
        return np.maximum if self.maximum else np.add

    def of(self, genomes: Genomes) -> NDArray[np.float64]:
        """The metric of each genome, shape (N,)."""
        return self.exact(genomes) if self.exact else self.by_slots(genomes)

    def by_slots(self, genomes: Genomes) -> NDArray[np.float64]:
        """What the slots say of it, shape (N,)."""
        joined = self.slots.largest(genomes) if self.maximum else self.slots.total(genomes)
        return self.offset + self.scale * joined

    def per_slot(self, limit: float) -> float:
        """What the joined slots may be for the metric to be at most ``limit``."""
        return (limit - self.offset) / self.scale


def prices(
    space: SearchSpace,
    latency: LatencyPricer | None,
    devices: Mapping[str, LatencyPricer] | None = None,
    precision: str = "fp32",
) -> dict[str, Price]:
    """How to price each metric of a space, in the order of ``METRICS``.

    Args:
        space: The space.
        latency: Prices ``latency_ms``; without it there is none in the result.
        devices: Prices ``latency_ms:NAME`` of each named device, behind all others.
        precision: What models are written in: bytes are counted in it.
    """
    found = dict(_cost_prices(space, precision))  # type: ignore[arg-type]
    if latency is not None:
        found = {"latency_ms": _latency_price("latency_ms", latency), **found}
    for device, pricer in (devices or {}).items():
        found[latency_of(device)] = _latency_price(latency_of(device), pricer)
    return found


def prices_of(problem: Problem) -> dict[str, Price]:
    """How to price each metric of a problem, and each limit on bytes of another precision than its own."""
    found = prices(problem.space, problem.latency, problem.devices, problem.precision)
    for c in problem.constraints:
        if c.precision is not None:
            own = _cost_prices(problem.space, c.precision)[c.metric]  # type: ignore[arg-type]
            found[c.name] = replace(own, metric=c.name)
    return found


def _latency_price(name: str, latency: LatencyPricer) -> Price:
    exact = None if latency.additive else latency.latency_ms
    return Price(name, latency.slots, offset=latency.overhead_ms, exact=exact)


def scaled_to(space: SearchSpace, price: Price, limit: float) -> Price:
    """A price whose slots say, near a limit, what the metric is; the same one where they always do."""
    if price.exact is None:
        return price
    genomes, values = _sampled(space, price.exact)  # type: ignore[arg-type]
    near = np.argsort(np.abs(values - limit), kind="stable")[:_NEAR]
    factor = float(np.median(values[near] / price.by_slots(genomes[near])))
    return replace(price, scale=price.scale * factor, offset=price.offset * factor)


# Spaces are frozen dataclasses, so hashable; their protocol cannot say so.
@lru_cache(maxsize=32)
def _sampled(
    space: SearchSpace, exact: Callable[[Genomes], NDArray[np.float64]]
) -> tuple[Genomes, NDArray[np.float64]]:
    """Random genomes and the extremes, and a metric of each: the same for every limit on it."""
    genomes = np.concatenate([sample(space, _SCALED_ON, np.random.default_rng(0)), extremes(space)])
    return genomes, exact(genomes)


@lru_cache(maxsize=16)
def _cost_prices(space: SearchSpace, precision: str) -> Mapping[str, Price]:
    macs = SlotTable(space, op_macs)
    alive, stored = (SlotTable(space, partial(of, precision=precision)) for of in (op_peak_bytes, op_bytes))
    found = (
        Price("macs", macs),
        Price("flops", macs, scale=2.0),
        Price("params", SlotTable(space, op_params)),
        Price("peak_memory_bytes", alive, maximum=True),
        Price("model_size_bytes", stored),
    )
    return {price.metric: price for price in found}


@lru_cache(maxsize=16)
def _cost_ranges(space: SearchSpace, precision: str) -> Mapping[str, tuple[float, float]]:
    own = _cost_prices(space, precision)  # type: ignore[arg-type]
    return {name: _range(space, price) for name, price in own.items()}


def feasible_ranges(
    space: SearchSpace,
    latency: LatencyPricer | None,
    devices: Mapping[str, LatencyPricer] | None = None,
    precision: str = "fp32",
) -> dict[str, tuple[float, float]]:
    """The exact smallest and largest value of each metric over the whole space.

    Args:
        space: The space.
        latency: Prices latencies; without it there is no ``latency_ms`` in the result.
        devices: Prices those of named devices.
        precision: What models are written in: bytes are counted in it.

    Returns:
        (smallest, largest) by metric, in the order of ``prices``.
    """
    return _ranges(space, prices(space, latency, devices, precision), precision)


def ranges_of(problem: Problem) -> dict[str, tuple[float, float]]:
    """The exact smallest and largest value of each price of a problem, over the whole space."""
    return _ranges(problem.space, prices_of(problem), problem.precision)


def _ranges(
    space: SearchSpace, priced: Mapping[str, Price], precision: str
) -> dict[str, tuple[float, float]]:
    known: Mapping[str, tuple[float, float]] = _cost_ranges(space, precision)  # type: ignore[arg-type]
    return {name: known[name] if name in known else _range(space, price) for name, price in priced.items()}


def _range(space: SearchSpace, price: Price) -> tuple[float, float]:
    smallest = cheapest(space, price)
    low = float(price.of(smallest[None])[0])
    if price.maximum:
        return low, price.offset + price.scale * float(price.slots.values.max())
    return low, float(price.of(cheapest(space, price, sign=-1)[None])[0])


def cheapest(space: SearchSpace, price: Price, sign: int = 1) -> Genomes:
    """The genome of the least price, shape (G,); of the greatest with ``sign`` -1.

    It is exact but for metrics that are no sums: there, a descent from the least sum ends where no
    change of one gene helps.
    """
    factors = [Factor(f.genes, sign * f.values) for f in slot_factors(space, price.slots)]
    _, genome = minimise(space, factors, price.join)
    if price.exact is None:
        return genome
    value = sign * price.of(genome[None])[0]
    while True:
        around, _, _ = neighbours(space, genome)
        values = sign * price.of(around)
        if not len(values) or values.min() >= value:
            return genome
        genome, value = around[values.argmin()], values.min()


class Limits:
    """The constraints of a problem, as one test over a population.

    Attributes:
        space: The problem's.
        prices: Of the limited metrics, in the problem's order.
        limits: Their limits, shape (M,): of the predictions, also where an interval's end is limited.
    """

    def __init__(self, problem: Problem) -> None:
        known = prices_of(problem)
        self.space = problem.space
        self.constraints: Sequence[Constraint] = problem.constraints
        self.limits = np.array([_predicted_limit(c, problem.pricer(c)) for c in problem.constraints])
        self.prices = tuple(
            scaled_to(problem.space, known[c.name], limit)
            for c, limit in zip(problem.constraints, self.limits.tolist(), strict=True)
        )

    def shares(self, genomes: Genomes) -> NDArray[np.float64]:
        """How much of each limit a genome uses, shape (N, M): feasible where no share exceeds 1."""
        if not self.prices:
            return np.zeros((len(genomes), 0))
        return np.stack([p.of(genomes) / limit for p, limit in zip(self.prices, self.limits, strict=True)], 1)

    def hold(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Whether each limit holds, exactly as ``Price.of`` counts, shape (N, M)."""
        if not self.prices:
            return np.ones((len(genomes), 0), np.bool_)
        return np.stack(
            [p.of(genomes) <= limit for p, limit in zip(self.prices, self.limits, strict=True)], 1
        )

    def meets(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Whether every limit holds, shape (N,)."""
        return np.asarray(self.hold(genomes).all(axis=1))

    def only(self, which: Sequence[int]) -> Limits:
        """Some of the limits, by their indices."""
        fewer = copy.copy(self)
        fewer.constraints = [self.constraints[i] for i in which]
        fewer.prices, fewer.limits = tuple(self.prices[i] for i in which), self.limits[list(which)]
        return fewer


def limited_value(constraint: Constraint, value: float, latency: LatencyPricer | None) -> float:
    """What a constraint limits, of an architecture with this predicted value of its metric."""
    if constraint.confidence is None or latency is None:
        return value
    return float(latency.interval_ms(np.array([value]), constraint.confidence)[1][0])


def _predicted_limit(constraint: Constraint, latency: LatencyPricer | None) -> float:
    """The largest prediction that meets a constraint, by bisection to the last bit but a few."""
    limit = float(constraint.limit)
    if constraint.confidence is None:
        return limit
    low, high = 0.0, limit
    if limited_value(constraint, high, latency) <= limit:
        return high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        met = limited_value(constraint, middle, latency) <= limit
        low, high = (middle, high) if met else (low, middle)
    return low


def candidates(problem: Problem, genomes: Genomes, top1: NDArray[np.float64]) -> tuple[Candidate, ...]:
    """Everything that is known of a few genomes, in their order; a top-1 is cut to [0, 1]."""
    priced = prices_of(problem)
    known = {name: price.of(genomes) for name, price in priced.items()}
    half, bias = problem.predictor.half_width, problem.predictor.selection_bias
    own = _intervals_ms(problem.latency, known.get("latency_ms", np.zeros(len(genomes))))
    others = {n: _intervals_ms(pricer, known[latency_of(n)]) for n, pricer in problem.devices.items()}
    # A predictor is no share by itself: far from what it was fitted on it may leave [0, 1].
    top1 = np.clip(top1, 0, 1)
    architectures = decode_all(*of_base(problem.space, genomes))
    return tuple(
        Candidate(
            architecture=architectures[i],
            top1=float(top1[i]),
            top1_interval=(max(0.0, float(top1[i]) - bias - half), min(1.0, float(top1[i]) + half)),
            metrics={name: float(values[i]) for name, values in known.items()},
            latency_interval_ms=own[i],
            latency_intervals_ms={name: intervals[i] for name, intervals in others.items()},
        )
        for i in range(len(genomes))
    )


def _intervals_ms(
    latency: LatencyPricer | None, predicted_ms: NDArray[np.float64]
) -> list[tuple[float, float] | None]:
    """The 90% interval of each prediction; None where it is unknown."""
    if latency is None or not knows_its_error(latency):
        return [None] * len(predicted_ms)
    low, high = latency.interval_ms(predicted_ms)
    return list(zip(low.tolist(), high.tolist(), strict=True))
