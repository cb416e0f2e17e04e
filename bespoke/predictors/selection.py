"""The winner's curse: by how much a search's choice is predicted too high.

Of many architectures the one with the highest prediction is more often than not one whose
prediction is too high, and the more a predictor errs, the more so. What is measured here is the
mean error of those that win simulated searches: in each the candidates are architectures of about
the same price, predicted by a predictor that was fitted without them.

Source: Smith & Winkler, The optimizer's curse (Management Science 2006).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bespoke.supernet.errors import InvalidInput

BANDS = 5
"""Searches are limited in price; so are the simulated ones, each to a fifth of the architectures."""
DRAWS = 4000
"""The mean over the draws is then exact to about a hundredth of the errors' spread."""


def selection_error(
    prices: NDArray[np.float64],
    predicted: NDArray[np.float64],
    measured: NDArray[np.float64],
    seed: int = 0,
    *,
    candidates: int | None = None,
    bands: int = BANDS,
) -> float:
    """Mean of predicted less measured over the winners of simulated searches, in absolute top-1.

    Args:
        prices: What a search would limit, e.g. MACs, shape (N,).
        predicted: Of each architecture, by a predictor that never saw it, (N,).
        measured: Top-1 of each in [0, 1], (N,).
        seed: Of the draws.
        candidates: How many architectures each simulated search chooses from, drawn with
            replacement; as many as its band holds unless given.
        bands: Into how many equal parts architectures are divided by price.

    Raises:
        InvalidInput: Shapes differ, or there are fewer architectures than two a band.
    """
    if not len(prices) == len(predicted) == len(measured) or len(prices) < 2 * bands:
        raise InvalidInput(
            f"selection_error: got {len(prices)} prices, {len(predicted)} predictions and {len(measured)} "
            f"measurements; expected as many of each, {2 * bands} at least"
        )
    rng, errors = np.random.default_rng([seed, 4]), predicted - measured
    means = []
    for band in np.array_split(np.argsort(prices, kind="stable"), bands):
        drawn = band[rng.integers(0, len(band), (DRAWS // bands, candidates or len(band)))]
        winners = drawn[np.arange(len(drawn)), predicted[drawn].argmax(axis=1)]
        means.append(errors[winners].mean())
    return float(np.mean(means))
