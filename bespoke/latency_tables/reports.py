"""What agents report, checked before anything is kept: one wrong value refuses all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from bespoke.latency_tables.plausibility import UNIT_FACTOR, latency_problem, odd_units, short
from bespoke.latency_tables.profiling import ProfilingPlan, Report
from bespoke.latency_tables.timing import LONGEST_COLD_MS, LONGEST_MS, MOST_RUNS
from bespoke.supernet.errors import MeasurementInvalid
from bespoke.supernet.ops import OpKey

SENTINEL = "sentinel:"
"""Before the id of what a sentinel repeats: both take the same time."""


def check_reports(
    plan: ProfilingPlan, reports: Sequence[Report], known_ms: Mapping[str, float] | None = None
) -> None:
    """Refuse reports that cannot be true, or are of something that nobody asked for.

    Checked are: the entry is one of the plan (and not, say, an op of another space); its round is
    one of the plan's; each entry and round comes once; there are either samples or an error; every
    time is finite, positive and not absurd; and all are in one unit: with what is known of the
    entry, with its sentinel, and, for ops, with the ops of about as much work.

    Args:
        plan: What was asked for.
        reports: What came at once.
        known_ms: What is known already, in ms, by entry id: e.g. medians of earlier reports, or the
            ops of the device's table.

    Raises:
        MeasurementInvalid: Names the entry, its round, the value and what was expected.
    """
    wanted = {entry.id for entry in plan.entries}
    seen: set[tuple[str, int]] = set()
    for report in reports:
        if report.entry_id not in wanted:
            expected = "an entry of this plan; is it an op of another space?"
            raise _invalid(report, "entry_id", report.entry_id, expected)
        if type(report.round) is not int or not 0 <= report.round < plan.rounds:
            raise _invalid(report, "round", report.round, f"0 to {plan.rounds - 1}")
        if (report.entry_id, report.round) in seen:
            raise _invalid(report, "round", report.round, "each entry and round once in a report")
        seen.add((report.entry_id, report.round))
        if not report.error and not len(report.samples_ms):
            raise _invalid(report, "samples_ms", [], "samples, or an error that says why there are none")
    check_samples(reports)
    _check_units(plan, reports, known_ms or {})


def check_samples(reports: Iterable[Report]) -> None:
    """Refuse times that are none.

    Raises:
        MeasurementInvalid: A time is not finite, not positive or absurd, or there are too many.
    """
    for report in reports:
        if len(report.samples_ms) > MOST_RUNS:
            raise _invalid(report, "samples_ms", f"{len(report.samples_ms)} samples", f"at most {MOST_RUNS}")
        times = [(f"samples_ms[{i}]", value, LONGEST_MS) for i, value in enumerate(report.samples_ms)]
        if report.cold_ms is not None:
            times.append(("cold_ms", report.cold_ms, LONGEST_COLD_MS))
        for field, value, longest_ms in times:
            if latency_problem(value, longest_ms):
                raise _invalid(report, field, value, "positive milliseconds of a plausible length")


def _check_units(plan: ProfilingPlan, reports: Sequence[Report], known_ms: Mapping[str, float]) -> None:
    """Refuse a time that is about 1,000 times another that it should be near to."""
    references = {entry_id.removeprefix(SENTINEL): ms for entry_id, ms in known_ms.items()}
    medians = [(report, float(np.median(report.samples_ms))) for report in reports if len(report.samples_ms)]
    for report, median in medians:
        reference = references.setdefault(report.entry_id.removeprefix(SENTINEL), median)
        if not 1 / UNIT_FACTOR < median / reference < UNIT_FACTOR:
            expected = f"milliseconds near {reference:.6g}, as it took before; is it another unit?"
            raise _invalid(report, "samples_ms", median, expected)
    keys: dict[str, OpKey] = {
        entry.id.removeprefix(SENTINEL): e for entry in plan.entries if (e := entry.key)
    }
    odd = odd_units({keys[name]: ms for name, ms in references.items() if name in keys})
    for report, median in medians:
        expected_ms = odd.get(keys.get(report.entry_id.removeprefix(SENTINEL), OpKey("")))
        if expected_ms is not None:
            expected = f"about {expected_ms:.3g} ms, as ops of as much work take; is it another unit?"
            raise _invalid(report, "samples_ms", median, expected)


def _invalid(report: Report, field: str, got: object, expected: str) -> MeasurementInvalid:
    entry = report.entry_id if isinstance(report.entry_id, str) else repr(report.entry_id)
    return MeasurementInvalid(
        entry[:200], report.round, field, got if isinstance(got, str) else short(got), expected
    )
