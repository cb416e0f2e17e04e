"""Profiling: what to measure so that a table covers a space, and the table out of what was measured.

Noise, not non-additivity, is the enemy of a block-level table: other work on the device makes runs
slower, never faster. So every entry is measured in several rounds, each in another order, and ops
and whole validation subnets are priced by the same low quantile of their quietest round.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from bespoke.latency_tables.profile import DeviceProfile
from bespoke.latency_tables.quality import (
    Correction,
    Floats,
    fit_correction,
    quality_card,
)
from bespoke.latency_tables.table import BYTES_PER_MB, LatencyStat, LatencyTable, Statistic
from bespoke.latency_tables.timing import LOW_QUANTILE, Timing
from bespoke.supernet.agreement import conformal_half_width
from bespoke.supernet.architecture import (
    Architecture,
    Plan,
    SearchSpace,
    canonical,
    cardinalities,
    decode,
    read_architecture,
)
from bespoke.supernet.cost import BYTES_PER_VALUE, op_macs, op_weights
from bespoke.supernet.errors import InvalidInput, TableIncomplete
from bespoke.supernet.genomes import largest, smallest
from bespoke.supernet.ops import Op, OpKey, parse_key

Kind = Literal["op", "subnet", "sentinel"]

SENTINEL_QUANTILES = (0.1, 0.5, 0.9)
"""Ops of these ranks by MACs are measured in every round as sentinels, beside two whole nets."""
OUTLIER_MADS = 5.0
SIGMA_PER_MAD = 1.4826
MOST_FITTED = 0.4
"""At most this share of the validation subnets is fitted on; the others are for the quality card."""


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
    "quick": ProfilingEffort(3, 20, Timing(warm_up_ms=5, min_ms=20, min_runs=40)),
    "standard": ProfilingEffort(5, 30, Timing(warm_up_ms=20, min_ms=60, min_runs=30)),
    "thorough": ProfilingEffort(9, 60, Timing(warm_up_ms=50, min_ms=120, min_runs=50)),
}


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
    space: SearchSpace, known: Iterable[OpKey] = (), effort: str = "quick", seed: int = 0
) -> ProfilingPlan:
    """Decide what to measure so that a table covers a space.

    Args:
        space: The space, with the resolutions to cover.
        known: Ops that a table of the same device profile has already.
        effort: Name in ``EFFORTS``.
        seed: One seed, one plan.

    Raises:
        InvalidInput: There is no such effort.
    """
    if effort not in EFFORTS:
        raise InvalidInput(f"effort: got {effort!r}, expected one of {', '.join(EFFORTS)}")
    wanted, have = EFFORTS[effort], set(known)
    ops = {op.key: op for slot in space.slots for op in slot.ops if op is not None}
    entries = [ProfilingEntry(key, "op", key=key) for key in ops if key not in have]
    for architecture in _stratified(space, wanted.subnets, np.random.default_rng(seed)):
        entries.append(_subnet_entry(architecture, "subnet"))
    entries += _sentinels(space, ops)
    return ProfilingPlan(tuple(entries), wanted.rounds, effort, seed, wanted.timing)


def entry_onnx(entry: ProfilingEntry, space: SearchSpace) -> bytes:
    """The network to measure for an entry, with random weights; the same bytes every time.

    Raises:
        Unavailable: The onnx package is not installed.
    """
    from bespoke.supernet.onnx import op_plan, random_weights, write_onnx

    plan = op_plan(parse_key(entry.key)) if entry.key else _entry_plan(entry, space)
    return write_onnx(plan, random_weights(plan))


def build_table(
    profile: DeviceProfile,
    plan: ProfilingPlan,
    reports: Iterable[Report],
    space: SearchSpace,
    *,
    base: LatencyTable | None = None,
    duration_s: float | None = None,
) -> LatencyTable:
    """Fit a table on what was measured.

    The rules, in order:

    1. Of an entry's samples, pooled over its rounds, those slower than the median by more than
       ``OUTLIER_MADS`` standard deviations (estimated by the median absolute deviation, at least
       1% of the median) are rejected; faster ones never are, since noise only slows a run. Their
       number is kept.
    2. An op keeps the median, the mean, and as ``low_ms`` the 2nd percentile of the round in
       which that was lowest. A subnet is summarised in the same way.
    3. The validation subnets are dealt out by size: two fifths to fit the correction, the others
       to judge it.
    4. The correction is fitted (``quality.fit_correction``) once for the low statistic and once
       for the median. The table prices by ``low`` unless the leave-one-out error with ``median``
       is below nine tenths of the one with ``low``: the low one is the steadier under load, and
       both are about equal on a quiet device.
    5. Quality card and conformal interval come from the subnets that were not fitted on.

    Args:
        profile: The device.
        plan: What was asked for.
        reports: What came; failed and repeated ones may be among them (the last one counts).
        space: The space that the plan was made for.
        base: A table of the same device whose ops the plan took as known.
        duration_s: How long the measuring took; the sum of the samples where it is not given.

    Raises:
        TableIncomplete: An op has neither samples nor a place in ``base``.
        InvalidInput: No validation subnet has samples.
    """
    measured = _Measured.collect(plan, reports)
    stats = dict(base.stats if base else {}) | measured.op_stats()
    table = LatencyTable(profile, stats)
    missing = table.missing(space)
    if missing:
        raise TableIncomplete(missing, table.label)
    subnets = measured.subnets(space)
    if not subnets:
        failed = next(iter(measured.errors.values()), "no report came")
        raise InvalidInput(f"no validation subnet was measured ({failed}); expected at least one")
    fitted, judged = _deal(subnets)
    statistic, correction = _choose(stats, fitted)
    table = LatencyTable(profile, stats, correction, statistic=statistic)
    predicted = np.array([table.predict(subnet.plan) for subnet in judged])
    seen = np.array([_value(subnet.stat, statistic) for subnet in judged])
    card = quality_card(
        predicted,
        seen,
        repeat_mape=measured.repeat_mape(statistic),
        samples=sum(len(rounds) for by_round in measured.kept.values() for rounds in by_round.values()),
        rejected=sum(measured.rejected.values()),
        duration_s=measured.busy_s if duration_s is None else duration_s,
        drift=measured.drift(),
    )
    return LatencyTable(
        profile, stats, correction, card, conformal_half_width((seen - predicted) / predicted), statistic
    )


# What to measure


def _subnet_entry(architecture: Architecture, kind: Kind) -> ProfilingEntry:
    return ProfilingEntry(f"{kind}:{architecture.id}", kind, architecture=architecture.to_json())


def _stratified(space: SearchSpace, count: int, rng: np.random.Generator) -> list[Architecture]:
    """Distinct random architectures, spread evenly over sizes and resolutions.

    Genes drawn uniformly give networks of middling size only, so each architecture has its own
    level from 0 (all genes small) to 1 (all large), and resolutions take turns.
    """
    sizes = cardinalities(space).astype(np.int64)
    found: dict[str, Architecture] = {}
    for i in range(20 * count):
        level = (i % count + 0.5) / count
        genome = rng.binomial(sizes - 1, level).astype(np.int16)
        genome[-1] = i % int(sizes[-1])
        architecture = decode(space, canonical(space, genome[None])[0])
        found.setdefault(architecture.id, architecture)
        if len(found) == count:
            break
    return list(found.values())


def _sentinels(space: SearchSpace, ops: Mapping[OpKey, Op]) -> list[ProfilingEntry]:
    by_macs = sorted(ops, key=lambda key: (op_macs(ops[key]), key))
    chosen = dict.fromkeys(by_macs[int(q * (len(by_macs) - 1))] for q in SENTINEL_QUANTILES)
    resolutions = space.dimensions[-1].choices
    middle = resolutions[len(resolutions) // 2]
    nets = dict.fromkeys([smallest(space, middle), largest(space, middle)])
    return [ProfilingEntry(f"sentinel:{key}", "sentinel", key=key) for key in chosen] + [
        _subnet_entry(net, "sentinel") for net in nets
    ]


def _entry_plan(entry: ProfilingEntry, space: SearchSpace) -> Plan:
    return space.plan(read_architecture(space, entry.architecture or {}))


# What was measured


@dataclass(frozen=True)
class _Subnet:
    """A validation subnet with its measurement."""

    plan: Plan
    stat: LatencyStat


@dataclass(frozen=True)
class _Measured:
    """Samples by entry and round.

    Attributes:
        plan: What was asked for.
        raw: (n,) samples in ms by entry id and round, all of them.
        kept: The same without outliers, and without rounds that were nothing else.
        rejected: How many outliers by entry id.
        errors: What went wrong, by entry id.
        busy_s: Sum of all samples, in seconds.
    """

    plan: ProfilingPlan
    raw: dict[str, dict[int, Floats]]
    kept: dict[str, dict[int, Floats]]
    rejected: dict[str, int]
    errors: dict[str, str]
    busy_s: float

    @staticmethod
    def collect(plan: ProfilingPlan, reports: Iterable[Report]) -> _Measured:
        """Sort reports by entry; those of unknown entries, and samples that are no times, are dropped."""
        wanted = {entry.id for entry in plan.entries}
        raw: dict[str, dict[int, Floats]] = {}
        errors: dict[str, str] = {}
        for report in reports:
            if report.entry_id not in wanted:
                continue
            samples = np.asarray(report.samples_ms, np.float64)
            samples = samples[np.isfinite(samples) & (samples > 0)]
            if report.error or not samples.size:
                errors[report.entry_id] = report.error or "no samples"
                continue
            raw.setdefault(report.entry_id, {})[report.round] = samples
        kept, rejected = {}, {}
        for entry_id, rounds in raw.items():
            limit = _slowest_kept(np.concatenate(list(rounds.values())))
            inside = {number: samples[samples <= limit] for number, samples in sorted(rounds.items())}
            kept[entry_id] = {number: samples for number, samples in inside.items() if samples.size}
            rejected[entry_id] = sum(int((samples > limit).sum()) for samples in rounds.values())
        busy_s = sum(float(samples.sum()) for rounds in raw.values() for samples in rounds.values()) / 1e3
        return _Measured(plan, raw, kept, rejected, errors, busy_s)

    def stat(self, entry_id: str) -> LatencyStat:
        """An entry's samples in brief."""
        rounds = self.kept[entry_id]
        pooled = np.concatenate(list(rounds.values()))
        return LatencyStat(
            median_ms=float(np.median(pooled)),
            low_ms=min(_low(samples) for samples in rounds.values()),
            mean_ms=float(pooled.mean()),
            samples=len(pooled),
            rejected=self.rejected[entry_id],
        )

    def op_stats(self) -> dict[OpKey, LatencyStat]:
        """Of the ops that have samples."""
        ops = [e for e in self.plan.entries if e.kind == "op" and e.key and e.id in self.kept]
        return {cast(OpKey, entry.key): self.stat(entry.id) for entry in ops}

    def subnets(self, space: SearchSpace) -> list[_Subnet]:
        """The validation subnets that have samples, fastest first."""
        entries = [e for e in self.plan.entries if e.kind == "subnet" and e.id in self.kept]
        found = [_Subnet(_entry_plan(entry, space), self.stat(entry.id)) for entry in entries]
        return sorted(found, key=lambda subnet: subnet.stat.median_ms)

    def repeat_mape(self, statistic: Statistic) -> float:
        """Mean distance of a subnet's rounds from their mean, relative to it."""
        summary = _low if statistic == "low" else _median
        errors: list[float] = []
        for entry in self.plan.entries:
            if entry.kind == "subnet" and len(self.raw.get(entry.id, {})) > 1:
                values = np.array([summary(samples) for samples in self.raw[entry.id].values()])
                errors += list(np.abs(values - values.mean()) / values.mean())
        return float(np.mean(errors)) if errors else 0.0

    def drift(self) -> float:
        """Between a sentinel's fastest and slowest round, relative to the fastest; mean over them."""
        spreads = []
        for entry in self.plan.entries:
            if entry.kind == "sentinel" and entry.id in self.raw:
                values = [_low(samples) for samples in self.raw[entry.id].values()]
                spreads.append(max(values) / min(values) - 1)
        return float(np.mean(spreads)) if spreads else 0.0


