"""Measuring, with a clock that the test winds, and for real."""

import gc
from collections.abc import Iterator

import numpy as np
import pytest

from bespoke.agent import OnnxRuntime, measure
from bespoke.agent.runtimes import Run
from bespoke.latency_tables import Timing
from bespoke.supernet.onnx import op_plan, random_weights, write_onnx
from bespoke.supernet.ops import Op


class Network:
    """Takes these milliseconds, one after another, the last one for ever; loading takes 7 ms."""

    def __init__(self, *durations_ms: float) -> None:
        self.durations_ms, self.now_ns, self.runs = durations_ms, 0, 0

    def clock(self) -> int:
        return self.now_ns

    def load(self) -> Run:
        self.now_ns += 7_000_000
        return self.run

    def run(self) -> None:
        ms = self.durations_ms[min(self.runs, len(self.durations_ms) - 1)]
        self.runs += 1
        self.now_ns += round(ms * 1e6)


def test_loading_and_the_first_run_are_cold() -> None:
    network = Network(13.0, 2.0)
    measured = measure(network.load, Timing(), network.clock)
    assert measured.cold_ms == 20
    assert set(measured.samples_ms) == {2.0}


def test_it_measures_both_long_and_often_enough() -> None:
    slow = Network(10.0)
    assert len(measure(slow.load, Timing(min_ms=5, min_runs=20), slow.clock).samples_ms) == 20
    fast = Network(1.0)
    assert len(measure(fast.load, Timing(min_ms=50, min_runs=5), fast.clock).samples_ms) == 50


def test_warming_up_goes_on_until_runs_are_steady() -> None:
    falling = Network(*(40.0 * 0.8**i for i in range(20)), 1.0)
    measured = measure(falling.load, Timing(warm_up_ms=50), falling.clock)
    assert measured.warm_up_runs > 15
    assert max(measured.samples_ms) == 1.0


def test_warming_up_ends_even_if_runs_never_are_steady() -> None:
    restless = Network(*([1.0, 1.0, 1.0, 1.0, 1.0, 3.0, 3.0, 3.0, 3.0, 3.0] * 200))
    measured = measure(restless.load, Timing(warm_up_ms=10), restless.clock)
    assert 50 <= measured.warm_up_runs <= 70


def test_short_networks_are_timed_several_runs_at_once() -> None:
    network = Network(0.004)
    measured = measure(network.load, Timing(min_ms=10, min_sample_ms=0.05, max_samples=10_000), network.clock)
    assert measured.runs_per_sample == 13
    assert measured.low_ms == measured.median_ms == pytest.approx(0.004)


def test_samples_do_not_become_too_many() -> None:
    network = Network(0.1)
    measured = measure(network.load, Timing(min_ms=200, max_samples=50), network.clock)
    assert measured.runs_per_sample == 40
    assert len(measured.samples_ms) == 50


def test_the_low_quantile_ignores_disturbed_runs() -> None:
    network = Network(*([2.0] * 6 + [2.0, 9.0] * 100))
    measured = measure(network.load, Timing(warm_up_ms=0, min_ms=100), network.clock)
    assert measured.low_ms == 2.0
    assert 2.0 <= measured.median_ms <= 9.0


@pytest.fixture
def collector() -> Iterator[None]:
    gc.enable()
    yield
    gc.enable()


def test_the_garbage_collector_rests_and_comes_back(collector: None) -> None:
    network, seen = Network(1.0), []

    def load() -> Run:
        seen.append(gc.isenabled())
        return network.load()

    measure(load, Timing(), network.clock)
    assert seen == [False]
    assert gc.isenabled()
    with pytest.raises(RuntimeError):
        measure(broken, Timing(), network.clock)
    assert gc.isenabled()


def broken() -> Run:
    raise RuntimeError("no memory")


@pytest.mark.parametrize(
    "op",
    [
        Op("conv", (16, 16, 3), 8, kernel=3, stride=2, activation="hswish"),
        Op("mbconv", (8, 8, 16), 16, kernel=5, mid_channels=48, se=True, activation="relu", skip=True),
        Op("pool", (4, 4, 32), 32),
        Op("linear", (1, 1, 32), 10),
    ],
    ids=lambda op: op.kind,
)
def test_real_ops_are_measured_in_onnxruntime(op: Op) -> None:
    plan = op_plan(op)
    model = write_onnx(plan, random_weights(plan))
    runtime = OnnxRuntime(threads=1)
    measured = measure(lambda: runtime.load(model), Timing(warm_up_ms=1, min_ms=2, min_runs=5))
    assert measured.cold_ms > 0
    assert np.isfinite(measured.samples_ms).all()
    assert min(measured.samples_ms) > 0


def test_slow_samples_are_counted_as_outliers_and_kept() -> None:
    network = Network(*([2.0] * 7 + [2.0] * 40 + [9.0]), 2.0)
    measured = measure(network.load, Timing(warm_up_ms=0, min_ms=200), network.clock)
    assert measured.rejected == 1
    assert 9.0 in measured.samples_ms


def test_a_clock_that_jumps_spoils_one_sample() -> None:
    hour_ms = 3.6e6
    network = Network(*([2.0] * 20), hour_ms, 2.0)
    measured = measure(network.load, Timing(warm_up_ms=0, min_ms=20, min_runs=30), network.clock)
    assert len(measured.samples_ms) == 30
    assert measured.rejected == 1
    assert measured.low_ms == measured.median_ms == 2.0
