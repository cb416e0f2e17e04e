"""Fits an accuracy predictor by one of several learners, and says how good it is.

The interval is split conformal (Lei et al., Distribution-Free Predictive Inference for Regression, 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bespoke.predictors.accuracy import MlpPredictor
from bespoke.predictors.gaussian import MOST_EXAMPLES, GaussianPredictor
from bespoke.predictors.kriging import krige
from bespoke.predictors.mlp import ensemble
from bespoke.supernet.agreement import conformal_half_width, kendall_tau
from bespoke.supernet.architecture import Genomes, SearchSpace
from bespoke.supernet.errors import InvalidInput, NotFound

SMALLEST_SET = 20

FittedPredictor = GaussianPredictor | MlpPredictor
Learner = Callable[[SearchSpace, Genomes, NDArray[np.float64], int], FittedPredictor]
"""From a space, genomes (N, G), their top-1 (N,) and a seed to a predictor without an interval."""
Measured = tuple[Genomes, NDArray[np.float64]]
"""Genomes of shape (N, G) and their top-1 in [0, 1], shape (N,)."""

LEARNERS: Mapping[str, Learner] = {"gaussian": krige, "mlp": ensemble}
LEARNER, BEYOND_MOST = "gaussian", "mlp"
"""The best in ``python -m benchmarks.predictor``, and what many examples are fitted with."""


def learner_of(examples: int, name: str | None = None) -> Learner:
    """What fits a predictor on so many examples.

    Args:
        examples: How many there are.
        name: One of ``LEARNERS``; the best that can be fitted on so many unless given.

    Raises:
        NotFound: There is no learner of that name.
        InvalidInput: It cannot be fitted on so many.
    """
    if name is None:
        return LEARNERS[LEARNER if examples <= MOST_EXAMPLES else BEYOND_MOST]
    if name not in LEARNERS:
        raise NotFound("learner", name, sorted(LEARNERS))
    if name == LEARNER and examples > MOST_EXAMPLES:
        raise InvalidInput(
            f"learner {name!r}: got {examples} subnets, expected {MOST_EXAMPLES} at most, since its work "
            f"grows with their cube; take {BEYOND_MOST!r}"
        )
    return LEARNERS[name]


def fit(
    space: SearchSpace,
    genomes: Genomes,
    top1: NDArray[np.float64],
    seed: int = 0,
    *,
    held_out: Measured | None = None,
    learner: Learner = LEARNERS[LEARNER],
) -> FittedPredictor:
    """Fit a predictor on measured architectures.

    Args:
        space: The space of the genomes.
        genomes: (N, G).
        top1: Measured top-1 in [0, 1], shape (N,).
        seed: Decides all that is drawn.
        held_out: Examples the fit never sees, for the interval; by default a fifth of the given
            ones is set aside.
        learner: Makes the predictor: one of ``LEARNERS``, or your own.

    Returns:
        The predictor, with ``kendall_tau`` and ``rmse`` on the held-out examples in its card.

    Raises:
        InvalidInput: Too few examples, or values that are no shares.
    """
    _check(genomes, top1)
    if held_out is None:
        order = np.random.default_rng(seed).permutation(len(top1))
        aside, rest = order[: len(top1) // 5], order[len(top1) // 5 :]
        held_out, genomes, top1 = (genomes[aside], top1[aside]), genomes[rest], top1[rest]
    draft = learner(space, genomes, top1, seed)
    predicted = draft.top1(held_out[0])
    card = {
        "kendall_tau": round(kendall_tau(predicted, held_out[1]), 6),
        "rmse": round(rmse(predicted, held_out[1]), 8),
        "fitted_on": len(top1),
        "held_out": len(held_out[1]),
        "seed": seed,
    }
    return replace(draft, half_width=conformal_half_width(predicted - held_out[1]), card=card)


def cross_predictions(
    space: SearchSpace,
    genomes: Genomes,
    top1: NDArray[np.float64],
    seed: int = 0,
    *,
    folds: int = 5,
    learner: Learner = LEARNERS[LEARNER],
) -> NDArray[np.float64]:
    """Predict each example by a predictor that was fitted on the other folds, shape (N,).

    Args:
        space: The space of the genomes.
        genomes: (N, G).
        top1: Measured top-1 in [0, 1], shape (N,).
        seed: Decides the folds and the fits.
        folds: Into how many parts the examples are divided.
        learner: Makes the predictors.

    Raises:
        InvalidInput: Too few examples, or values that are no shares.
    """
    _check(genomes, top1)
    order = np.random.default_rng([seed, 5]).permutation(len(top1))
    predicted = np.empty(len(top1))
    for number, left_out in enumerate(np.array_split(order, folds)):
        rest = np.setdiff1d(order, left_out)
        predicted[left_out] = learner(space, genomes[rest], top1[rest], seed + number).top1(genomes[left_out])
    return predicted


def rmse(predicted: NDArray[np.float64], measured: NDArray[np.float64]) -> float:
    """Root of the mean squared error."""
    return float(np.sqrt(np.mean((np.asarray(predicted) - np.asarray(measured)) ** 2)))


def _check(genomes: Genomes, top1: NDArray[np.float64]) -> None:
    if len(genomes) != len(top1) or len(top1) < SMALLEST_SET:
        raise InvalidInput(
            f"got {len(genomes)} genomes and {len(top1)} accuracies; "
            f"expected as many of both, {SMALLEST_SET} at least"
        )
    if not np.all((np.asarray(top1) >= 0) & (np.asarray(top1) <= 1)):
        raise InvalidInput("accuracies: expected shares from 0 to 1")