def _slowest_kept(samples: Floats) -> float:
    """Samples above this are outliers: rule 1 of ``build_table``."""
    median = float(np.median(samples))
    deviation = SIGMA_PER_MAD * float(np.median(np.abs(samples - median)))
    return median + OUTLIER_MADS * max(deviation, 0.01 * median)


def _low(samples: Floats) -> float:
    return float(np.quantile(samples, LOW_QUANTILE))


def _median(samples: Floats) -> float:
    return float(np.median(samples))


# The table out of it


def _deal(subnets: Sequence[_Subnet]) -> tuple[list[_Subnet], list[_Subnet]]:
    """Subnets to fit on and subnets to judge by, both spread over all sizes; a lone one is both."""
    if len(subnets) == 1:
        return list(subnets), list(subnets)
    fitted = set(
        np.linspace(0, len(subnets) - 1, max(1, int(MOST_FITTED * len(subnets)))).round().astype(int)
    )
    return (
        [subnet for i, subnet in enumerate(subnets) if i in fitted],
        [subnet for i, subnet in enumerate(subnets) if i not in fitted],
    )


def _choose(stats: Mapping[OpKey, LatencyStat], fitted: Sequence[_Subnet]) -> tuple[Statistic, Correction]:
    """Which statistic prices, and its correction: rule 4 of ``build_table``."""
    low, low_error = _fit(stats, fitted, "low")
    median, median_error = _fit(stats, fitted, "median")
    return ("median", median) if median_error < 0.9 * low_error else ("low", low)


def _fit(
    stats: Mapping[OpKey, LatencyStat], fitted: Sequence[_Subnet], statistic: Statistic
) -> tuple[Correction, float]:
    sums = [sum(_value(stats[op.key], statistic) for op in subnet.plan.ops) for subnet in fitted]
    weights = [sum(map(op_weights, subnet.plan.ops)) * BYTES_PER_VALUE / BYTES_PER_MB for subnet in fitted]
    seen = [_value(subnet.stat, statistic) for subnet in fitted]
    return fit_correction(_floats(sums), _floats(weights), _floats(seen))


def _value(stat: LatencyStat, statistic: Statistic) -> float:
    return {"low": stat.low_ms, "median": stat.median_ms, "mean": stat.mean_ms}[statistic]


def _floats(values: Sequence[float]) -> NDArray[np.float64]:
    return np.array(values, np.float64)
