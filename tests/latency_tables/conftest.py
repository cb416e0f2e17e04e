"""Tables with invented numbers: one latency per op that grows with its MACs."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bespoke.latency_tables import DeviceProfile, LatencyStat, LatencyTable
from bespoke.supernet.architecture import SearchSpace
from bespoke.supernet.cost import op_macs
from bespoke.supernet.spaces import space

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def profile() -> DeviceProfile:
    return DeviceProfile("board", "onnxruntime", "1.0", "CPUExecutionProvider", 1, "fp32", 1, {"cpu": "x"})


@pytest.fixture
def small() -> SearchSpace:
    return space("ofa-mobilenetv3-w1.0", (96, 128), 10)


@pytest.fixture
def filled(profile: DeviceProfile) -> Callable[[SearchSpace], LatencyTable]:
    def fill(of: SearchSpace) -> LatencyTable:
        ops = {op.key: op for slot in of.slots for op in slot.ops if op}
        stats = {}
        for key, op in ops.items():
            ms = 0.001 + op_macs(op) / 1e9
            stats[key] = LatencyStat(ms, 0.9 * ms, 1.1 * ms, 30, 1)
        return LatencyTable(profile, stats)

    return fill


@pytest.fixture
def note10() -> Path:
    folder = Path(os.environ.get("BESPOKE_OFFICIAL", REPOSITORY.parent / "shared" / "official")) / "note10"
    if not folder.is_dir():
        pytest.skip(f"no published Once-for-All tables in {folder}; set BESPOKE_OFFICIAL")
    return folder
