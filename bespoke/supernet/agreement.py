"""How well predictions agree with measurements: rank correlations and conformal intervals."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bespoke.supernet.errors import InvalidInput

COVERAGE = 0.9
"""Share of future values that an interval is to contain."""


def kendall_tau(predicted: ArrayLike, seen: ArrayLike) -> float:
    """Kendall's tau-b: how alike two rankings are, from -1 to 1; ties count for neither.

    Args:
        predicted: (N,) numbers.
        seen: (N,) numbers.

    Returns:
        The correlation; 0 where one of the two is constant.

    Raises:
        InvalidInput: The two are not equally long.
    """
    a, b = _pair("kendall_tau", predicted, seen)
    above = np.triu_indices(len(a), 1)
    order_a, order_b = np.sign(a[:, None] - a)[above], np.sign(b[:, None] - b)[above]
    untied = math.sqrt(float(np.abs(order_a).sum()) * float(np.abs(order_b).sum()))
    return float((order_a * order_b).sum()) / untied if untied else 0.0


def spearman(predicted: ArrayLike, seen: ArrayLike) -> float:
    """Spearman's rank correlation, from -1 to 1; ties have their mean rank.

    Args:
        predicted: (N,) numbers.
        seen: (N,) numbers.

    Returns:
        The correlation; 0 where one of the two is constant.

    Raises:
        InvalidInput: The two are not equally long.
    """
    a, b = (_ranks(values) for values in _pair("spearman", predicted, seen))
    spread = a.std() * b.std() if len(a) else 0.0
    return float(((a - a.mean()) * (b - b.mean())).mean() / spread) if spread else 0.0


def conformal_half_width(residuals: ArrayLike, coverage: float = COVERAGE) -> float:
    """Half width of the split conformal interval around a prediction.

    Args:
        residuals: (N,) predicted minus measured (or the other way round, or relative to the
            prediction) of examples that were not fitted on; N >= 1.
        coverage: Share of future values that the interval holds, on average over data sets.

    Returns:
        The ceil((N + 1) coverage)-th smallest absolute residual. With fewer than 9 examples 90%
        cannot be promised: the largest is returned, which covers N / (N + 1).

    Raises:
        InvalidInput: There are no residuals.

    Source: Lei et al., Distribution-free predictive inference for regression (JASA 2018), 2.2.
    """
    ordered = np.sort(np.abs(np.asarray(residuals, np.float64)))
    if ordered.ndim != 1 or not len(ordered):
        raise InvalidInput(f"conformal_half_width: got shape {ordered.shape}, expected (N,) with N >= 1")
    rank = min(len(ordered), math.ceil((len(ordered) + 1) * coverage))
    return float(ordered[rank - 1])


def _pair(name: str, first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise InvalidInput(f"{name}: got shapes {a.shape} and {b.shape}, expected two of (N,)")
    return a, b


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], np.float64)
