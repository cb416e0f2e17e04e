"""What agents report, and what of it is refused."""

import dataclasses
from collections.abc import Callable

import pytest

from bespoke.latency_tables import LatencyTable, ProfilingPlan, Report, check_reports, plan_profiling
from bespoke.supernet.architecture import SearchSpace
from bespoke.supernet.errors import MeasurementInvalid
from bespoke.supernet.spaces import space

SPACE = space("ofa-mobilenetv3-w1.0", (96, 128), 10)
PLAN = plan_profiling(SPACE)
OPS = [entry for entry in PLAN.entries if entry.kind == "op"]
SENTINEL = next(entry for entry in PLAN.entries if entry.kind == "sentinel" and entry.key)


def good(plan: ProfilingPlan, table: LatencyTable, number: int = 0) -> list[Report]:
    """One round of every op and op sentinel."""
    entries = [entry for entry in plan.entries if entry.key]
    return [
        Report(entry.id, number, [table.stats[entry.key].median_ms] * 3, 1.0)
        for entry in entries
        if entry.key
    ]


@pytest.fixture
def table(filled: Callable[[SearchSpace], LatencyTable]) -> LatencyTable:
    return filled(SPACE)


def test_plausible_reports_pass(table: LatencyTable) -> None:
    failed = Report(OPS[0].id, 1, [], None, "RuntimeError: no memory")
    check_reports(PLAN, [*good(PLAN, table), failed])
    check_reports(PLAN, [])
    # Some runtimes compile a network for minutes before it runs first.
    check_reports(PLAN, [Report(OPS[0].id, 1, [1.0], 110_000.0)])


@pytest.mark.parametrize(
    ("change", "field", "expected"),
    [
        ({"samples_ms": [0.1, float("nan")]}, r"samples_ms\[1\]", "positive milliseconds"),
        ({"samples_ms": [float("inf")]}, r"samples_ms\[0\]", "positive milliseconds"),
        ({"samples_ms": [0.0]}, r"samples_ms\[0\]", "positive milliseconds"),
        ({"samples_ms": [-1.0]}, r"samples_ms\[0\]", "positive milliseconds"),
        ({"samples_ms": ["1"]}, r"samples_ms\[0\]", "positive milliseconds"),
        ({"samples_ms": [10**400]}, r"samples_ms\[0\]", "positive milliseconds"),
        ({"samples_ms": [1e8]}, r"samples_ms\[0\]", "plausible length"),
        ({"samples_ms": [0.1] * 10_001}, "samples_ms", "at most 10000"),
        ({"samples_ms": []}, "samples_ms", "says why there are none"),
        ({"cold_ms": -2.0}, "cold_ms", "positive milliseconds"),
        ({"round": 4}, "round", "0 to 3"),
        ({"round": -1}, "round", "0 to 3"),
        ({"entry_id": "v1:pool:in9x9x9:out9"}, "entry_id", "another space"),
    ],
)
def test_a_wrong_report_names_the_field(change: dict[str, object], field: str, expected: str) -> None:
    report = dataclasses.replace(Report(OPS[0].id, 0, [0.1], 1.0), **change)  # type: ignore[arg-type]
    with pytest.raises(MeasurementInvalid, match=f"{field}: got .*{expected}"):
        check_reports(PLAN, [report])


def test_one_measurement_comes_once(table: LatencyTable) -> None:
    reports = good(PLAN, table)
    with pytest.raises(MeasurementInvalid, match="once in a report"):
        check_reports(PLAN, [*reports, reports[7]])


@pytest.mark.parametrize("factor", [1000.0, 0.001])
def test_another_unit_than_the_sentinels_is_refused(table: LatencyTable, factor: float) -> None:
    """All of a report may be in another unit: what was known before tells."""
    wrong = [
        dataclasses.replace(report, samples_ms=[factor * ms for ms in report.samples_ms])
        for report in good(PLAN, table)
    ]
    check_reports(PLAN, [report for report in wrong if report.entry_id == SENTINEL.id])
    known = {SENTINEL.id: table.stats[SENTINEL.key].median_ms}  # type: ignore[index]
    with pytest.raises(MeasurementInvalid, match="another unit") as raised:
        check_reports(PLAN, wrong, known)
    assert raised.value.entry_id.removeprefix("sentinel:") == SENTINEL.key


@pytest.mark.parametrize("factor", [1000.0, 0.001])
def test_one_op_in_another_unit_than_its_likes_is_refused(table: LatencyTable, factor: float) -> None:
    reports = good(PLAN, table)
    odd = reports[40]
    reports[40] = dataclasses.replace(odd, samples_ms=[factor * ms for ms in odd.samples_ms])
    with pytest.raises(MeasurementInvalid, match="another unit") as raised:
        check_reports(PLAN, reports)
    assert raised.value.entry_id.removeprefix("sentinel:") == odd.entry_id.removeprefix("sentinel:")
