"""Corrections and cards, by construction."""

import numpy as np
import pytest
from sklearn.linear_model import HuberRegressor

from bespoke.latency_tables.quality import Correction, QualityCard, fit_correction, quality_card
from bespoke.supernet.errors import InvalidInput


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


def test_what_an_op_alone_pays_extra_is_taken_back() -> None:
    sums, mb = subnets(30)
    ops = np.random.default_rng(3).integers(18, 28, 30).astype(float)
    sums = sums + 0.05 * ops
    correction, error = fit_correction(sums, mb, 0.4 + 1.1 * sums - 0.02 * ops, ops, smallest_op_ms=0.05)
    assert error == pytest.approx(0, abs=1e-9)
    assert correction.ms_per_op == pytest.approx(-0.02)
    bounded, _ = fit_correction(sums, mb, 0.4 + 1.1 * sums - 0.02 * ops, ops, smallest_op_ms=0.01)
    assert bounded.ms_per_op >= -0.01 * bounded.scale


@pytest.mark.parametrize("seed", range(5))
def test_gross_outliers_move_it_less_than_they_move_hubers_regression(seed: int) -> None:
    """A third of the subnets is off by a factor of 2 to 8, all in one direction."""
    sums, mb = subnets(30, seed)
    rng = np.random.default_rng(100 + seed)
    true = 0.3 + 1.2 * sums + 0.02 * mb
    measured = true * (1 + rng.normal(0, 0.01, 30))
    measured[rng.permutation(30)[:10]] *= rng.uniform(2, 8, 10)
    correction, _ = fit_correction(sums, mb, measured, np.full(30, 20.0))
    ours = np.abs(correction.apply(sums, mb, 20.0) / true - 1)
    features = np.stack([sums, mb], axis=1)
    huber = HuberRegressor(max_iter=1000).fit(features, measured)
    assert ours.max() < 0.06
    assert ours.mean() < np.abs(huber.predict(features) / true - 1).mean()


def test_many_subnets_take_a_sample_of_candidates() -> None:
    sums, mb = subnets(300)
    measured = 0.3 + 1.2 * sums + 0.02 * mb
    correction, error = fit_correction(sums, mb, measured)
    assert error < 1e-9
    assert correction.weights_ms_per_mb == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"scale": -1.0}, "scale: got -1"), ({"overhead_ms": "1"}, "overhead_ms: got '1'"),
     ({"overhead_ms": float("nan")}, "overhead_ms: got nan"), ({"ms_per_op": True}, "ms_per_op"),
     ({"scale": 10**400}, "scale: got a huge number"), ({"factor": 1.0}, "factor")],
)  # fmt: skip
def test_a_wrong_correction_names_its_field(change: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Correction.from_json(Correction(0.1, 1.2, 0.3, 0.4).to_json() | change)


def test_a_correction_and_a_card_round_trip_and_read_older_ones() -> None:
    for correction in (Correction(0.1, 1.2, 0.3), Correction(0.1, 1.2, 0.3, -0.4)):
        assert Correction.from_json(correction.to_json()) == correction
    assert "ms_per_op" not in Correction().to_json()
    measured = np.array([1.0, 2.0, 4.0])
    card = quality_card(
        1.1 * measured, measured, repeat_mape=0.0, samples=3, rejected=0, duration_s=1.0, drift=0.0
    )
    assert QualityCard.from_json(card.to_json()) == card
    older = {name: value for name, value in card.to_json().items() if name not in ("points", "drift")}
    assert QualityCard.from_json(older).points == ()
    for wrong in ({"points": [[1.0]]}, {"points": [[0.0, 1.0]]}, {"mape": -0.1}, {"subnets": 2.5}, {"x": 1}):
        with pytest.raises(InvalidInput, match=next(iter(wrong))):
            QualityCard.from_json(card.to_json() | wrong)
