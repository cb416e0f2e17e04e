"""How well a table predicts whole subnets: the correction that is fitted, and the card that says so."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bespoke.supernet.agreement import kendall_tau, spearman
from bespoke.supernet.errors import InvalidInput

Floats = NDArray[np.float64]

FEWEST_FOR_ALL = 6
"""With fewer subnets, only the scale is fitted: three parameters take at least twice as many."""


@dataclass(frozen=True)
class Correction:
    """From the sum of an architecture's ops to the latency of the whole network.

        latency = overhead_ms + scale * sum(op_ms) + weights_ms_per_mb * weights_mb + ms_per_op * ops

    Attributes:
        overhead_ms: Per network. Negative where the ops' own calls, which a whole network makes
            only once, cost more than what a network adds.
        scale: Of the sum of the ops.
        weights_ms_per_mb: Per megabyte (10^6 bytes) of fp32 weights. An op that is measured alone
            finds its weights in the cache from the run before; in a network each run fetches them.
        ms_per_op: Per op. Negative where an op measured alone pays for a call of its own that it
            does not pay in a network.
    """

    overhead_ms: float = 0.0
    scale: float = 1.0
    weights_ms_per_mb: float = 0.0
    ms_per_op: float = 0.0

    def apply(self, sums_ms: Floats, weights_mb: Floats, ops: Floats | float = 0.0) -> Floats:
        """Latencies in ms of networks by their op sums, weights and numbers of ops, each (N,)."""
        sums = self.overhead_ms + self.scale * sums_ms
        return np.asarray(sums + self.weights_ms_per_mb * weights_mb + self.ms_per_op * ops)

    def to_json(self) -> dict[str, Any]:
        """What ``from_json`` reads back; no ``ms_per_op`` where there is none, as older tables have it."""
        data = asdict(self)
        if not self.ms_per_op:
            del data["ms_per_op"]
        return data

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Correction:
        """Read a correction.

        Raises:
            InvalidInput: Names the field, what came and what was expected.
        """
        names = {field.name for field in fields(Correction)}
        if not isinstance(data, Mapping) or not names >= set(data) >= names - {"ms_per_op"}:
            got = sorted(data) if isinstance(data, Mapping) else type(data).__name__
            raise InvalidInput(f"correction: got {got}, expected the fields {sorted(names)}")
        for name, value in data.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise InvalidInput(f"correction, {name}: got {value!r}, expected a finite number")
        if data["scale"] < 0:
            raise InvalidInput(f"correction, scale: got {data['scale']!r}, expected at least 0")
        return Correction(**{name: float(value) for name, value in data.items()})


@dataclass(frozen=True)
class QualityCard:
    """Errors of a table on whole subnets that its correction never saw, relative to the measurement.

    Attributes:
        mape: Mean of the absolute relative errors.
        p95_error: Their 95th percentile.
        worst_error: The largest.
        within_5pct: Share of the subnets within 5%.
        within_10pct: Share within 10%.
        spearman: Rank correlation of prediction and measurement.
        kendall: Kendall's tau-b of the same.
        repeat_mape: The device's own: a subnet's measurement in one round against its mean over
            the rounds.
        subnets: How many subnets the errors are over.
        samples: Timed samples in all, ops and subnets.
        rejected: Samples rejected as outliers.
        duration_s: How long the measuring took.
        drift: How far sentinels, measured in every round, moved between their fastest and their
            slowest round, as a share; mean over the sentinels.
        points: (predicted, measured) ms of each of these subnets; empty where a card that was
            made elsewhere does not tell them.
    """

    mape: float
    p95_error: float
    worst_error: float
    within_5pct: float
    within_10pct: float
    spearman: float
    kendall: float
    repeat_mape: float
    subnets: int
    samples: int
    rejected: int
    duration_s: float
    drift: float = 0.0
    points: tuple[tuple[float, float], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """What ``from_json`` reads back; without ``points`` where there are none, as older cards are."""
        data = asdict(self) | {"points": [list(point) for point in self.points]}
        if not self.points:
            del data["points"]
        return data

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> QualityCard:
        """Read a card.

        Raises:
            InvalidInput: Names the field, what came and what was expected.
        """
        names = {f.name for f in fields(QualityCard)}
        if not isinstance(data, Mapping) or not names >= set(data) >= names - {"drift", "points"}:
            got = sorted(data) if isinstance(data, Mapping) else type(data).__name__
            raise InvalidInput(f"quality card: got {got}, expected the fields {sorted(names)}")
        for name, value in data.items():
            if name != "points":
                _check_card_field(name, value)
        return QualityCard(**{**data, "points": _points(data.get("points", []))})


def fit_correction(sums_ms: Floats, weights_mb: Floats, measured_ms: Floats) -> tuple[Correction, float]:
    """Fit a correction by least absolute relative deviations, which one disturbed subnet does not move.

    Solved exactly: an optimum of a linear L1 problem passes through as many points as it has
    parameters, so all such combinations are tried. Where none makes sense, or there are fewer
    subnets than ``FEWEST_FOR_ALL``, only the scale is fitted.

    Args:
        sums_ms: (N,) sums of the ops of each subnet, N >= 1.
        weights_mb: (N,) megabytes of weights of each.
        measured_ms: (N,) what was measured, positive.

    Returns:
        The correction, and its leave-one-out mean absolute relative error (infinite for N = 1).
    """
    columns = np.stack([sums_ms, np.ones_like(sums_ms), weights_mb], axis=1) / measured_ms[:, None]
    forms = ((0, 1, 2), (0,)) if len(columns) >= FEWEST_FOR_ALL else ((0,),)
    for form in forms:
        fit = _least_deviations(columns, form, float(sums_ms.min()))
        if fit is not None:
            (scale, overhead, weights), error = fit
            return Correction(float(overhead), float(scale), float(weights)), error
    return Correction(), math.inf


def _least_deviations(
    columns: Floats, form: tuple[int, ...], smallest_ms: float
) -> tuple[Floats, float] | None:
    """Coefficients (scale, overhead, weights) of the form, and the leave-one-out error.

    ``columns`` are divided by the measurement, so that every target is 1. A line makes sense where
    more ops and more weights never make a network faster, and a negative overhead takes back at
    most half of the smallest sum. None where no combination of points determines such a line.
    """
    count, size = len(columns), len(form)
    chosen = np.array(list(itertools.combinations(range(count), size)), np.int64).reshape(-1, size)
    systems = columns[chosen][:, :, form]
    solvable = np.abs(np.linalg.det(systems)) > 1e-9 if len(systems) else np.zeros(0, bool)
    chosen, systems = chosen[solvable], systems[solvable]
    coefficients = np.zeros((len(chosen), 3))
    coefficients[:, form] = np.linalg.solve(systems, np.ones((len(chosen), size, 1)))[:, :, 0]
    residuals = np.abs(coefficients @ columns.T - 1)
    scale, overhead, weights = coefficients.T
    sensible = (scale > 0) & (weights >= 0) & (overhead >= -scale * smallest_ms / 2)
    chosen, coefficients, residuals = chosen[sensible], coefficients[sensible], residuals[sensible]
    if not len(chosen):
        return None
    totals = residuals.sum(axis=1)
    left_out = []
    for i in range(count):
        others = ~(chosen == i).any(axis=1)
        if others.any():
            without = np.where(others, totals - residuals[:, i], np.inf)
            left_out.append(residuals[without.argmin(), i])
    error = float(np.mean(left_out)) if left_out else math.inf
    return coefficients[totals.argmin()], error


def quality_card(
    predicted_ms: Floats,
    measured_ms: Floats,
    *,
    repeat_mape: float,
    samples: int,
    rejected: int,
    duration_s: float,
    drift: float,
) -> QualityCard:
    """Compare predictions and measurements of subnets, both (N,) with N >= 1."""
    errors = np.abs(predicted_ms - measured_ms) / measured_ms
    return QualityCard(
        mape=float(errors.mean()),
        p95_error=float(np.quantile(errors, 0.95)),
        worst_error=float(errors.max()),
        within_5pct=float((errors <= 0.05).mean()),
        within_10pct=float((errors <= 0.10).mean()),
        spearman=spearman(predicted_ms, measured_ms),
        kendall=kendall_tau(predicted_ms, measured_ms),
        repeat_mape=repeat_mape,
        subnets=len(errors),
        samples=samples,
        rejected=rejected,
        duration_s=duration_s,
        drift=drift,
        points=tuple(zip(predicted_ms.tolist(), measured_ms.tolist(), strict=True)),
    )


def _check_card_field(name: str, value: Any) -> None:
    count = name in ("subnets", "samples", "rejected")
    least = -1.0 if name in ("spearman", "kendall") else 0.0
    number = isinstance(value, int if count else int | float) and not isinstance(value, bool)
    if not number or not least <= value < math.inf:
        expected = "a whole number" if count else "a number"
        raise InvalidInput(f"quality card, {name}: got {value!r}, expected {expected} of at least {least:g}")


def _points(data: Any) -> tuple[tuple[float, float], ...]:
    if not isinstance(data, list | tuple):
        raise InvalidInput(f"quality card, points: got {data!r}, expected pairs of ms")
    for i, point in enumerate(data):
        pair = isinstance(point, list | tuple) and len(point) == 2
        if not pair or not all(type(ms) in (int, float) and 0 < ms < math.inf for ms in point):
            raise InvalidInput(
                f"quality card, points[{i}]: got {point!r}, expected [predicted, measured] in positive ms"
            )
    return tuple((float(predicted), float(measured)) for predicted, measured in data)
