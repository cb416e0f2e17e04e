"""Pre-flight: whether this machine, as it is now, is fit to measure."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from bespoke.agent.conditions import Conditions, read_conditions
from bespoke.agent.fingerprint import governor_and_driver

LEAST_MEMORY_MIB, LITTLE_MEMORY_MIB = 200, 500
"""The first is what an agent needs; with less than the second the system may swap."""
HOTTEST_C, HOT_C = 95.0, 80.0
"""At the first, processors throttle or switch off; many small boards throttle from the second."""
COARSEST_CLOCK_NS, COARSE_CLOCK_NS = 1_000_000, 1_000
"""A sample lasts 50 µs or more: a clock of 1 ms cannot tell it, one of 1 µs is off by 2% at worst."""
SPARE_LOAD = 0.5
"""Load beyond what leaves the measuring threads a core each; averages flutter by less."""
SLOW_GOVERNORS = ("powersave", "conservative")
GOVERNS_ITSELF = ("intel_pstate", "amd-pstate", "amd-pstate-epp")
"""Drivers whose ``powersave`` still rises to full speed under load."""


@dataclass(frozen=True)
class Preflight:
    """What was found, in words.

    Attributes:
        refused: Why nothing should be measured now; empty where nothing stands in the way.
        degraded: Why results will be worse than they could be; goes with every report.
    """

    refused: tuple[str, ...]
    degraded: tuple[str, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """All of them: what goes with the results where something was measured all the same."""
        return self.refused + self.degraded


def preflight(
    conditions: Conditions,
    *,
    threads: int,
    cores: int,
    usable_cores: int | None = None,
    governor: str = "",
    driver: str = "",
    clock_step_ns: int = 1,
    measuring: bool = False,
) -> Preflight:
    """Judge the conditions.

    Args:
        conditions: The machine now.
        threads: How many the runtime will use.
        cores: How many the machine has, all of which its load is spread over.
        usable_cores: How many of them this process may use; all where it is None.
        governor: The frequency governor; empty where there is none.
        driver: The governor's driver.
        clock_step_ns: The clock's smallest step.
        measuring: Whether the agent's own threads are part of the load already.
    """
    refused: list[str] = []
    degraded: list[str] = []
    memory, heat = conditions.free_memory_mib, conditions.temperature_c
    if memory is not None and memory < LITTLE_MEMORY_MIB:
        low = memory < LEAST_MEMORY_MIB
        (refused if low else degraded).append(f"memory: {memory} MiB free, {LITTLE_MEMORY_MIB} wanted")
    if heat is not None and heat >= HOT_C:
        (refused if heat >= HOTTEST_C else degraded).append(
            f"temperature: {heat:.0f} °C, below {HOT_C:.0f} wanted"
        )
    if clock_step_ns > COARSE_CLOCK_NS:
        coarse = f"clock: steps of {clock_step_ns / 1e3:.0f} µs, {COARSE_CLOCK_NS / 1e3:.0f} wanted"
        (refused if clock_step_ns >= COARSEST_CLOCK_NS else degraded).append(coarse)
    usable = cores if usable_cores is None else usable_cores
    if threads > usable:
        refused.append(f"threads: {threads} asked for, this process may use {usable} cores")
    others = (conditions.load or 0.0) - (threads if measuring else 0)
    if others > max(cores - threads, 0) + SPARE_LOAD:
        degraded.append(f"load: other work keeps {others:.1f} of {cores} cores busy, {threads} wanted free")
    if governor in SLOW_GOVERNORS and driver not in GOVERNS_ITSELF:
        degraded.append(f"governor: {governor} holds the frequency down, performance wanted")
    if conditions.on_battery:
        degraded.append("power: on battery, mains wanted")
    return Preflight(tuple(refused), tuple(degraded))


def judge_here(threads: int, *, measuring: bool = False) -> Preflight:
    """Judge this machine as it is now.

    Args:
        threads: How many the runtime will use.
        measuring: Whether the agent's own threads are part of the load already.
    """
    governor, driver = governor_and_driver()
    return preflight(
        read_conditions(),
        threads=threads,
        cores=os.cpu_count() or 1,
        usable_cores=_usable_cores(),
        governor=governor,
        driver=driver,
        clock_step_ns=clock_step_ns(),
        measuring=measuring,
    )


def _usable_cores() -> int | None:
    """How many cores this process may use; None where the system does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def clock_step_ns(clock: Callable[[], int] = time.perf_counter_ns, steps: int = 20) -> int:
    """The smallest step that a clock was seen to make, in nanoseconds.

    Args:
        clock: Monotonic, in nanoseconds.
        steps: How many steps to look at.
    """
    smallest = 0
    for _ in range(steps):
        before = now = clock()
        while now == before:
            now = clock()
        smallest = min(smallest or now - before, now - before)
    return smallest
