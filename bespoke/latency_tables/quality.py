"""How well a table predicts whole subnets: the correction that is fitted, and the card that says so."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bespoke.latency_tables.plausibility import UNIT_FACTOR, is_number, latency_problem, short
from bespoke.supernet.agreement import kendall_tau, spearman
from bespoke.supernet.errors import InvalidInput

Floats = NDArray[np.float64]

FORMS = ((0,), (0, 1), (0, 2), (0, 3), (0, 1, 2), (0, 2, 3), (0, 1, 2, 3))
"""Parameters of a correction, simplest form first: 0 scale, 1 overhead, 2 weights, 3 count of ops."""
FEWEST_FOR_MORE = 6
"""With fewer subnets, only the scale is fitted."""
SUBNETS_PER_PARAMETER = 2
SIMPLER = 1.05
CAP = 3.0
LEAST_CAP = 0.01
"""A simpler form is taken where its mean leave-one-out error is at most ``SIMPLER`` times the least
one; for this, no error counts for more than ``CAP`` times the median one, or ``LEAST_CAP``."""
MOST_CANDIDATES = 20_000
ROUNDING = 1e-6
MOST_RESIDUALS = 4_000_000


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
            if not is_number(value):
                raise InvalidInput(f"correction, {name}: got {short(value)}, expected a finite number")
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


def fit_correction(
    sums_ms: Floats,
    weights_mb: Floats,
    measured_ms: Floats,
    ops: Floats | None = None,
    smallest_op_ms: float = 0.0,
) -> tuple[Correction, float]:
    """Fit a correction by least absolute relative deviations, which disturbed subnets hardly move.

    An optimum of a linear L1 problem passes through as many points as it has parameters, so all
    such combinations are tried (or ``MOST_CANDIDATES`` random ones, where there are more): up to
    half of the subnets may be grossly off, as long as the others agree. Of the forms in ``FORMS``,
    the simplest one is taken whose leave-one-out errors are about the least.

    Args:
        sums_ms: (N,) sums of the ops of each subnet, N >= 1.
        weights_mb: (N,) megabytes of weights of each.
        measured_ms: (N,) what was measured, positive.
        ops: (N,) number of ops of each; not a parameter where it is not given.
        smallest_op_ms: Of the table. What is taken back per op is at most this, so that no op
            makes a network faster.

    Returns:
        The correction, and its leave-one-out mean absolute relative error (infinite for N = 1).

    Source: Hawkins, The accuracy of elemental set approximations for regression (JASA 1993).
    """
    counts = np.zeros_like(sums_ms) if ops is None else ops
    columns = np.stack([sums_ms, np.ones_like(sums_ms), weights_mb, counts], axis=1) / measured_ms[:, None]
    enough = len(columns) if len(columns) >= FEWEST_FOR_MORE else 0
    forms = [form for form in FORMS if len(form) == 1 or SUBNETS_PER_PARAMETER * len(form) <= enough]
    fits = [_least_deviations(columns, form, smallest_op_ms) for form in forms]
    found = [fit for fit in fits if fit is not None]
    if not found:
        return Correction(), math.inf
    scale, overhead, weights, per_op, errors = _simplest(found)
    error = float(errors.mean()) if len(errors) else math.inf
    return Correction(overhead, scale, weights, per_op), error


def _simplest(fits: Sequence[tuple[Floats, Floats]]) -> tuple[float, float, float, float, Floats]:
    """The simplest fit that is about the best; an error beyond ``CAP`` typical ones tells no form apart."""
    cap = max(LEAST_CAP, CAP * min(float(np.median(errors)) if len(errors) else 0.0 for _, errors in fits))
    losses = [float(np.minimum(errors, cap).mean()) if len(errors) else 0.0 for _, errors in fits]
    chosen = next(i for i, loss in enumerate(losses) if loss <= SIMPLER * min(losses) + 1e-9)
    coefficients, errors = fits[chosen]
    scale, overhead, weights, per_op = coefficients.tolist()
    return scale, overhead, weights, per_op, errors


def _least_deviations(
    columns: Floats, form: tuple[int, ...], smallest_op_ms: float
) -> tuple[Floats, Floats] | None:
    """Coefficients (scale, overhead, weights, ops) of the form, and the leave-one-out errors.

    ``columns`` are divided by the measurement, so that every target is 1. None where no
    combination of points determines sensible coefficients.
    """
    chosen = _combinations(len(columns), len(form))
    unit = np.abs(columns).mean(axis=0)[list(form)]
    systems = columns[chosen][:, :, form] / np.where(unit > 0, unit, 1)
    solvable = np.abs(np.linalg.det(systems)) > 1e-10 if len(systems) else np.zeros(0, bool)
    chosen, systems = chosen[solvable], systems[solvable]
    coefficients = np.zeros((len(chosen), columns.shape[1]))
    coefficients[:, form] = np.linalg.solve(systems, np.ones((*systems.shape[:2], 1)))[:, :, 0] / unit
    sensible = _sensible(coefficients, columns, smallest_op_ms)
    chosen, coefficients = chosen[sensible], coefficients[sensible]
    if not len(chosen):
        return None
    residuals = np.abs(coefficients @ columns.T - 1)
    totals = residuals.sum(axis=1)
    left_out = []
    for i in range(len(columns)):
        others = ~(chosen == i).any(axis=1)
        if others.any():
            without = np.where(others, totals - residuals[:, i], np.inf)
            left_out.append(residuals[without.argmin(), i])
    return coefficients[totals.argmin()], np.array(left_out, np.float64)


def _combinations(count: int, size: int) -> NDArray[np.int64]:
    """Which points determine each candidate, shape (M, size): all of them, or random ones."""
    most = min(MOST_CANDIDATES, max(1, MOST_RESIDUALS // count))
    if math.comb(count, size) <= most:
        return np.array(list(itertools.combinations(range(count), size)), np.int64).reshape(-1, size)
    drawn = np.sort(np.random.default_rng(0).integers(0, count, (most, size)), axis=1)
    return drawn[(np.diff(drawn, axis=1) > 0).all(axis=1)]


def _sensible(coefficients: Floats, columns: Floats, smallest_op_ms: float) -> NDArray[np.bool_]:
    """Whether more work never makes a network faster, and at most half of a sum is taken back. (M,).

    The scale is such as ``table.checked`` takes for one of the same unit.
    """
    scale, overhead, weights, per_op = coefficients.T
    back = overhead[:, None] * columns[:, 1] + per_op[:, None] * columns[:, 3]
    kept = (back >= -scale[:, None] * columns[:, 0] / 2).all(axis=1)
    one_unit = (scale > 1 / UNIT_FACTOR) & (scale < UNIT_FACTOR)
    return one_unit & (weights >= 0) & (per_op >= -scale * smallest_op_ms) & kept


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
    least = -1.0 - ROUNDING if name in ("spearman", "kendall") else 0.0
    if not is_number(value, least) or (count and not isinstance(value, int)):
        expected = "a whole number" if count else "a number"
        raise InvalidInput(
            f"quality card, {name}: got {short(value)}, expected {expected} of at least {least:g}"
        )


def _points(data: Any) -> tuple[tuple[float, float], ...]:
    if not isinstance(data, list | tuple):
        raise InvalidInput(f"quality card, points: got {short(data)}, expected pairs of ms")
    for i, point in enumerate(data):
        pair = isinstance(point, list | tuple) and len(point) == 2
        if not pair or any(map(latency_problem, point)):
            raise InvalidInput(
                f"quality card, points[{i}]: got {short(point)}, expected [predicted, measured] in ms"
            )
    return tuple((float(predicted), float(measured)) for predicted, measured in data)
