"""Who is quarantined: agents whose sentinels keep disagreeing with the others'."""

from __future__ import annotations

from bespoke.service.quarantine import SENTINEL_SHARE, SENTINELS_IN_A_ROW, SentinelResult, failing


def results(agent: str, *factors: float) -> list[SentinelResult]:
    """One result of each of as many sentinels; sentinel i takes i + 1 ms on a healthy device."""
    return [SentinelResult(f"sentinel:{i}", agent, (i + 1) * factor) for i, factor in enumerate(factors)]


def test_an_agent_alone_is_never_judged() -> None:
    assert failing(results("one", 1, 2, 3, 4, 5)) == {}


def test_of_two_agents_the_slow_one_fails() -> None:
    slow, healthy = results("slow", 2.0, 2.0, 2.0), results("healthy", 1.0, 1.0, 1.0)
    for together in (slow + healthy, healthy + slow):
        (agent,) = failing(together)
        assert agent == "slow"
    assert "2.00, 2.00, 2.00 times" in failing(slow + healthy)["slow"]


def test_of_three_agents_one_that_is_too_fast_fails() -> None:
    together = [*results("a", 1, 1, 1), *results("b", 1.05, 1, 1), *results("fast", 0.5, 0.5, 0.5)]
    assert set(failing(together)) == {"fast"}


def test_one_good_sentinel_in_between_is_forgiven() -> None:
    together = results("healthy", 1, 1, 1, 1, 1) + results("noisy", 2, 2, 1, 2, 2)
    assert failing(together) == {}
    assert set(failing([*together, *results("noisy", 2)])) == {"noisy"}


def test_a_drift_within_the_share_is_no_failure() -> None:
    within = 1 + 0.9 * SENTINEL_SHARE
    together = results("healthy", 1, 1, 1) + results("warm", *[within] * SENTINELS_IN_A_ROW)
    assert failing(together) == {}


def test_many_results_of_a_bad_agent_do_not_outvote_the_others() -> None:
    bad = [result for _ in range(10) for result in results("bad", 3, 3, 3)]
    assert set(failing(bad + results("a", 1, 1, 1) + results("b", 1, 1, 1))) == {"bad"}
