"""Measuring one network: warm-up until it is steady, then timed runs; raw samples come back."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from bespoke.agent.runtimes import Run
from bespoke.latency_tables import Timing
from bespoke.latency_tables.building import OUTLIER_MADS, SIGMA_PER_MAD
from bespoke.latency_tables.timing import LOW_QUANTILE

Clock = Callable[[], int]
"""A monotonic clock in nanoseconds."""

WINDOW_RUNS = 5
STEADY_WITHIN = 0.02
"""Warm is when the medians of two windows of runs behind each other differ by less."""
LONGEST_WARM_UP = 10
"""Times ``warm_up_ms``, after which measuring starts, steady or not."""
NS_PER_MS = 1e6


@dataclass(frozen=True)
class Measurement:
    """The samples of one network.

    Attributes:
        samples_ms: In the order in which they were taken; each the mean of ``runs_per_sample`` runs.
        cold_ms: Loading and the first run.
        warm_up_runs: Runs before the first sample.
        runs_per_sample: More than 1 for networks too short for the clock.
        frequency_mhz: Of the cores that measured, right after the last sample; None where unknown.
        temperature_c: Of the hottest sensor, at the same moment.
    """

    samples_ms: tuple[float, ...]
    cold_ms: float
    warm_up_runs: int
    runs_per_sample: int
    frequency_mhz: float | None = None
    temperature_c: float | None = None

    @property
    def median_ms(self) -> float:
        """Median of the samples."""
        return float(np.median(self.samples_ms))

    @property
    def low_ms(self) -> float:
        """2nd percentile of the samples: what a run costs when nothing disturbs it."""
        return float(np.quantile(self.samples_ms, LOW_QUANTILE))

    @property
    def rejected(self) -> int:
        """How many samples are outliers: slower than the median by more than five standard deviations.

        The deviation is estimated by the median absolute deviation, and is at least 1% of the
        median. The samples themselves are all kept: whoever makes a table of them decides.
        """
        samples = np.array(self.samples_ms)
        median = np.median(samples)
        deviation = SIGMA_PER_MAD * np.median(np.abs(samples - median))
        return int((samples > median + OUTLIER_MADS * max(deviation, 0.01 * median)).sum())


def measure(
    load: Callable[[], Run], timing: Timing | None = None, clock: Clock = time.perf_counter_ns
) -> Measurement:
    """Load a network and time it.

    The garbage collector rests meanwhile. The clock is read twice a sample; ``min_sample_ms``
    keeps what that costs (under a microsecond) below what matters.

    Args:
        load: Loads the network, e.g. ``lambda: runtime.load(model)``.
        timing: The stop rules.
        clock: Monotonic, in nanoseconds.
    """
    timing = timing or Timing()
    with _no_garbage_collection():
        start = clock()
        run = load()
        run()
        cold_ms = (clock() - start) / NS_PER_MS
        warm_up_runs, run_ms = _warm_up(run, timing, clock)
        batch = _runs_per_sample(run_ms, timing)
        samples: list[float] = []
        start = clock()
        while len(samples) * batch < timing.min_runs or clock() - start < timing.min_ms * NS_PER_MS:
            before = clock()
            for _ in range(batch):
                run()
            samples.append((clock() - before) / NS_PER_MS / batch)
    return Measurement(tuple(samples), cold_ms, warm_up_runs, batch)


def _warm_up(run: Run, timing: Timing, clock: Clock) -> tuple[int, float]:
    """Run until warm; returns the number of runs and the last window's median in ms."""
    start, runs, before = clock(), 0, math.nan
    while True:
        window = []
        for _ in range(WINDOW_RUNS):
            began = clock()
            run()
            window.append((clock() - began) / NS_PER_MS)
        runs += WINDOW_RUNS
        now = sorted(window)[WINDOW_RUNS // 2]
        elapsed_ms = (clock() - start) / NS_PER_MS
        steady = abs(now - before) <= STEADY_WITHIN * before
        before = now
        if elapsed_ms >= timing.warm_up_ms and (steady or elapsed_ms >= LONGEST_WARM_UP * timing.warm_up_ms):
            return runs, now


def _runs_per_sample(run_ms: float, timing: Timing) -> int:
    """So many that a sample is long enough for the clock, and that samples do not become too many."""
    if run_ms <= 0:
        return timing.max_samples
    for_clock = timing.min_sample_ms / run_ms
    for_count = timing.min_ms / timing.max_samples / run_ms
    return max(1, math.ceil(max(for_clock, for_count)))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
