"""The table out of what was measured.

Other work on a device makes runs slower, so ops and whole validation subnets are priced by the same
low quantile of their quietest round; where a device is now and then faster than it usually is, by
the same median.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from bespoke.latency_tables.audit import REPEATS, TOLERANCE, AdditivityAudit
from bespoke.latency_tables.networks import (
    fit_network_model,
    network_features,
    network_model_error,
    op_weights_mb,
)
from bespoke.latency_tables.plausibility import UNIT_FACTOR
from bespoke.latency_tables.profile import DeviceProfile
from bespoke.latency_tables.profiling import ProfilingPlan, Report, entry_plan
from bespoke.latency_tables.quality import Correction, Floats, fit_correction, quality_card
from bespoke.latency_tables.reports import check_samples
from bespoke.latency_tables.table import LatencyStat, LatencyTable, Statistic, checked
from bespoke.latency_tables.timing import LOW_QUANTILE
from bespoke.supernet.agreement import conformal_half_width
from bespoke.supernet.architecture import Plan, SearchSpace
from bespoke.supernet.errors import InvalidInput, TableIncomplete
from bespoke.supernet.ops import OpKey

OUTLIER_MADS = 5.0
SIGMA_PER_MAD = 1.4826
MOST_FITTED = 0.4
"""At most this share of the validation subnets is fitted on; the others are for the quality card."""
MOST_FITTED_ON_NETWORKS = 0.55
"""The same where sums fail: a model of whole networks takes more of them to fit."""
FEWEST_FOR_NETWORKS = 8
"""With fewer fitted subnets no model of whole networks is tried."""


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
    2. An op keeps the median of its rounds' medians, the mean, and as ``low_ms`` the 2nd percentile
       of the round in which that was lowest. A subnet is summarised in the same way.
    3. The validation subnets are dealt out by size: two fifths to fit the correction, the others
       to judge it.
    4. The table prices by the statistic that earlier and later rounds agree better about, over all
       ops and subnets; what a device does at its quietest comes back an hour later, what it usually
       does changes with its other work. A device that now and then runs faster than it usually
       does disturbs the low statistic more, and is priced by the median. Then the correction is
       fitted (``quality.fit_correction``).
    5. The additivity audit (``audit.AdditivityAudit``) compares sums with the fitted subnets.
       Where sums fail, more subnets are fitted on, and a model of whole networks prices if it is
       clearly better.
    6. Quality card and conformal interval come from the subnets that were not fitted on.

    Args:
        profile: The device.
        plan: What was asked for.
        reports: What came; failed and repeated ones may be among them (the last one counts).
        space: The space that the plan was made for.
        base: A table of the same device whose ops the plan took as known.
        duration_s: How long the measuring took; the sum of the samples where it is not given.

    Raises:
        TableIncomplete: An op has neither samples nor a place in ``base``.
        MeasurementInvalid: A time is not finite, not positive or absurd.
        InvalidInput: No validation subnet has samples, or ops and subnets, or ops among each other, are
            in different units.
        Unavailable: Sums fail, and scikit-learn, which fits the other model, is not installed.
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
    _check_units(stats, subnets)
    fitted, judged = _deal(subnets, MOST_FITTED)
    table = replace(table, statistic=measured.steadier())
    correction, error = _fit(stats, fitted, table.statistic)
    table = _audited(replace(table, correction=correction), error, fitted, measured.repeat_mape)
    if table.audit and not table.audit.sums_hold:
        more, judged = _deal(judged, (MOST_FITTED_ON_NETWORKS - MOST_FITTED) / (1 - MOST_FITTED))
        table = _with_networks(table, [*fitted, *more])
    predicted = np.array([table.predict(subnet.plan) for subnet in judged])
    seen = np.array([subnet.stat.by(table.statistic) for subnet in judged])
    card = quality_card(
        predicted,
        seen,
        repeat_mape=measured.repeat_mape(table.statistic),
        samples=sum(len(rounds) for by_round in measured.kept.values() for rounds in by_round.values()),
        rejected=sum(measured.rejected.values()),
        duration_s=measured.busy_s if duration_s is None else duration_s,
        drift=measured.drift(),
    )
    interval = conformal_half_width((seen - predicted) / predicted)
    return checked(replace(table, quality=card, interval=interval))


# What was measured


def measured_networks(plan: ProfilingPlan, reports: Iterable[Report]) -> dict[str, LatencyStat]:
    """The samples of each whole network of a plan in brief, by entry id; those that failed are missing.

    Raises:
        MeasurementInvalid: A time is not finite, not positive or absurd.
    """
    measured = _Measured.collect(plan, reports)
    entries = [entry.id for entry in plan.entries if entry.kind == "subnet"]
    return {entry_id: measured.stat(entry_id) for entry_id in entries if entry_id in measured.kept}


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
        """Sort reports by entry; those of unknown entries are dropped.

        Raises:
            MeasurementInvalid: A time is not finite, not positive or absurd.
        """
        wanted = {entry.id for entry in plan.entries}
        came = [report for report in reports if report.entry_id in wanted]
        check_samples(came)
        raw: dict[str, dict[int, Floats]] = {}
        errors: dict[str, str] = {}
        for report in came:
            samples = np.asarray(report.samples_ms, np.float64)
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
        summary = _summary(list(rounds.values()))
        return LatencyStat(
            median_ms=summary["median"],
            low_ms=summary["low"],
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
        found = [_Subnet(entry_plan(entry, space), self.stat(entry.id)) for entry in entries]
        return sorted(found, key=lambda subnet: subnet.stat.median_ms)

    def steadier(self) -> Statistic:
        """The statistic that earlier and later rounds agree better about: ``low``, or ``median``."""
        halves: dict[Statistic, list[float]] = {"low": [], "median": []}
        for rounds in self.kept.values():
            each = list(rounds.values())
            if len(each) > 1:
                early, late = (_summary(half) for half in (each[: len(each) // 2], each[len(each) // 2 :]))
                for statistic, ratios in halves.items():
                    ratios.append(abs(math.log(early[statistic] / late[statistic])))
        return "median" if np.sum(halves["median"]) < np.sum(halves["low"]) else "low"

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


def _summary(rounds: Sequence[Floats]) -> dict[Statistic, float]:
    """What some rounds of an entry say: rule 2 of ``build_table``."""
    return {
        "low": min(map(_low, rounds)),
        "median": _median(np.array([_median(samples) for samples in rounds])),
    }


def _low(samples: Floats) -> float:
    return float(np.quantile(samples, LOW_QUANTILE))


def _median(samples: Floats) -> float:
    return float(np.median(samples))


# The table out of it


def _check_units(stats: Mapping[OpKey, LatencyStat], subnets: Sequence[_Subnet]) -> None:
    ratios = [s.stat.median_ms / sum(stats[op.key].median_ms for op in s.plan.ops) for s in subnets]
    ratio = float(np.median(ratios))
    if not 1 / UNIT_FACTOR < ratio < UNIT_FACTOR:
        raise InvalidInput(
            f"whole subnets took {ratio:.3g} times the sum of their ops: ops and subnets were not reported "
            "in one unit (expected ms); measure the device again"
        )


def _deal(subnets: Sequence[_Subnet], share: float) -> tuple[list[_Subnet], list[_Subnet]]:
    """Subnets to fit on and subnets to judge by, both spread over all sizes; a lone one is both."""
    if len(subnets) == 1:
        return list(subnets), list(subnets)
    count = max(1, int(share * len(subnets) + 1e-9))
    fitted = set(np.linspace(0, len(subnets) - 1, count).round().astype(int))
    return (
        [subnet for i, subnet in enumerate(subnets) if i in fitted],
        [subnet for i, subnet in enumerate(subnets) if i not in fitted],
    )


def _fit(
    stats: Mapping[OpKey, LatencyStat], fitted: Sequence[_Subnet], statistic: Statistic
) -> tuple[Correction, float]:
    return fit_correction(
        _sums(stats, fitted, statistic),
        _floats([sum(map(op_weights_mb, subnet.plan.ops)) for subnet in fitted]),
        _seen(fitted, statistic),
        _floats([len(subnet.plan.ops) for subnet in fitted]),
        min(stat.by(statistic) for stat in stats.values()),
    )


def _audited(
    table: LatencyTable,
    error: float,
    fitted: Sequence[_Subnet],
    repeat_mape: Callable[[Statistic], float],
) -> LatencyTable:
    """The table with its audit; without one where a lone subnet tells nothing."""
    if not math.isfinite(error):
        return table
    ratios = _seen(fitted, table.statistic) / _sums(table.stats, fitted, table.statistic)
    limit = max(REPEATS * repeat_mape(table.statistic), TOLERANCE)
    return replace(table, audit=AdditivityAudit(len(fitted), float(np.median(ratios)), error, limit))


def _with_networks(table: LatencyTable, fitted: Sequence[_Subnet]) -> LatencyTable:
    """The table whose sums failed, fitted on more subnets; by whole networks where that is better."""
    audit = cast(AdditivityAudit, table.audit)
    correction, error = _fit(table.stats, fitted, table.statistic)
    table = replace(table, correction=correction)
    seen = _seen(fitted, table.statistic)
    features = np.stack(
        [
            network_features(subnet.plan.ops, table.predict(subnet.plan), subnet.plan.in_shape[0])
            for subnet in fitted
        ]
    )
    enough = len(fitted) >= FEWEST_FOR_NETWORKS
    other = network_model_error(features, seen) if enough else None
    audit = replace(audit, subnets=len(fitted), sums_error=error, networks_error=other)
    model = None if audit.additive else fit_network_model(features, seen)
    return replace(table, audit=audit, networks=model)


def _sums(
    stats: Mapping[OpKey, LatencyStat], subnets: Sequence[_Subnet], statistic: Statistic
) -> NDArray[np.float64]:
    return _floats([sum(stats[op.key].by(statistic) for op in subnet.plan.ops) for subnet in subnets])


def _seen(subnets: Sequence[_Subnet], statistic: Statistic) -> NDArray[np.float64]:
    return _floats([subnet.stat.by(statistic) for subnet in subnets])


def _floats(values: Sequence[float]) -> NDArray[np.float64]:
    return np.array(values, np.float64)
