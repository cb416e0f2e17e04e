"""A simulated agent: leases and reports through the client, with timings of a known device."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from bespoke.client import Client
from bespoke.latency_tables import ProfilingEntry
from bespoke.predictors import read_predictor
from bespoke.search import table_plan
from bespoke.supernet import zoo
from bespoke.supernet.architecture import SearchSpace, read_architecture
from bespoke.supernet.cost import op_macs
from bespoke.supernet.ops import Op, parse_key

PROFILE = {
    "device": "simulated",
    "runtime": "none",
    "runtime_version": "1.0",
    "provider": "arithmetic",
    "threads": 1,
    "precision": "fp32",
    "batch": 1,
    "fingerprint": {"cores": 1, "clock_ghz": 1.5, "maker": "nobody"},
}
SAMPLES = 20
PATIENCE_S = 240


def op_ms(op: Op) -> float:
    """A device that does a million MACs a millisecond, and takes 5 microseconds an op."""
    return op_macs(op) / 1e6 + 0.005


@lru_cache
def true_ms(zoo_folder: Path, effort: str) -> Mapping[str, float]:
    """What everything in the plan of ``tiny`` takes there, by its id; making the plan takes ten searches."""
    tiny = zoo.entry("tiny", zoo_folder)
    plan = table_plan(tiny.space, read_predictor(tiny.folder / "predictor.json", tiny.space), effort)
    return {entry.id: _true_ms(tiny.space, entry) for entry in plan.entries}


def _true_ms(space: SearchSpace, entry: ProfilingEntry) -> float:
    if entry.key is not None:
        return op_ms(parse_key(entry.key))
    plan = space.plan(read_architecture(space, entry.architecture or {}))
    return sum(op_ms(op) for op in plan.ops)


class SimulatedAgent:
    """Measures for ``tiny`` by arithmetic, with a little noise; it knows the plan, so it runs no files."""

    def __init__(
        self,
        client: Client,
        device_id: str,
        zoo_folder: Path,
        effort: str = "quick",
        *,
        name: str = "simulated",
        slower: float = 1.0,
    ) -> None:
        tiny = zoo.entry("tiny", zoo_folder)
        self.client, self.device_id, self.space = client, device_id, tiny.space
        self.name, self.slower = name, slower
        self.rng = np.random.default_rng(0)
        self.true_ms = true_ms(zoo_folder, effort)

    def measure(self, entry: dict[str, Any]) -> dict[str, Any]:
        true_ms = self.slower * self.true_ms[entry["entry_id"]]
        return {
            "entry_id": entry["entry_id"],
            "round": entry["round"],
            "samples_ms": (true_ms * (1 + np.abs(self.rng.normal(0, 0.005, SAMPLES)))).tolist(),
            "cold_ms": true_ms * 10,
            "error": None,
        }

    def lease(self, entries: int = 64) -> dict[str, Any]:
        """Wait for work."""
        until = time.monotonic() + PATIENCE_S
        while (lease := self.client.lease(self.device_id, self.name, entries)) is None:
            assert time.monotonic() < until, "no work came"
            time.sleep(0.1)
        return lease

    def report(self, lease: dict[str, Any]) -> dict[str, Any]:
        """Measure a whole lease and hand it in."""
        return self.client.report(lease["lease_id"], [self.measure(entry) for entry in lease["entries"]])

    def finish(self, campaign_id: str) -> dict[str, Any]:
        """Work until the campaign is over."""
        while self.report(self.lease())["campaign_state"] == "measuring":
            pass
        until = time.monotonic() + PATIENCE_S
        while True:
            campaign = self.client.campaign(self.device_id, campaign_id)
            if campaign["state"] not in ("preparing", "measuring", "fitting"):
                return campaign
            assert time.monotonic() < until, f"the campaign did not end: {campaign}"
            time.sleep(0.1)
