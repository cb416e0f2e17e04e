"""Plans of what to measure, and tables out of a device whose truth is known."""

import json
from collections.abc import Callable, Iterator

import numpy as np
import onnx
import pytest

from bespoke.latency_tables import (
    EFFORTS,
    DeviceProfile,
    LatencyTable,
    ProfilingEntry,
    ProfilingPlan,
    Report,
    Timing,
    build_table,
    entry_onnx,
    plan_profiling,
)
from bespoke.supernet.architecture import SearchSpace, read_architecture
from bespoke.supernet.cost import cost, op_macs
from bespoke.supernet.errors import InvalidInput, TableIncomplete
from bespoke.supernet.ops import PRECISIONS, parse_key

Fill = Callable[[SearchSpace], LatencyTable]


def true_ms(entry: ProfilingEntry, space: SearchSpace) -> float:
    """A device that takes 1.2 times the sum of its ops, and 0.1 ms."""
    if entry.key:
        return 0.002 + op_macs(parse_key(entry.key)) / 1e9
    plan = space.plan(read_architecture(space, entry.architecture or {}))
    return 0.1 + 1.2 * sum(0.002 + op_macs(op) / 1e9 for op in plan.ops)


def reports(plan: ProfilingPlan, space: SearchSpace, noise: float = 0.0, seed: int = 0) -> Iterator[Report]:
    """Every measurement of a plan: the truth, slowed down at random."""
    rng = np.random.default_rng(seed)
    for number in range(plan.rounds):
        for entry in plan.order(number):
            slow = 1 + noise * rng.exponential(size=20)
            yield Report(entry.id, number, list(true_ms(entry, space) * slow), 5.0)


def test_a_plan_holds_each_missing_op_once(small: SearchSpace, filled: Fill) -> None:
    plan = plan_profiling(small)
    ops = [entry.key for entry in plan.entries if entry.kind == "op"]
    assert sorted(ops) == sorted(filled(small).stats)
    known = ops[:100]
    rest = plan_profiling(small, known)
    assert [entry.key for entry in rest.entries if entry.kind == "op"] == ops[100:]


@pytest.mark.parametrize("effort", EFFORTS)
def test_an_effort_says_how_many_subnets_and_rounds(small: SearchSpace, effort: str) -> None:
    plan = plan_profiling(small, effort=effort)
    subnets = [entry for entry in plan.entries if entry.kind == "subnet"]
    assert (len(subnets), plan.rounds) == (EFFORTS[effort].subnets, EFFORTS[effort].rounds)
    assert plan.timing == EFFORTS[effort].timing
    assert len({entry.id for entry in plan.entries}) == len(plan.entries)


def test_an_unknown_effort_is_named(small: SearchSpace) -> None:
    with pytest.raises(InvalidInput, match="'heroic', expected one of quick, standard, thorough"):
        plan_profiling(small, effort="heroic")


def test_subnets_spread_over_resolutions_and_sizes(small: SearchSpace) -> None:
    plan = plan_profiling(small, effort="standard")
    nets = [read_architecture(small, e.architecture or {}) for e in plan.entries if e.kind == "subnet"]
    for resolution in (96, 128):
        macs = [cost(small.plan(a)).macs for a in nets if a.resolution == resolution]
        assert len(macs) == 15
        assert max(macs) > 2.5 * min(macs)


def test_one_seed_gives_one_plan_and_each_round_its_own_order(small: SearchSpace) -> None:
    plan = plan_profiling(small, seed=3)
    assert plan == plan_profiling(small, seed=3)
    assert plan.entries != plan_profiling(small, seed=4).entries
    assert plan.order(0) == plan.order(0)
    assert plan.order(0) != plan.order(1)
    assert sorted(e.id for e in plan.order(1)) == sorted(e.id for e in plan.entries)
    assert plan.total == plan.rounds * len(plan.entries)


def test_sentinels_stand_apart_in_each_round(small: SearchSpace) -> None:
    plan = plan_profiling(small)
    places = [i for i, entry in enumerate(plan.order(0)) if entry.kind == "sentinel"]
    assert len(places) == 5
    assert min(np.diff(places)) > len(plan.entries) // 8


def test_a_plan_round_trips(small: SearchSpace) -> None:
    plan = plan_profiling(small, effort="standard", seed=1)
    assert ProfilingPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_entries_are_networks_with_the_same_bytes_each_time(small: SearchSpace) -> None:
    plan = plan_profiling(small)
    op = plan.entries[5]
    net = next(entry for entry in plan.entries if entry.kind == "subnet")
    for entry in (op, net):
        for precision in PRECISIONS:
            first = entry_onnx(entry, small, precision)
            assert first == entry_onnx(entry, small, precision)
            onnx.checker.check_model(onnx.load_model_from_string(first))
        assert entry_onnx(entry, small, "int8") != entry_onnx(entry, small)


