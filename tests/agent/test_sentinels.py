"""Sentinels: what counts as drift, and how often a window may be repeated."""

import pytest

from bespoke.agent import SentinelHistory
from bespoke.agent.sentinels import DRIFT, MOST_REPEATS, REMEMBERED, may_repeat


def history(*seen_ms: float) -> SentinelHistory:
    return SentinelHistory(tuple(seen_ms))


def test_the_first_window_is_compared_with_its_own_beginning() -> None:
    assert history().drift(2.0, 2.05) == 0
    assert history().drift(2.0, 2.5) == pytest.approx(0.25)


def test_a_drift_within_the_share_is_none() -> None:
    still = history(2.0, 2.0, 2.0, 2.0)
    assert still.drift(2.0 * (1 + 0.9 * DRIFT)) == 0
    assert still.drift(2.0 * (1 + 1.1 * DRIFT)) == pytest.approx(1.1 * DRIFT)
    assert still.drift(1.5, 2.0) == pytest.approx(-0.25)


def test_a_noisy_device_is_given_its_noise() -> None:
    noisy = history(2.0, 2.2, 1.8, 2.1, 1.9)
    assert noisy.tolerance > 0.2
    assert noisy.drift(2.3) == 0
    assert noisy.drift(4.0) == pytest.approx(1.0)


def test_one_odd_end_does_not_change_what_is_expected() -> None:
    assert history(2.0, 2.0, 9.0, 2.0, 2.0).expected_ms == 2.0
    assert history(2.0, 2.0, 9.0, 2.0, 2.0).tolerance == DRIFT


def test_old_ends_are_forgotten() -> None:
    seen = history()
    for i in range(20):
        seen = seen.after(float(i))
    assert seen.seen_ms == tuple(float(i) for i in range(20 - REMEMBERED, 20))


def test_repeats_are_bounded_for_a_window_and_for_all() -> None:
    assert may_repeat(0, 0, 0)
    assert not may_repeat(MOST_REPEATS, 0, 1000)
    assert not may_repeat(0, 2, 3)
    assert may_repeat(0, 2, 4)
