"""Corrections and cards, by construction."""

import numpy as np
import pytest

from bespoke.latency_tables.quality import (
    fit_correction,
    quality_card,
)


def subnets(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(1, 5, count), rng.uniform(5, 20, count)


@pytest.mark.parametrize(
    ("overhead", "scale", "weights"), [(0.0, 1.3, 0.0), (0.4, 1.1, 0.0), (-0.2, 1.2, 0.05)]
)
def test_an_exact_relation_is_found(overhead: float, scale: float, weights: float) -> None:
    sums, mb = subnets(12)
    correction, error = fit_correction(sums, mb, overhead + scale * sums + weights * mb)
    assert error == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(
        [correction.overhead_ms, correction.scale, correction.weights_ms_per_mb],
        [overhead, scale, weights],
        atol=1e-9,
    )


def test_one_disturbed_subnet_moves_nothing() -> None:
    sums, mb = subnets(12)
    measured = 0.3 + 1.2 * sums
    measured[4] *= 3
    correction, _ = fit_correction(sums, mb, measured)
    np.testing.assert_allclose([correction.overhead_ms, correction.scale], [0.3, 1.2], atol=1e-9)


def test_noise_is_not_amplified() -> None:
    sums, mb = subnets(12)
    measured = 1.25 * sums * (1 + np.random.default_rng(1).uniform(-0.02, 0.02, 12))
    correction, error = fit_correction(sums, mb, measured)
    np.testing.assert_allclose(correction.apply(sums, mb), 1.25 * sums, rtol=0.03)
    assert 0 < error < 0.03


def test_few_subnets_fit_a_scale_only() -> None:
    sums, mb = subnets(5)
    correction, _ = fit_correction(sums, mb, 0.3 + 1.2 * sums)
    assert (correction.overhead_ms, correction.weights_ms_per_mb) == (0, 0)
    assert 1.2 < correction.scale < 1.6


def test_more_work_never_makes_a_network_faster() -> None:
    sums, mb = subnets(10)
    correction, _ = fit_correction(sums, mb, 10 - sums)
    assert correction.scale > 0
    assert correction.weights_ms_per_mb >= 0
    assert (correction.apply(sums, mb) > 0).all()


def test_one_subnet_gives_a_scale() -> None:
    correction, error = fit_correction(np.array([2.0]), np.array([5.0]), np.array([3.0]))
    assert correction.scale == pytest.approx(1.5)
    assert error == np.inf


def test_equal_subnets_give_a_scale() -> None:
    same = np.full(6, 2.0)
    correction, _ = fit_correction(same, same, np.full(6, 3.0))
    assert correction.apply(same, same) == pytest.approx(np.full(6, 3.0))


def test_the_card_counts_errors_against_the_measurement() -> None:
    measured = np.array([1.0, 2.0, 4.0, 8.0])
    predicted = measured * np.array([1.0, 1.04, 0.92, 1.2])
    card = quality_card(
        predicted, measured, repeat_mape=0.01, samples=9, rejected=1, duration_s=2.0, drift=0.03
    )
    assert card.mape == pytest.approx((0 + 0.04 + 0.08 + 0.2) / 4)
    assert card.worst_error == pytest.approx(0.2)
    assert (card.within_5pct, card.within_10pct, card.subnets) == (0.5, 0.75, 4)
    assert (card.spearman, card.kendall) == pytest.approx((1, 1))