def test_a_quiet_device_is_predicted_exactly(small: SearchSpace, profile: DeviceProfile) -> None:
    plan = plan_profiling(small)
    table = build_table(profile, plan, reports(plan, small), small, duration_s=40.0)
    assert table.missing(small) == ()
    assert table.correction.scale == pytest.approx(1.2)
    assert table.correction.overhead_ms == pytest.approx(0.1)
    assert table.quality is not None
    assert table.quality.mape == pytest.approx(0, abs=1e-9)
    assert (table.quality.subnets, table.quality.duration_s) == (12, 40.0)
    assert table.quality.drift == 0
    assert table.quality.repeat_mape == pytest.approx(0, abs=1e-9)
    assert table.interval == pytest.approx(0, abs=1e-9)


def test_a_noisy_device_is_predicted_within_its_interval(small: SearchSpace, profile: DeviceProfile) -> None:
    plan = plan_profiling(small, effort="standard")
    table = build_table(profile, plan, reports(plan, small, noise=0.3), small)
    assert table.statistic == "low"
    assert table.quality is not None
    assert table.quality.mape < 0.02
    assert table.quality.spearman > 0.99
    assert table.quality.mape <= table.interval < 0.1
    assert table.quality.rejected > 0
    assert table.quality.drift > 0
    assert table.quality.duration_s > 0


def test_a_disturbed_round_does_not_count(small: SearchSpace, profile: DeviceProfile) -> None:
    plan = plan_profiling(small)
    disturbed = [
        Report(r.entry_id, r.round, [ms * (1.8 if r.round == 1 else 1) for ms in r.samples_ms], r.cold_ms)
        for r in reports(plan, small)
    ]
    table = build_table(profile, plan, disturbed, small)
    assert table.quality is not None
    assert table.quality.mape == pytest.approx(0, abs=1e-9)
    assert table.quality.drift == pytest.approx(0.8)


def test_what_a_device_does_in_most_rounds_prices_where_it_is_now_and_then_faster(
    small: SearchSpace, profile: DeviceProfile
) -> None:
    plan = plan_profiling(small, effort="standard")
    rng = np.random.default_rng(0)
    boosts = iter(np.where(rng.random(plan.total) < 0.1, 0.7, 1))
    boosted = [
        Report(r.entry_id, r.round, list(next(boosts) * np.array(r.samples_ms)), r.cold_ms)
        for r in reports(plan, small)
    ]
    table = build_table(profile, plan, boosted, small)
    assert table.statistic == "median"
    assert table.quality is not None
    assert table.quality.mape == pytest.approx(0, abs=1e-9)


def test_slow_outliers_are_rejected_and_counted(small: SearchSpace, profile: DeviceProfile) -> None:
    plan = plan_profiling(small)
    spiked = [Report(r.entry_id, r.round, [*r.samples_ms, 1e4], 5.0) for r in reports(plan, small)]
    table = build_table(profile, plan, spiked, small)
    stat = table.stats[plan.entries[0].key]
    assert (stat.samples, stat.rejected) == (20 * plan.rounds, plan.rounds)
    assert stat.mean_ms == pytest.approx(stat.low_ms)


def test_repeated_reports_count_once(small: SearchSpace, profile: DeviceProfile) -> None:
    plan = plan_profiling(small)
    once = list(reports(plan, small))
    assert build_table(profile, plan, once * 2, small) == build_table(profile, plan, once, small)


def test_failures_and_unknown_entries_are_left_out(small: SearchSpace, profile: DeviceProfile) -> None:
    plan = plan_profiling(small)
    good = list(reports(plan, small))
    bad = [
        Report("v1:unknown", 0, [1.0]),
        Report(plan.entries[0].id, 7, [], None, "RuntimeError: no memory"),
    ]
    assert build_table(profile, plan, good + bad, small) == build_table(profile, plan, good, small)


def test_an_op_that_was_never_measured_is_named(small: SearchSpace, profile: DeviceProfile) -> None:
    plan = plan_profiling(small)
    lost = plan.entries[0].id
    with pytest.raises(TableIncomplete) as raised:
        build_table(profile, plan, [r for r in reports(plan, small) if r.entry_id != lost], small)
    assert raised.value.missing == (lost,)


def test_a_table_needs_a_measured_subnet(small: SearchSpace, profile: DeviceProfile) -> None:
    plan = plan_profiling(small)
    ops = [r for r in reports(plan, small) if not r.entry_id.startswith("subnet:")]
    with pytest.raises(InvalidInput, match="no validation subnet"):
        build_table(profile, plan, ops, small)


def test_known_ops_come_from_the_base_table(small: SearchSpace, profile: DeviceProfile) -> None:
    full = plan_profiling(small)
    base = build_table(profile, full, reports(full, small), small)
    known = list(base.stats)[:200]
    plan = plan_profiling(small, known)
    table = build_table(profile, plan, reports(plan, small), small, base=base)
    assert table.stats == base.stats
    with pytest.raises(TableIncomplete):
        build_table(profile, plan, reports(plan, small), small)


def test_stop_rules_from_outside_are_checked() -> None:
    assert Timing.from_json({"min_runs": 3, "something_newer": 1}) == Timing(min_runs=3)
    for wrong in ({"min_ms": 1e9}, {"min_runs": 0}, {"warm_up_ms": "long"}):
        with pytest.raises(InvalidInput, match=next(iter(wrong))):
            Timing.from_json(wrong)
