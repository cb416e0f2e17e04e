"""The fingerprint of a device: facts that decide how fast networks run, and none that name it.

Neither host names nor serial numbers nor addresses are read. Facts that change from minute to
minute (load, temperature, current frequency) stay out, so that an agent that restarts finds its
device again; they go with the results (``conditions``). A laptop on battery is another device than
the same one on mains.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

from bespoke import __version__
from bespoke.agent.conditions import read_conditions
from bespoke.agent.runtimes import RuntimeIdentity
from bespoke.latency_tables import DeviceProfile
from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.ops import PRECISIONS

Fact = str | int | float

_FREQUENCIES = Path("/sys/devices/system/cpu")
_CPU_INFO = Path("/proc/cpuinfo")
_OS_RELEASE = Path("/etc/os-release")
_DEVICE_TREE = Path("/proc/device-tree")
_BOARD = Path("/sys/class/dmi/id")
_POWER_PROFILE = Path("/sys/firmware/acpi/platform_profile")
_JETSON_POWER_MODE = Path("/var/lib/nvpmodel/status")

_FLAGS = (
    *("avx", "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "fma", "f16c", "sse4_2"),
    *("amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "asimdhp", "bf16", "fphp", "i8mm", "neon", "sve", "sve2"),
)
"""Instruction sets that kernels are chosen by; the rest of the flags tells kernels nothing."""


def fingerprint(runtime: RuntimeIdentity, pinned: bool = True) -> dict[str, Fact]:
    """Collect the facts; what cannot be read is left out.

    Args:
        runtime: What will run the networks.
        pinned: Whether the agent will pin itself to ``runtime.threads`` cores.
    """
    facts: dict[str, Fact | None] = {
        "machine": platform.machine(),
        "system": platform.system(),
        "kernel": platform.release(),
        "os": _os_name(),
        "python": platform.python_version(),
        "agent": __version__,
        "cores": os.cpu_count(),
        "affinity": _affinity(runtime.threads if pinned else 0),
        "memory_gib": _memory_gib(),
    }
    facts |= _cpu() | _board() | _frequency() | _power()
    return {name: value for name, value in facts.items() if value not in (None, "")}


def device_profile(
    name: str, runtime: RuntimeIdentity, pinned: bool = True, precision: str = "fp32"
) -> DeviceProfile:
    """The profile of this machine.

    Args:
        name: A label for people.
        runtime: What will run the networks.
        pinned: Whether the agent will pin itself to ``runtime.threads`` cores.
        precision: Of the networks that it will run: ``fp32`` or ``int8``.

    Raises:
        InvalidInput: There is no such precision.
    """
    if precision not in PRECISIONS:
        raise InvalidInput(f"precision: got {precision!r}, expected one of {', '.join(PRECISIONS)}")
    return DeviceProfile(
        device=name,
        runtime=runtime.name,
        runtime_version=runtime.version,
        provider=runtime.provider,
        threads=runtime.threads,
        precision=precision,
        batch=1,
        fingerprint=fingerprint(runtime, pinned),
    )


def _cpu() -> dict[str, Fact | None]:
    """Model and flags from the kernel's table; x86 and Arm name them differently."""
    fields = dict(_fields(_CPU_INFO, ":"))
    model = fields.get("model name") or fields.get("Model") or platform.processor()
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    part = fields.get("CPU part")
    return {
        "cpu": model,
        "cpu_part": f"{fields.get('CPU implementer', '')}:{part}" if part else None,
        "cpu_flags": " ".join(sorted(set(_FLAGS) & set(flags))),
    }


def _board() -> dict[str, Fact | None]:
    """Board and system on a chip: the device tree of Arm boards, the firmware's table elsewhere."""
    words = _read(_DEVICE_TREE / "compatible").strip("\0").split("\0")
    maker, board = (_read(_BOARD / f"board_{part}") for part in ("vendor", "name"))
    return {
        "board": _read(_DEVICE_TREE / "model").strip("\0") or f"{maker} {board}".strip(),
        "soc": words[-1],
    }


def _frequency() -> dict[str, Fact | None]:
    folder = _FREQUENCIES / "cpu0" / "cpufreq"
    ranges = {"min": _read(folder / "cpuinfo_min_freq"), "max": _read(folder / "cpuinfo_max_freq")}
    megahertz: dict[str, Fact | None] = {
        f"frequency_{end}_mhz": int(text) // 1000 for end, text in ranges.items() if text.isdigit()
    }
    governor, driver = governor_and_driver()
    return megahertz | {
        "governor": governor,
        "governor_driver": driver,
        "boost": _read(_FREQUENCIES / "cpufreq" / "boost"),
        "smt": _read(_FREQUENCIES / "smt" / "active"),
    }


def governor_and_driver() -> tuple[str, str]:
    """The frequency governor of the first core and its driver; empty where there is none."""
    folder = _FREQUENCIES / "cpu0" / "cpufreq"
    return _read(folder / "scaling_governor"), _read(folder / "scaling_driver")


def _power() -> dict[str, Fact | None]:
    """The chosen power mode; and whether mains feed a machine that also has a battery."""
    on_battery = read_conditions().on_battery
    plug = {None: None, True: "battery", False: "mains"}[on_battery]
    return {"power_mode": _read(_POWER_PROFILE) or _read(_JETSON_POWER_MODE), "power": plug}


def _affinity(pinned: int) -> str | None:
    """The cores that the agent may use, e.g. ``0,1,2,3``; or ``pinned 1``."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    allowed = os.sched_getaffinity(0)
    if 0 < pinned <= len(allowed):
        return f"pinned {pinned}"
    return ",".join(map(str, sorted(allowed)))


def _memory_gib() -> int | None:
    """Whole GiB: the exact figure changes with the kernel."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    except (AttributeError, OSError, ValueError):
        return None


def _os_name() -> str | None:
    name = dict(_fields(_OS_RELEASE, "=")).get("PRETTY_NAME")
    return name.strip('"') if name else None


def _fields(path: Path, separator: str) -> list[tuple[str, str]]:
    pairs = (line.partition(separator) for line in _read(path).splitlines())
    return [(name.strip(), value.strip()) for name, found, value in pairs if found]


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
