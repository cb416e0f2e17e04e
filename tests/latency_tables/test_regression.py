"""The regression against what it is by definition."""

import numpy as np
import pytest

from bespoke.latency_tables.regression import (
    NOISE,
    _posterior,
    fit_prices,
    log_evidence,
    near,
    relative_features,
    shape_weights,
)

RNG = np.random.default_rng(0)
PRIOR = RNG.uniform(0.5, 2, 12)
COUNTS = RNG.integers(0, 3, (20, 12)).astype(np.float64)
LIKENESSES = {"pair": np.repeat(np.eye(6), 2, axis=0), "op": np.eye(12)}
SCALES = {"pair": 0.3, "op": 0.1, NOISE: 0.05}
LATENCY = COUNTS @ (PRIOR * (1 + 0.3 * np.repeat(RNG.standard_normal(6), 2)))


def test_solving_over_networks_and_over_traits_gives_the_same() -> None:
    target, scales = LATENCY / (COUNTS @ PRIOR) - 1, np.array(list(SCALES.values()))
    shares = COUNTS * (PRIOR / (COUNTS @ PRIOR)[:, None])
    loadings = [shares @ traits for traits in LIKENESSES.values()]
    for kept in (np.arange(20) < 10, np.arange(20) < 19):
        features = relative_features(PRIOR, LIKENESSES, COUNTS, SCALES)
        inside = features[kept]
        expected = np.linalg.solve(inside.T @ inside + 0.05**2 * np.eye(18), inside.T @ target[kept])
        weights, errors = _posterior(loadings, target, kept, scales)
        assert weights == pytest.approx(expected)
        assert errors[~kept] == pytest.approx((target - features @ weights)[~kept])


def test_left_out_errors_are_those_of_fits_without_the_network() -> None:
    target, scales = LATENCY / (COUNTS @ PRIOR) - 1, np.array(list(SCALES.values()))
    shares = COUNTS * (PRIOR / (COUNTS @ PRIOR)[:, None])
    loadings = [shares @ traits for traits in LIKENESSES.values()]
    for size in (12, 20):
        kept = np.arange(20) < size
        _, errors = _posterior(loadings, target, kept, scales)
        for i in (0, 5, 11):
            _, without = _posterior(loadings, target, kept & (np.arange(20) != i), scales)
            assert errors[i] == pytest.approx(without[i])


def test_prices_follow_the_evidence_and_stay_positive() -> None:
    fit = fit_prices(PRIOR, LIKENESSES, COUNTS, LATENCY, scales=SCALES, reject=False)
    assert np.abs(COUNTS @ fit.prices_ms / LATENCY - 1).mean() < 0.05
    few = fit_prices(PRIOR, LIKENESSES, COUNTS[:1] * 0 + np.eye(12)[:1], np.array([1e-3]), scales=SCALES)
    assert few.prices_ms.min() > 0
    assert few.prices_ms[2:] / few.prices_ms[2] == pytest.approx(PRIOR[2:] / PRIOR[2])


def test_the_evidence_prefers_the_scales_that_made_the_data() -> None:
    there, nowhere = ({**SCALES, "pair": scale} for scale in (0.3, 1e-3))
    arguments = (PRIOR, LIKENESSES, COUNTS, LATENCY)
    assert log_evidence(*arguments, there) > log_evidence(*arguments, nowhere)


def test_the_worth_of_quantities_is_found_despite_outliers() -> None:
    quantities = RNG.uniform(0, 1, (60, 3)) * [1.0, 1e6, 1e3]
    latency = quantities @ [2.0, 3e-6, 0.0] + 0.5 * quantities[:, 0]
    latency[[3, 30]] *= [50, 0.02]
    assert shape_weights(quantities, latency) == pytest.approx([2.5, 3e-6, 0], rel=0.05, abs=1e-4)


def test_only_what_is_grossly_off_is_not_near() -> None:
    latency = np.array([1.0, 1.4, 0.7, 1.1, 0.9, 1.2, 40.0])
    assert near(np.ones(7), latency).tolist() == [True] * 6 + [False]
