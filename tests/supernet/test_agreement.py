"""Correlations against scipy, and intervals by what they promise."""

import numpy as np
import pytest
from scipy import stats

from bespoke.supernet.agreement import conformal_half_width, kendall_tau, spearman
from bespoke.supernet.errors import InvalidInput


@pytest.mark.parametrize("seed", range(3))
def test_correlations_equal_scipys_with_and_without_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for a, b in (
        (rng.normal(size=80), rng.normal(size=80)),
        (rng.integers(0, 8, 30).astype(float), rng.normal(size=30).round(1)),
    ):
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
        assert kendall_tau(a, b) == pytest.approx(stats.kendalltau(a, b).statistic)


def test_opposite_rankings_correlate_at_minus_one_and_constants_at_nothing() -> None:
    a = np.arange(5.0)
    assert (kendall_tau(a, -a), spearman(a, -a)) == pytest.approx((-1, -1))
    assert (kendall_tau(a, np.ones(5)), spearman(a, np.ones(5))) == (0, 0)


@pytest.mark.parametrize("correlation", [kendall_tau, spearman])
def test_unequal_lengths_are_refused(correlation: object) -> None:
    with pytest.raises(InvalidInput, match=r"\(3,\) and \(4,\)"):
        correlation(np.ones(3), np.ones(4))  # type: ignore[operator]


def test_the_half_width_is_the_right_order_statistic() -> None:
    residuals = np.arange(1.0, 100.0) * np.where(np.arange(99) % 2, 1, -1)
    assert conformal_half_width(residuals) == 90
    assert conformal_half_width(residuals[:5]) == 5
    with pytest.raises(InvalidInput, match="N >= 1"):
        conformal_half_width([])


def test_the_interval_covers_what_it_promises() -> None:
    rng = np.random.default_rng(0)
    errors = rng.normal(0, 0.05, (400, 21))
    covered = [abs(row[20]) <= conformal_half_width(row[:20]) for row in errors]
    assert 0.86 <= np.mean(covered) <= 0.95
