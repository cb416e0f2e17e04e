"""Fits a Gaussian process on measured architectures, and says how unsure it is of others.

How much top-1 varies, how much of it is noise, and how much each choice matters (the length of its feature)
are what the measurements make likeliest. Few measurements cannot tell a length for every feature: the
lengths are drawn to a common one, which is sought first. ``benchmarks/predictor.py`` measures it against
other learners.

Source: Rasmussen & Williams, Gaussian Processes for Machine Learning (2006), chapters 2 and 5; the gradients
in the lengths are two matrix products, since features are 0 or 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from bespoke.predictors.accuracy import Encoding, default_encoding, one_hot
from bespoke.predictors.blas import one_thread
from bespoke.predictors.gaussian import RATE, GaussianPredictor, distances
from bespoke.supernet.architecture import Genomes, SearchSpace

VARIANCE, NOISE, LENGTH = (1e-2, 1e3), (1e-3, 2.0), (1.0, 50.0)
"""Where the numbers are sought, top-1 being scaled to a variance of 1."""

COMMON_START = (1.0, 0.3, 5.0)
"""Variance, noise and length to begin with."""

SPREAD = 0.5
"""Of the logarithms of the lengths around the common one. On 800 examples with soft edges, 200 unseen: tau
0.84 with one length, 0.88 with this spread, 0.87 with any lengths; on 100: 0.72, 0.75 and 0.71."""

ITERATIONS = 60

Rows = NDArray[np.float64]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class _Process:
    """A fitted process.

    Attributes:
        rows: Features of the examples, 0 or 1, (N, F).
        rates: Of the features, in whole numbers (see ``gaussian``), (F,).
        variance: Of the values, scaled.
        solve: From values (N, ...) to the inverse of the examples' covariance times these.
        weights: Of the examples, (N,): ``solve`` of their scaled values.
        centre: The examples' mean,
        spread: and standard deviation.
    """

    rows: Rows
    rates: NDArray[np.uint16]
    variance: float
    solve: Callable[[Values], Values]
    weights: Values
    centre: float
    spread: float


def krige(
    space: SearchSpace,
    genomes: Genomes,
    top1: Values,
    seed: int = 0,
    *,
    encoding: Encoding | None = None,
) -> GaussianPredictor:
    """Fit a predictor on all examples; with none left to judge it by, it has no interval and no card.

    Args:
        space: The space of the genomes.
        genomes: (N, G).
        top1: Measured top-1 in [0, 1], shape (N,).
        seed: Not needed: nothing is drawn. Every learner takes one.
        encoding: Features; ``default_encoding(space)`` unless given.
    """
    encoding = encoding or default_encoding(space)
    with one_thread():
        fitted = _process(_rows(space, encoding, genomes), top1)
    weights = fitted.spread * fitted.variance * fitted.weights
    centres = fitted.rows.astype(np.uint8)
    return GaussianPredictor(space, encoding, centres, weights, fitted.rates, fitted.centre, 0.0)


def uncertainty(space: SearchSpace, genomes: Genomes, top1: Values, among: Genomes) -> Values:
    """How unsure a process fitted on measured architectures is of others.

    Args:
        space: The space of the genomes.
        genomes: What was measured, (N, G).
        top1: Measured top-1 in [0, 1], (N,).
        among: The others, (P, G).

    Returns:
        Standard deviations in absolute top-1, shape (P,); of top-1 itself, without the noise.
    """
    encoding = default_encoding(space)
    with one_thread():
        fitted = _process(_rows(space, encoding, genomes), top1)
        between = _similarities(_rows(space, encoding, among), fitted.rows, fitted.rates) * fitted.variance
        known = (between * fitted.solve(between.T).T).sum(axis=1)
    return np.asarray(fitted.spread * np.sqrt(np.maximum(fitted.variance - known, 0)))


def _process(rows: Rows, top1: Values) -> _Process:
    centre, spread = float(np.mean(top1)), float(np.std(top1)) or 1.0
    values = (np.asarray(top1) - centre) / spread
    numbers = _likeliest(rows, values)
    rates = np.round(RATE / (2 * np.exp(2 * numbers[2:]))).astype(np.uint16)
    variance, noise = np.exp(numbers[:2]).tolist()
    # With the rates as they are kept: rounded.
    factor = cho_factor(variance * _similarities(rows, rows, rates) + noise * np.eye(len(rows)), lower=True)
    solve = partial(cho_solve, factor)
    return _Process(rows, rates, variance, solve, solve(values), centre, spread)


def _likeliest(rows: Rows, values: Values) -> Values:
    """Logarithms of the variance, the noise and the lengths, (2 + F,)."""
    features = rows.shape[1]

    def common(numbers: Values) -> tuple[float, Values]:
        lengths = np.full(features, numbers[2])
        cost, slopes = _unlikeliness(np.append(numbers[:2], lengths), rows, values, lengths)
        return cost, np.append(slopes[:2], slopes[2:].sum())

    bounds = np.log([VARIANCE, NOISE, LENGTH])
    options = {"maxiter": ITERATIONS}
    found = minimize(
        common, np.log(COMMON_START), jac=True, method="L-BFGS-B", bounds=bounds, options=options
    )
    lengths = np.full(features, found.x[2])
    own = minimize(
        _unlikeliness, np.append(found.x[:2], lengths), args=(rows, values, lengths), jac=True,
        method="L-BFGS-B", bounds=[*bounds[:2], *[bounds[2]] * features], options=options,
    )  # fmt: skip
    return np.asarray(own.x)


def _unlikeliness(numbers: Values, rows: Rows, values: Values, common: Values) -> tuple[float, Values]:
    """How unlikely values and lengths are: the negative logarithm but for a constant, and its gradient."""
    variance, noise, lengths = np.exp(numbers[0]), np.exp(numbers[1]), numbers[2:]
    steepness = np.exp(-2 * lengths)
    covariance = variance * np.exp(-0.5 * distances(rows, rows, steepness))
    factor = cho_factor(covariance + noise * np.eye(len(rows)), lower=True)
    weights, inverse = cho_solve(factor, values), cho_solve(factor, np.eye(len(rows)))
    away = (lengths - common) / SPREAD
    cost = 0.5 * values @ weights + np.log(np.diag(factor[0])).sum() + 0.5 * away @ away
    slope = np.outer(weights, weights) - inverse
    pull = slope * covariance
    apart = 2 * (rows.T @ pull.sum(axis=1) - ((pull @ rows) * rows).sum(axis=0))
    by_length = -0.5 * apart * steepness + away / SPREAD
    return float(cost), np.array([-0.5 * pull.sum(), -0.5 * noise * np.trace(slope), *by_length])


def _similarities(rows: Rows, others: Rows, rates: NDArray[np.uint16]) -> Values:
    """Of each row to each other one, in [0, 1], (N, M)."""
    return np.asarray(np.exp(-distances(rows, others, rates.astype(np.float64)) / RATE))


def _rows(space: SearchSpace, encoding: Encoding, genomes: Genomes) -> Rows:
    """One-hot rows, shape (N, F)."""
    table, count = encoding.features(space)
    return one_hot(space, (table, count), genomes, len(genomes))[:, :count].astype(np.float64)
