"""Profiling: what to measure so that a table covers a space.

Noise, not non-additivity, is the enemy of a block-level table: other work on the device makes runs
slower, never faster. So every entry is measured in several rounds, each in another order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from bespoke.latency_tables.timing import Timing
from bespoke.supernet.architecture import (
    Architecture,
    Plan,
    SearchSpace,
    read_architecture,
)
from bespoke.supernet.cost import op_macs
from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.genomes import largest, smallest, stratified
from bespoke.supernet.ops import Op, OpKey, parse_key

Kind = Literal["op", "subnet", "sentinel"]

SENTINEL_QUANTILES = (0.1, 0.5, 0.9)
"""Ops of these ranks by MACs are measured in every round as sentinels, beside two whole nets."""


@dataclass(frozen=True)
class ProfilingEffort:
    """How much is measured.

    Attributes:
        rounds: How often every entry is measured.
        subnets: Whole validation subnets. The quality card gets three fifths of them; a 90%
            interval takes at least 9.
        timing: The stop rules of one measurement.
    """

    rounds: int
    subnets: int
    timing: Timing


EFFORTS: Mapping[str, ProfilingEffort] = {
    "quick": ProfilingEffort(4, 20, Timing(warm_up_ms=4, min_ms=12, min_runs=8, network_ms=80)),
    "standard": ProfilingEffort(12, 30, Timing(warm_up_ms=8, min_ms=25, min_runs=8, network_ms=200)),
    "thorough": ProfilingEffort(24, 60, Timing(warm_up_ms=10, min_ms=30, min_runs=10, network_ms=300)),
}
"""Disturbances last longer than a measurement, so many short rounds see more of a device than a few
long ones."""


def profiling_effort(name: str) -> ProfilingEffort:
    """An effort by its name.

    Raises:
        InvalidInput: There is no such effort.
    """
    if name not in EFFORTS:
        raise InvalidInput(f"effort: got {name!r}, expected one of {', '.join(EFFORTS)}")
    return EFFORTS[name]


@dataclass(frozen=True)
class ProfilingEntry:
    """One thing to measure.

    Attributes:
        id: The op's key, ``subnet:<architecture id>``, or ``sentinel:`` before either.
        kind: Ops fill the table; subnets correct and validate it; sentinels show whether the
            device drifted between rounds.
        key: Of an op.
        architecture: JSON of a subnet.
    """

    id: str
    kind: Kind
    key: OpKey | None = None
    architecture: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """What ``from_json`` reads back."""
        return {"id": self.id, "kind": self.kind, "key": self.key, "architecture": self.architecture}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> ProfilingEntry:
        """Read what ``to_json`` wrote."""
        return ProfilingEntry(data["id"], data["kind"], data["key"], data["architecture"])


@dataclass(frozen=True)
class ProfilingPlan:
    """What to measure, and how often.

    Attributes:
        entries: Ops first, then subnets, then sentinels.
        rounds: How often each is measured.
        effort: Name in ``EFFORTS``.
        seed: Of the subnets and of each round's order.
        timing: The stop rules of one measurement.
    """

    entries: tuple[ProfilingEntry, ...]
    rounds: int
    effort: str
    seed: int
    timing: Timing = field(default_factory=Timing)

    def order(self, number: int) -> tuple[ProfilingEntry, ...]:
        """The entries in the order of one round: random, another one each round, sentinels spread evenly."""
        rng = np.random.default_rng([self.seed, number])
        sentinels = [entry for entry in self.entries if entry.kind == "sentinel"]
        others = [entry for entry in self.entries if entry.kind != "sentinel"]
        others = [others[i] for i in rng.permutation(len(others))]
        for i, s in enumerate(rng.permutation(len(sentinels))):
            others.insert((i * len(self.entries)) // len(sentinels), sentinels[s])
        return tuple(others)

    @property
    def total(self) -> int:
        """How many measurements the plan asks for."""
        return self.rounds * len(self.entries)

    def to_json(self) -> dict[str, Any]:
        """What ``from_json`` reads back."""
        return {
            "entries": [entry.to_json() for entry in self.entries],
            "rounds": self.rounds,
            "effort": self.effort,
            "seed": self.seed,
            "timing": self.timing.to_json(),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> ProfilingPlan:
        """Read what ``to_json`` wrote."""
        entries = tuple(ProfilingEntry.from_json(entry) for entry in data["entries"])
        timing = Timing.from_json(data["timing"])
        return ProfilingPlan(entries, data["rounds"], data["effort"], data["seed"], timing)


@dataclass(frozen=True)
class Report:
    """One measurement of one entry, as an agent reports it.

    Attributes:
        entry_id: The entry's id.
        round: Counted from 0.
        samples_ms: Raw samples.
        cold_ms: Loading and the first run; None where it failed before.
        error: Why there are no samples; None where there are.
    """

    entry_id: str
    round: int
    samples_ms: Sequence[float]
    cold_ms: float | None = None
    error: str | None = None


def plan_profiling(
    space: SearchSpace,
    known: Iterable[OpKey] = (),
    effort: str = "quick",
    seed: int = 0,
    networks: Sequence[Architecture] = (),
) -> ProfilingPlan:
    """Decide what to measure so that a table covers a space.

    Args:
        space: The space, with the resolutions to cover.
        known: Ops that a table of the same device profile has already.
        effort: Name in ``EFFORTS``.
        seed: One seed, one plan.
        networks: Such as the table shall be trusted for, e.g. what searches find: up to half of the
            validation subnets are of these, the others random.

    Raises:
        InvalidInput: There is no such effort.
    """
    wanted, have = profiling_effort(effort), set(known)
    ops = {op.key: op for slot in space.slots for op in slot.ops if op is not None}
    entries = [ProfilingEntry(key, "op", key=key) for key in ops if key not in have]
    drawn = stratified(space, wanted.subnets, seed)
    subnets = list(dict.fromkeys([*networks[: wanted.subnets // 2], *drawn]))[: len(drawn)]
    entries += [_subnet_entry(architecture, "subnet") for architecture in subnets]
    entries += _sentinels(space, ops)
    return ProfilingPlan(tuple(entries), wanted.rounds, effort, seed, wanted.timing)


def entry_onnx(entry: ProfilingEntry, space: SearchSpace, precision: str = "fp32") -> bytes:
    """The network to measure for an entry, with random weights; the same bytes every time.

    Args:
        entry: An op, or a whole network.
        space: The space that it is of.
        precision: Of the device's profile: ``fp32`` or ``int8``. An INT8 op takes and gives what it
            does inside a network, so that the ops' times add up.

    Raises:
        InvalidInput: There is no such precision.
        Unavailable: The onnx package is not installed.
    """
    from bespoke.supernet.onnx import op_plan, random_weights, write_onnx

    plan = op_plan(parse_key(entry.key)) if entry.key else entry_plan(entry, space)
    return write_onnx(plan, random_weights(plan), precision=precision, inner=entry.key is not None)


# What to measure


def _subnet_entry(architecture: Architecture, kind: Kind) -> ProfilingEntry:
    return ProfilingEntry(f"{kind}:{architecture.id}", kind, architecture=architecture.to_json())


def _sentinels(space: SearchSpace, ops: Mapping[OpKey, Op]) -> list[ProfilingEntry]:
    by_macs = sorted(ops, key=lambda key: (op_macs(ops[key]), key))
    chosen = dict.fromkeys(by_macs[int(q * (len(by_macs) - 1))] for q in SENTINEL_QUANTILES)
    resolutions = space.dimensions[-1].choices
    middle = resolutions[len(resolutions) // 2]
    nets = dict.fromkeys([smallest(space, middle), largest(space, middle)])
    return [ProfilingEntry(f"sentinel:{key}", "sentinel", key=key) for key in chosen] + [
        _subnet_entry(net, "sentinel") for net in nets
    ]


def entry_plan(entry: ProfilingEntry, space: SearchSpace) -> Plan:
    """The plan of a subnet's entry."""
    return space.plan(read_architecture(space, entry.architecture or {}))
