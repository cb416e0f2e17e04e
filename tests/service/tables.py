"""Devices with latency tables that nobody had to measure: the arithmetic of the simulated agent."""

from __future__ import annotations

from typing import Any

from bespoke.client import Client
from bespoke.latency_tables import DeviceProfile, LatencyStat, LatencyTable
from bespoke.supernet.architecture import SearchSpace
from tests.service.agents import PROFILE, op_ms


def profile_of(precision: str = "fp32") -> DeviceProfile:
    return DeviceProfile.from_json({**PROFILE, "precision": precision})


def arithmetic_table(
    space: SearchSpace, profile: DeviceProfile, slower: float = 1.0, per_op_ms: float = 0.0
) -> LatencyTable:
    """A table of every op of a space; its 90% interval is 5% to either side."""
    ops = {op.key: op for slot in space.slots for op in slot.ops if op}
    ms = {key: slower * op_ms(op) + per_op_ms for key, op in ops.items()}
    return LatencyTable(profile, {key: LatencyStat(m, m, m, 20, 0) for key, m in ms.items()}, interval=0.05)


def profiled(
    client: Client,
    name: str,
    space: SearchSpace,
    *,
    supernet: str = "tiny",
    precision: str = "fp32",
    slower: float = 1.0,
    per_op_ms: float = 0.0,
) -> dict[str, Any]:
    """Enrol a device and import its table."""
    profile = profile_of(precision)
    device = client.create_device(name, profile.to_json())
    table = arithmetic_table(space, profile, slower, per_op_ms)
    client.import_latency_table(device["id"], supernet, table.to_json())
    return client.device(device["id"])
