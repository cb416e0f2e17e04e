"""Conditions: what changes from minute to minute, and goes with results instead of into the profile."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BYTES_PER_MIB = 2**20
KHZ_PER_MHZ = 1000
_CPUS = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Conditions:
    """The machine right now; None where it cannot be read.

    Attributes:
        frequency_mhz: Mean of the cores that measure.
        temperature_c: Of the hottest sensor.
        load: Processes that run or wait to run, mean over the last minute.
        free_memory_mib: What programs may still take.
        on_battery: Whether the power plug is out.
    """

    frequency_mhz: float | None = None
    temperature_c: float | None = None
    load: float | None = None
    free_memory_mib: int | None = None
    on_battery: bool | None = None


def read_conditions(cores: Sequence[int] = ()) -> Conditions:
    """Read what can be read.

    Args:
        cores: Those that measure; all of them where none are named.
    """
    psutil, frequency_mhz = _psutil(), _kernel_mhz(cores)
    if psutil is None:
        return Conditions(frequency_mhz=frequency_mhz, load=_load())
    return Conditions(
        frequency_mhz=_frequency_mhz(psutil, cores) if frequency_mhz is None else frequency_mhz,
        temperature_c=_temperature_c(psutil),
        load=_load(),
        free_memory_mib=int(psutil.virtual_memory().available // BYTES_PER_MIB),
        on_battery=_on_battery(psutil),
    )


def _psutil() -> Any:
    """The package, or None: an agent without it works, and knows less of its machine."""
    try:
        import psutil
    except ImportError:
        return None
    return psutil


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def _kernel_mhz(cores: Sequence[int]) -> float | None:
    """What the kernel tells of these very cores; None where it does not tell of each."""
    try:
        khz = [int((_CPUS / f"cpu{core}/cpufreq/scaling_cur_freq").read_text()) for core in cores]
    except (OSError, ValueError):
        return None
    return round(sum(khz) / len(khz) / KHZ_PER_MHZ, 1) if khz else None


def _frequency_mhz(psutil: Any, cores: Sequence[int]) -> float | None:
    """What psutil tells, which has one value for each group of cores that share a clock."""
    try:
        seen = psutil.cpu_freq(percpu=True)
    except (AttributeError, NotImplementedError, OSError, RuntimeError, ValueError):
        return None
    chosen = [seen[core].current for core in cores if core < len(seen)] or [s.current for s in seen]
    return round(sum(chosen) / len(chosen), 1) if chosen and min(chosen) > 0 else None


def _temperature_c(psutil: Any) -> float | None:
    try:
        sensors = psutil.sensors_temperatures()
    except (AttributeError, OSError, ValueError):
        return None
    # Sensors that are not wired up read 0 or nonsense.
    seen = [s.current for group in sensors.values() for s in group if s.current and 0 < s.current < 150]
    return round(max(seen), 1) if seen else None


def _on_battery(psutil: Any) -> bool | None:
    try:
        battery = psutil.sensors_battery()
    except (AttributeError, OSError, ValueError):
        return None
    return None if battery is None or battery.power_plugged is None else not battery.power_plugged
