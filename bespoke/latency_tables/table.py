"""LatencyTable: what each op of a space costs on one device, and so what every architecture does."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from bespoke.latency_tables.audit import AdditivityAudit
from bespoke.latency_tables.files import parse_json, read_text
from bespoke.latency_tables.networks import (
    BYTES_PER_MB,
    FeatureTable,
    NetworkModel,
    network_features,
    op_weights_mb,
)
from bespoke.latency_tables.plausibility import (
    MOST_KEY,
    UNIT_FACTOR,
    is_number,
    latency_problem,
    odd_units,
    short,
)
from bespoke.latency_tables.profile import DeviceProfile, canonical_digest
from bespoke.latency_tables.quality import Correction, QualityCard
from bespoke.supernet.agreement import COVERAGE, conformal_half_width
from bespoke.supernet.architecture import Genomes, Plan, SearchSpace, cardinalities
from bespoke.supernet.cost import SlotTable
from bespoke.supernet.errors import BespokeError, FileInvalid, InvalidInput, TableIncomplete
from bespoke.supernet.ops import Op, OpKey, parse_key
from bespoke.supernet.spaces import space_from_json
from bespoke.supernet.whole_files import write_file

__all__ = [
    "BYTES_PER_MB",
    "Correction",
    "DeviceProfile",
    "LatencyStat",
    "LatencyTable",
    "QualityCard",
    "TablePricer",
    "checked",
    "covered_space",
    "slot_ops",
]

FORMAT = "bespoke-latency-table/1"
SERVED = ("revision", "supernet", "current", "stale", "stale_reason", "created_at")
"""What a service tells beside a table; reading skips it, so that an answer can be kept as a file."""
MOST_OPS = 100_000
COUNTS = ("samples", "rejected", "subnets")
"""Fields of stats, cards and audits that hold whole numbers; all others hold any."""

Record = TypeVar("Record", "LatencyStat", QualityCard, AdditivityAudit)
Statistic = Literal["low", "median", "mean"]
Source = Literal["ops", "networks", "few-shot", "published"]
SOURCES: Mapping[Source, str] = {
    "ops": "each op was measured on the device",
    "networks": "fitted from whole networks' latencies",
    "few-shot": "scaled from other devices' tables by a few whole networks",
    "published": "read from files that others published",
}
STATISTICS: Mapping[Statistic, str] = {"low": "low_ms", "median": "median_ms", "mean": "mean_ms"}


@dataclass(frozen=True)
class LatencyStat:
    """The samples of one op in brief.

    Attributes:
        median_ms: Median, over the rounds, of each round's median.
        low_ms: 2nd percentile of the quietest round: what the op costs when nothing disturbs it.
        mean_ms: Mean.
        samples: How many samples these are over.
        rejected: How many more were rejected as outliers.
    """

    median_ms: float
    low_ms: float
    mean_ms: float
    samples: int
    rejected: int

    def by(self, statistic: Statistic) -> float:
        """What it says by a statistic, in ms."""
        return float(getattr(self, STATISTICS[statistic]))


@dataclass(frozen=True)
class LatencyTable:
    """OpKey to LatencyStat for one DeviceProfile, with its correction and its quality card.

    Attributes:
        profile: What the table is valid for.
        stats: One entry per op.
        correction: From sums of ops to whole networks.
        quality: Errors on whole subnets; None where nobody measured any.
        interval: Relative half width of the 90% interval of a prediction; 0 where ``quality`` is
            None: unknown, not exact.
        statistic: Which number of a ``LatencyStat`` prices.
        by_resolution: Stats that hold at one input resolution only, by that resolution. Published
            tables time the same op again in each resolution's file, and mean each for its own;
            ``stats`` then holds the mean over the files.
        source: How the table was made, one of ``SOURCES``.
        provisional: Whether a better one is to be expected; few-shot tables are.
        networks: Prices whole networks in place of the corrected sums; set where the audit found
            that sums fail.
        audit: Op sums against whole networks; None where nobody compared them.
    """

    profile: DeviceProfile
    stats: Mapping[OpKey, LatencyStat]
    correction: Correction = field(default_factory=Correction)
    quality: QualityCard | None = None
    interval: float = 0.0
    statistic: Statistic = "median"
    by_resolution: Mapping[int, Mapping[OpKey, LatencyStat]] = field(default_factory=dict)
    source: Source = "ops"
    provisional: bool = False
    networks: NetworkModel | None = None
    audit: AdditivityAudit | None = None

    @cached_property
    def revision(self) -> str:
        """sha256, in hex, of the canonical JSON."""
        return canonical_digest(self.to_json())

    @property
    def label(self) -> str:
        """How messages call this table."""
        return f"{self.profile.device}, {self.profile.runtime} runtime, {self.profile.threads or '?'} threads"

    def op_ms(self, op: Op, resolution: int | None = None) -> float:
        """What one op adds to a network, correction included but for the overhead, in ms.

        Args:
            op: Any op that the table has.
            resolution: Side of the network's input in pixels, where stats depend on it.

        Raises:
            TableIncomplete: The table lacks the op.
        """
        measured, correction = self.measured_ms(op.key, resolution), self.correction
        weights_ms = correction.weights_ms_per_mb * op_weights_mb(op)
        return correction.scale * measured + weights_ms + correction.ms_per_op

    def predict(self, plan: Plan) -> float:
        """Latency of a network in ms; of a routed one, on its slowest route.

        Raises:
            TableIncomplete: The table lacks an op of the plan.
        """
        missing = sorted({op.key for op in plan.ops} - set(self.stats))
        if missing:
            raise TableIncomplete(missing, self.label)
        return max(
            self._route_ms([op for i in route.segments for op in plan.segments[i].ops], plan.in_shape[0])
            for route in plan.routes
        )

    def missing(self, space: SearchSpace) -> tuple[OpKey, ...]:
        """The ops of a space that the table lacks, in the space's order."""
        return tuple(dict.fromkeys(op.key for _, op in slot_ops(space) if op and op.key not in self.stats))

    def covered_resolutions(self, space: SearchSpace) -> tuple[int, ...]:
        """The resolutions of a space of which the table has every op."""
        resolutions = space.dimensions[-1].choices
        uncovered: set[int] = set()
        for resolution, op in slot_ops(space):
            if op and op.key not in self.stats:
                uncovered |= set(resolutions) if resolution is None else {resolution}
        return tuple(r for r in resolutions if r not in uncovered)

    def pricer(self, space: SearchSpace) -> TablePricer:
        """Everything needed to price populations of a space.

        Raises:
            TableIncomplete: The table lacks ops of the space; see ``covered_space``.
        """
        return TablePricer(self, space)

    def to_json(self) -> dict[str, Any]:
        """What ``from_json`` reads back."""
        data: dict[str, Any] = {
            "format": FORMAT,
            "profile": self.profile.to_json(),
            "statistic": self.statistic,
            "correction": self.correction.to_json(),
            "interval": self.interval,
            "quality": self.quality.to_json() if self.quality else None,
            "stats": _stats_to_json(self.stats),
        }
        if self.by_resolution:
            data["by_resolution"] = {
                str(resolution): _stats_to_json(self.by_resolution[resolution])
                for resolution in sorted(self.by_resolution)
            }
        # Left out where they say nothing, so that older tables keep their revision.
        later = {
            "source": None if self.source == "ops" else self.source,
            "provisional": self.provisional or None,
            "networks": self.networks.to_json() if self.networks else None,
            "audit": self.audit.to_json() if self.audit else None,
        }
        return data | {name: value for name, value in later.items() if value is not None}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> LatencyTable:
        """Read a table.

        Raises:
            InvalidInput: Names what is wrong and what was expected.
        """
        if not isinstance(data, Mapping) or data.get("format") != FORMAT:
            got = data.get("format") if isinstance(data, Mapping) else type(data).__name__
            raise InvalidInput(f"latency table: got format {short(got)}, expected {FORMAT!r}")
        _expect_fields(data)
        by_resolution = data.get("by_resolution", {})
        _expect(isinstance(by_resolution, Mapping), "by_resolution", by_resolution, "an object")
        for side in by_resolution:
            plain = isinstance(side, str) and re.fullmatch("[1-9][0-9]{0,4}", side)
            _expect(plain, "by_resolution", side, "the sides of inputs in pixels")
        read = checked(
            LatencyTable(
                profile=DeviceProfile.from_json(data["profile"]),
                stats=_stats_from_json("stats", data["stats"]),
                correction=Correction.from_json(data["correction"]),
                quality=QualityCard.from_json(data["quality"]) if data["quality"] is not None else None,
                interval=float(data["interval"]),
                statistic=data["statistic"],
                by_resolution={
                    int(side): _stats_from_json(f"by_resolution.{side}", stats)
                    for side, stats in by_resolution.items()
                },
                source=data.get("source", "ops"),
                provisional=data.get("provisional", False),
                networks=NetworkModel.from_json(data["networks"]) if "networks" in data else None,
                audit=AdditivityAudit.from_json(data["audit"]) if "audit" in data else None,
            )
        )
        if "revision" in data and data["revision"] != read.revision:
            # It came through a program to which 1.0 is 1, as to JavaScript: the revision tells the two apart.
            in_floats = _in_floats(read)
            return in_floats if in_floats.revision == data["revision"] else read
        return read

    def save(self, path: Path) -> None:
        """Write the table as JSON, whole or not at all."""
        write_file(path, json.dumps(self.to_json(), indent=1) + "\n")

    @staticmethod
    def load(path: Path) -> LatencyTable:
        """Read what ``save`` wrote.

        Raises:
            FileInvalid: The file is missing, or is no table of ours.
        """
        text = read_text(path)
        try:
            return LatencyTable.parse(text)
        except BespokeError as error:
            raise FileInvalid(path, f"expected a latency table as JSON; {error}") from error

    @staticmethod
    def parse(text: str | bytes) -> LatencyTable:
        """Read the text of a table; unlike ``from_json`` this sees keys that stand there twice.

        Raises:
            InvalidInput: Names what is wrong and what was expected.
        """
        return LatencyTable.from_json(parse_json(text))

    def _route_ms(self, ops: Sequence[Op], resolution: int) -> float:
        sum_ms = self.correction.overhead_ms + math.fsum(self.op_ms(op, resolution) for op in ops)
        if self.networks is None:
            return sum_ms
        features = network_features(ops, sum_ms, resolution)
        return float(self.networks.latency_ms(features[None])[0])

    def measured_ms(self, key: OpKey, resolution: int | None = None) -> float:
        """What was measured of one op, by the table's statistic, in ms.

        Raises:
            TableIncomplete: The table lacks the op.
        """
        stat = self.by_resolution.get(resolution or 0, {}).get(key) or self.stats.get(key)
        if stat is None:
            raise TableIncomplete([key], self.label)
        return stat.by(self.statistic)


