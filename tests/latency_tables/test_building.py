"""Tables of devices where sums of ops hold, and of devices where they do not."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from functools import cache
from zlib import crc32

import numpy as np
import pytest

from bespoke.latency_tables import (
    DeviceProfile,
    LatencyTable,
    ProfilingPlan,
    Report,
    build_table,
    plan_profiling,
)
from bespoke.latency_tables.networks import op_weights_mb
from bespoke.supernet.architecture import Plan, decode, read_architecture
from bespoke.supernet.cost import op_macs
from bespoke.supernet.errors import InvalidInput, MeasurementInvalid
from bespoke.supernet.genomes import sample
from bespoke.supernet.ops import Op, parse_key
from bespoke.supernet.spaces import space

SPACE = space("ofa-mobilenetv3-w1.0", (96, 128), 10)
PROFILE = DeviceProfile("board", "onnxruntime", "1.0", "CPUExecutionProvider", 1, "fp32", 1, {"cpu": "x"})

Device = Callable[[Plan], float]


def op_ms(op: Op) -> float:
    return 0.002 + op_macs(op) / 1e9


def sums(plan: Plan) -> float:
    return 0.1 + 1.2 * sum(map(op_ms, plan.ops))


def overflowing(plan: Plan) -> float:
    """A device whose memory holds networks of about 14 MB; larger ones take four times as long."""
    weights_mb = sum(map(op_weights_mb, plan.ops))
    return sums(plan) * (1 + 3 / (1 + math.exp(-(weights_mb - 14) / 1.5)))


def erratic(plan: Plan) -> float:
    """A device whose latency nothing tells."""
    return sums(plan) * (1 + crc32(repr(plan).encode()) % 1000 / 500)


def reports(plan: ProfilingPlan, device: Device, noise: float = 0.0) -> Iterator[Report]:
    rng = np.random.default_rng(0)
    for number in range(plan.rounds):
        for entry in plan.order(number):
            if entry.key:
                ms = op_ms(parse_key(entry.key))
            else:
                ms = device(SPACE.plan(read_architecture(SPACE, entry.architecture or {})))
            yield Report(entry.id, number, (ms * (1 + noise * rng.exponential(size=8))).tolist(), 5.0)


@cache
def built(device: Device, effort: str = "standard") -> LatencyTable:
    plan = plan_profiling(SPACE, effort=effort)
    return build_table(PROFILE, plan, reports(plan, device), SPACE)


def test_where_sums_hold_they_price_and_the_audit_says_so() -> None:
    table = built(sums)
    assert table.audit is not None
    assert table.audit.sums_hold
    assert table.audit.additive
    assert table.audit.networks_error is None
    assert table.audit.ratio > 1.2
    assert "sums price" in table.audit.verdict
    assert table.networks is None
    assert table.pricer(SPACE).additive
    assert table.source == "ops"


def test_where_sums_fail_a_model_of_whole_networks_prices() -> None:
    table = built(overflowing)
    assert table.audit is not None
    assert not table.audit.additive
    assert table.audit.sums_error > table.audit.limit >= 0.1
    assert table.audit.networks_error is not None
    assert table.audit.networks_error < 0.5 * table.audit.sums_error
    assert "the model of whole networks prices" in table.audit.verdict
    assert table.networks is not None
    assert table.quality is not None
    assert table.quality.mape < 0.1
    genomes = sample(SPACE, 60, np.random.default_rng(5))
    true = np.array([overflowing(SPACE.plan(decode(SPACE, genome))) for genome in genomes])
    by_sums = dataclasses.replace(table, networks=None).pricer(SPACE).latency_ms(genomes)
    error = np.abs(table.pricer(SPACE).latency_ms(genomes) / true - 1)
    assert error.mean() < 0.5 * np.abs(by_sums / true - 1).mean()


def test_whole_networks_are_priced_alike_one_by_one_and_all_at_once() -> None:
    table = built(overflowing)
    pricer = table.pricer(SPACE)
    genomes = sample(SPACE, 40, np.random.default_rng(1))
    each = [table.predict(SPACE.plan(decode(SPACE, genome))) for genome in genomes]
    np.testing.assert_allclose(pricer.latency_ms(genomes), each, rtol=1e-9)
    assert not pricer.additive
    plain = dataclasses.replace(table, networks=None).pricer(SPACE)
    np.testing.assert_array_equal(pricer.slots.total(genomes), plain.slots.total(genomes))


def test_a_table_of_whole_networks_round_trips_as_plain_numbers() -> None:
    table = built(overflowing)
    again = LatencyTable.parse(json.dumps(table.to_json()))
    assert again == table
    assert again.revision == table.revision


def test_the_card_keeps_the_subnets_that_it_judged() -> None:
    table = built(overflowing)
    assert table.quality is not None
    predicted, measured = np.array(table.quality.points).T
    assert len(predicted) == table.quality.subnets == 30 - 16
    assert table.quality.mape == pytest.approx(np.abs(predicted / measured - 1).mean())


def test_where_nothing_is_better_sums_price_and_the_interval_is_honest() -> None:
    table = built(erratic)
    assert table.audit is not None
    assert not table.audit.sums_hold
    assert table.audit.additive
    assert table.networks is None
    assert "wide interval" in table.audit.verdict
    assert table.interval > 0.15


def test_with_too_few_networks_sums_price() -> None:
    plan = plan_profiling(SPACE)
    few = [entry for entry in plan.entries if entry.kind == "subnet"][8:]
    left = {entry.id for entry in few}
    kept = [report for report in reports(plan, overflowing) if report.entry_id not in left]
    table = build_table(PROFILE, plan, kept, SPACE)
    assert table.audit is not None
    assert table.audit.networks_error is None
    assert "too few networks" in table.audit.verdict
    assert table.networks is None


def test_ops_and_subnets_in_different_units_are_refused() -> None:
    plan = plan_profiling(SPACE)
    in_us = [
        r if "v1:" in r.entry_id else dataclasses.replace(r, samples_ms=[1000 * ms for ms in r.samples_ms])
        for r in reports(plan, sums)
    ]
    with pytest.raises(InvalidInput, match="not reported in one unit"):
        build_table(PROFILE, plan, in_us, SPACE)


def test_an_op_in_another_unit_than_its_likes_is_refused() -> None:
    """Each report by itself may be too small to tell; the table could not be read back."""
    plan = plan_profiling(SPACE)
    wrong = plan.entries[40].id
    came = [
        dataclasses.replace(r, samples_ms=[ms / 1000 for ms in r.samples_ms]) if r.entry_id == wrong else r
        for r in reports(plan, sums)
    ]
    with pytest.raises(InvalidInput, match="another unit") as raised:
        build_table(PROFILE, plan, came, SPACE)
    assert wrong in str(raised.value)


def test_a_device_that_takes_about_as_long_whatever_it_runs_has_a_table_that_is_read_back() -> None:
    table = built(lambda plan: 5 + sums(plan) / 2000)
    assert LatencyTable.from_json(table.to_json()) == table


def test_no_op_costs_less_than_nothing() -> None:
    """Also one that stands in no network that the correction was fitted on, and costs no call alone."""
    plan, call_ms = plan_profiling(SPACE, effort="standard"), 0.01
    in_networks = {
        op.key
        for entry in plan.entries
        if entry.kind == "subnet"
        for op in SPACE.plan(read_architecture(SPACE, entry.architecture or {})).ops
    }
    others = [e.key for e in plan.entries if e.kind == "op" and e.key and e.key not in in_networks]
    spared = min(others, key=lambda key: op_macs(parse_key(key)))
    came = [
        dataclasses.replace(r, samples_ms=[ms + call_ms for ms in r.samples_ms])
        if "v1:" in r.entry_id and r.entry_id != spared
        else r
        for r in reports(plan, sums)
    ]
    table = build_table(PROFILE, plan, came, SPACE)
    assert min(table.op_ms(op) for slot in SPACE.slots for op in slot.ops if op) >= 0


@pytest.mark.parametrize("value", [float("nan"), -1.0, 0.0, float("inf"), 1e9])
def test_a_time_that_is_none_is_refused(value: float) -> None:
    plan = plan_profiling(SPACE)
    wrong = Report(plan.entries[0].id, 1, [0.5, value])
    with pytest.raises(MeasurementInvalid, match=r"round 1, samples_ms\[1\]") as raised:
        build_table(PROFILE, plan, [*reports(plan, sums), wrong], SPACE)
    assert raised.value.entry_id == plan.entries[0].id
