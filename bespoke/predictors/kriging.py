"""Fits a Gaussian process on measured architectures, and says how unsure it is of others.

Its three numbers (how much top-1 varies, over how many choices, and how much of it is noise) are those
under which the measurements are likeliest. ``benchmarks/predictor.py`` measures it against other
learners.

Source: Rasmussen & Williams, Gaussian Processes for Machine Learning (2006), chapters 2 and 5.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from bespoke.predictors.accuracy import Encoding, default_encoding, one_hot
from bespoke.predictors.gaussian import GaussianPredictor
from bespoke.supernet.architecture import Genomes, SearchSpace

VARIANCES, LENGTHS, NOISES = (1e-2, 1e3), (1.0, 50.0), (1e-3, 2.0)
"""Where the three numbers are sought, top-1 being scaled to a variance of 1."""


@dataclass(frozen=True)
class _Process:
    """A fitted process, and the scale of its values."""

    regressor: GaussianProcessRegressor
    centre: float
    spread: float


def krige(
    space: SearchSpace,
    genomes: Genomes,
    top1: NDArray[np.float64],
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
    rows = _rows(space, encoding, genomes)
    fitted = _process(rows, top1)
    numbers = fitted.regressor.kernel_.get_params()
    weights = fitted.spread * numbers["k1__k1__constant_value"] * np.ravel(fitted.regressor.alpha_)
    length = float(numbers["k1__k2__length_scale"])
    return GaussianPredictor(space, encoding, rows.astype(np.uint8), weights, fitted.centre, length, 0.0)


def uncertainty(
    space: SearchSpace, genomes: Genomes, top1: NDArray[np.float64], among: Genomes
) -> NDArray[np.float64]:
    """How unsure a process fitted on measured architectures is of others.

    Args:
        space: The space of the genomes.
        genomes: What was measured, (N, G).
        top1: Measured top-1 in [0, 1], (N,).
        among: The others, (P, G).

    Returns:
        Standard deviations in absolute top-1, shape (P,).
    """
    encoding = default_encoding(space)
    fitted = _process(_rows(space, encoding, genomes), top1)
    _, deviations = fitted.regressor.predict(_rows(space, encoding, among), return_std=True)
    return np.asarray(fitted.spread * deviations)


def _process(rows: NDArray[np.float64], top1: NDArray[np.float64]) -> _Process:
    centre, spread = float(np.mean(top1)), float(np.std(top1)) or 1.0
    varies = ConstantKernel(1.0, VARIANCES) * RBF(5.0, LENGTHS)
    regressor = GaussianProcessRegressor(varies + WhiteKernel(0.3, NOISES))
    with warnings.catch_warnings():
        # A number at the end of its range is an answer here.
        warnings.simplefilter("ignore", ConvergenceWarning)
        regressor.fit(rows, (np.asarray(top1) - centre) / spread)
    return _Process(regressor, centre, spread)


def _rows(space: SearchSpace, encoding: Encoding, genomes: Genomes) -> NDArray[np.float64]:
    """One-hot rows, shape (N, F)."""
    table, count = encoding.features(space)
    return one_hot(space, (table, count), genomes, len(genomes))[:, :count].astype(np.float64)