class TablePricer:
    """The latency of many genomes at once; equal to ``table.predict(space.plan(a))`` for each.

    Attributes:
        table: Where the numbers come from.
        space: Whose genomes are priced.
    """

    def __init__(self, table: LatencyTable, space: SearchSpace) -> None:
        """Look every op up once.

        Raises:
            TableIncomplete: The table lacks ops of the space.
        """
        missing = table.missing(space)
        if missing:
            raise TableIncomplete(missing, table.label)
        self.table, self.space = table, space
        self._features = FeatureTable(space) if table.networks else None
        self._slots = SlotTable(space, table.op_ms)
        if table.by_resolution:
            # The entries of a SlotTable stand in the order of the slots' ops.
            self._slots.values = np.array(
                [table.op_ms(op, resolution) if op else 0.0 for resolution, op in slot_ops(space)]
            )

    @property
    def additive(self) -> bool:
        """Whether a latency is ``overhead_ms`` and the sum of the slots, and nothing else."""
        return self._features is None

    @property
    def slots(self) -> SlotTable:
        """What each slot adds, in ms; a search reads exact minima from it.

        Where the pricer is not additive, this is what the corrected sums say: near the latency,
        but not it.
        """
        return self._slots

    @property
    def overhead_ms(self) -> float:
        """What every network costs beside its slots."""
        return self.table.correction.overhead_ms

    def latency_ms(self, genomes: Genomes) -> NDArray[np.float64]:
        """Latencies in ms, shape (N,), of genomes of shape (N, G)."""
        sums_ms = self.table.correction.overhead_ms + self._slots.total(genomes)
        if self.table.networks is None or self._features is None:
            return sums_ms
        return self.table.networks.latency_ms(self._features.features(genomes, sums_ms))

    def interval_ms(
        self, latency_ms: NDArray[np.float64], confidence: float = COVERAGE
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lower and upper end of the interval that holds this share of latencies, both (N,)."""
        half = half_width(self.table, confidence)
        return latency_ms * max(0.0, 1 - half), latency_ms * (1 + half)


def half_width(table: LatencyTable, confidence: float) -> float:
    """Relative half width of the interval around a prediction that holds a share of latencies.

    The table's own interval holds 90%. Another share's is as much wider as the residuals of the
    held-out subnets say; beyond what these can promise (N of them tell N / (N + 1) of the future)
    it is at least as much wider as a normal distribution's.

    Args:
        table: With its interval, and the points of its quality card where it has them.
        confidence: The share, more than 0 and less than 1.
    """
    if confidence == COVERAGE:
        return table.interval
    normal = NormalDist().inv_cdf((1 + confidence) / 2) / NormalDist().inv_cdf((1 + COVERAGE) / 2)
    points = table.quality.points if table.quality else ()
    residuals = [(seen - predicted) / predicted for predicted, seen in points]
    usual = conformal_half_width(residuals) if residuals else 0.0
    if not usual:
        return table.interval * normal
    wider = conformal_half_width(residuals, confidence) / usual
    promised = (len(residuals) + 1) * confidence <= len(residuals)
    return table.interval * (wider if promised else max(wider, normal))


def covered_space(table: LatencyTable, space: SearchSpace) -> SearchSpace:
    """The space with only those resolutions that the table covers.

    Raises:
        TableIncomplete: It covers none.
    """
    resolutions = table.covered_resolutions(space)
    if not resolutions:
        raise TableIncomplete(table.missing(space), table.label)
    return space_from_json(space.to_json() | {"resolutions": list(resolutions)})


def slot_ops(space: SearchSpace) -> Iterator[tuple[int | None, Op | None]]:
    """Each entry of each slot with its input resolution; None where the slot does not depend on it."""
    sizes = cardinalities(space)
    resolutions = space.dimensions[-1].choices
    resolution_gene = len(sizes) - 1
    for slot in space.slots:
        if resolution_gene not in slot.genes:
            yield from ((None, op) for op in slot.ops)
            continue
        # Genes ascend, so the resolution is the last one and changes fastest.
        for i, op in enumerate(slot.ops):
            yield resolutions[i % len(resolutions)], op


def _stats_to_json(stats: Mapping[OpKey, LatencyStat]) -> dict[str, Any]:
    return {key: asdict(stats[key]) for key in sorted(stats)}


def _stats_from_json(where: str, data: Any) -> dict[OpKey, LatencyStat]:
    _expect(isinstance(data, Mapping) and len(data) > 0, where, data, "op keys with their latencies")
    _expect(len(data) <= MOST_OPS, where, f"{len(data)} ops", f"at most {MOST_OPS}")
    found = {}
    for text, stat in data.items():
        _expect(isinstance(text, str) and len(text) <= MOST_KEY, where, text, "op keys")
        key = parse_key(text).key
        found[key] = _stat_from_json(f"{where}, {key}", stat)
    return found


def _stat_from_json(where: str, data: Any) -> LatencyStat:
    names = {f.name for f in fields(LatencyStat)}
    _expect(isinstance(data, Mapping) and set(data) == names, where, data, f"the fields {sorted(names)}")
    for name in ("median_ms", "low_ms", "mean_ms"):
        problem = latency_problem(data[name])
        if problem:
            raise InvalidInput(f"latency table, {where}, {name}: {problem}")
    for name in ("samples", "rejected"):
        count = data[name]
        _expect(type(count) is int and count >= 0, f"{where}, {name}", count, "a count of at least 0")
    return LatencyStat(**{name: data[name] for name in names})


def _in_floats(table: LatencyTable) -> LatencyTable:
    """The same table without whole numbers where any number may stand."""
    return replace(
        table,
        stats={key: _floats_of(stat) for key, stat in table.stats.items()},
        quality=_floats_of(table.quality) if table.quality else None,
        by_resolution={
            side: {key: _floats_of(stat) for key, stat in stats.items()}
            for side, stats in table.by_resolution.items()
        },
        audit=_floats_of(table.audit) if table.audit else None,
    )


def _floats_of(record: Record) -> Record:
    numbers: dict[str, Any] = {
        name: float(value)
        for name, value in vars(record).items()
        if type(value) is int and name not in COUNTS
    }
    return replace(record, **numbers)


def _expect_fields(data: Mapping[str, Any]) -> None:
    """The fields that every table has, and none that nobody knows; the plain ones are checked."""
    needed = {"format", "profile", "stats", "correction", "quality", "interval", "statistic"}
    optional = {"by_resolution", "source", "provisional", "networks", "audit", *SERVED}
    missing, unknown = sorted(needed - set(data)), sorted(set(map(str, data)) - needed - optional)
    if missing or unknown:
        raise InvalidInput(f"latency table: missing fields {missing}, unknown fields {unknown}")
    interval = data["interval"]
    _expect(is_number(interval, 0.0), "interval", interval, "a share of at least 0")
    for name, known in (("statistic", list(STATISTICS)), ("source", list(SOURCES))):
        value = data.get(name, "ops")
        _expect(isinstance(value, str) and value in known, name, value, f"one of {known}")
    provisional = data.get("provisional", False)
    _expect(isinstance(provisional, bool), "provisional", provisional, "true or false")


def checked(table: LatencyTable) -> LatencyTable:
    """The table, whose numbers are all in one unit: what fails here cannot be read back.

    Only ops that were measured are compared with each other, and with whole networks: what was
    fitted or scaled is smooth anyway, and may be far from its reference.

    Raises:
        InvalidInput: Names what is in another unit than the rest.
    """
    if table.source in ("ops", "published"):
        ops_ms = {key: stat.by(table.statistic) for key, stat in table.stats.items()}
        for key, expected_ms in odd_units(ops_ms).items():
            raise InvalidInput(
                f"latency table, stats, {key}: got {ops_ms[key]:g} ms where ops of about as much work take "
                f"{expected_ms:.3g} ms; expected all in ms: is it in another unit?"
            )
    scale = table.correction.scale
    if table.source == "ops" and not 1 / UNIT_FACTOR < scale < UNIT_FACTOR:
        raise InvalidInput(
            f"latency table, correction, scale: got {scale:g}, expected about 1: are ops and networks "
            "in different units?"
        )
    for i, (predicted, measured) in enumerate(table.quality.points if table.quality else ()):
        if not 1 / UNIT_FACTOR < measured / predicted < UNIT_FACTOR:
            raise InvalidInput(
                f"latency table, quality, points[{i}]: got {predicted:g} ms predicted and {measured:g} ms "
                "measured; expected both in ms: is one of them in another unit?"
            )
    return table


def _expect(holds: object, where: str, got: Any, expected: str) -> None:
    if not holds:
        raise InvalidInput(f"latency table, {where}: got {short(got)}, expected {expected}")
