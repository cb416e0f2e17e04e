"""What is absurd, and what is only slow."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bespoke.latency_tables import LatencyTable, read_official
from bespoke.latency_tables.plausibility import latency_problem, odd_units
from bespoke.supernet.architecture import SearchSpace

Fill = Callable[[SearchSpace], LatencyTable]


@pytest.mark.parametrize("value", [1e-6, 0.01, 3, 60_000.0, np.float64(1.5)])
def test_latencies_pass(value: float) -> None:
    assert latency_problem(value) is None


@pytest.mark.parametrize(
    "value", [0, -1, float("nan"), float("inf"), 1e-9, 1e6, 10**400, "1", None, True, [1]]
)
def test_what_is_no_latency_is_told(value: object) -> None:
    assert "expected ms from" in (latency_problem(value) or "")


def test_an_op_in_another_unit_is_found_and_a_slow_one_is_not(small: SearchSpace, filled: Fill) -> None:
    ops_ms = {key: stat.median_ms for key, stat in filled(small).stats.items()}
    assert odd_units(ops_ms) == {}
    keys = sorted(ops_ms)
    slow = ops_ms | {key: 40 * ops_ms[key] for key in keys[::10]}
    assert odd_units(slow) == {}
    for factor in (1000, 1 / 1000):
        found = odd_units(ops_ms | {keys[5]: factor * ops_ms[keys[5]]})
        assert list(found) == [keys[5]]
        assert ops_ms[keys[5]] / 20 < found[keys[5]] < 20 * ops_ms[keys[5]]


def test_a_few_ops_are_not_compared(small: SearchSpace, filled: Fill) -> None:
    keys = list(filled(small).stats)[:8]
    assert odd_units({key: 10.0 ** (3 * i - 5) for i, key in enumerate(keys)}) == {}


def test_published_tables_are_plausible(note10: Path) -> None:
    table = read_official(sorted(note10.glob("*.yaml")))
    assert odd_units({key: stat.mean_ms for key, stat in table.stats.items()}) == {}
