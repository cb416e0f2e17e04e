"""Tables: profiles, prices, files."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bespoke.latency_tables import (
    AdditivityAudit,
    Correction,
    DeviceProfile,
    LatencyTable,
    QualityCard,
    covered_space,
    read_table,
)
from bespoke.supernet.architecture import Plan, Route, SearchSpace, Segment, decode
from bespoke.supernet.errors import FileInvalid, InvalidInput, OpKeyInvalid, TableIncomplete
from bespoke.supernet.genomes import largest, sample, smallest
from bespoke.supernet.ops import Op
from bespoke.supernet.spaces import space

Fill = Callable[[SearchSpace], LatencyTable]
CORRECTION = Correction(overhead_ms=0.25, scale=1.2, weights_ms_per_mb=0.03)


def test_the_digest_ignores_the_label_and_nothing_else(profile: DeviceProfile) -> None:
    renamed = dataclasses.replace(profile, device="other")
    assert renamed.digest == profile.digest
    for change in ({"threads": 2}, {"precision": "int8"}, {"batch": 4}, {"fingerprint": {"cpu": "y"}}):
        assert dataclasses.replace(profile, **change).digest != profile.digest


def test_a_profile_round_trips_whatever_the_order_of_its_facts() -> None:
    one = DeviceProfile("a", "r", "1", "p", 1, "fp32", 1, {"x": 1, "y": "z"})
    other = dataclasses.replace(one, fingerprint={"y": "z", "x": 1})
    assert one.digest == other.digest
    assert DeviceProfile.from_json(json.loads(json.dumps(one.to_json()))) == one


@pytest.mark.parametrize(
    ("field", "value"),
    [("threads", "1"), ("threads", -1), ("threads", True), ("batch", 0), ("runtime", ""), ("device", 3),
     ("fingerprint", []), ("fingerprint", {"a": [1]}), ("fingerprint", {"a": float("nan")}),
     ("device", "half \ud800"), ("fingerprint", {"\ud800": 1})],
)  # fmt: skip
def test_a_wrong_profile_field_is_named(profile: DeviceProfile, field: str, value: object) -> None:
    with pytest.raises(InvalidInput, match=field):
        DeviceProfile.from_json(profile.to_json() | {field: value})


def test_a_profile_with_missing_or_unknown_fields_is_refused(profile: DeviceProfile) -> None:
    data = profile.to_json()
    del data["threads"]
    with pytest.raises(InvalidInput, match=r"missing fields \['threads'\], unknown fields \['hostname'\]"):
        DeviceProfile.from_json(data | {"hostname": "h"})


@pytest.mark.parametrize("correction", [Correction(), CORRECTION])
@pytest.mark.parametrize("statistic", ["low", "median", "mean"])
def test_the_pricer_equals_predicting_each_plan(
    small: SearchSpace, filled: Fill, correction: Correction, statistic: str
) -> None:
    table = dataclasses.replace(filled(small), correction=correction, statistic=statistic)
    genomes = sample(small, 50, np.random.default_rng(0))
    each = [table.predict(small.plan(decode(small, genome))) for genome in genomes]
    np.testing.assert_allclose(table.pricer(small).latency_ms(genomes), each, rtol=1e-12)


def test_the_correction_applies_once_per_network_and_to_each_weight(small: SearchSpace, filled: Fill) -> None:
    table = filled(small)
    plan = small.plan(smallest(small))
    plain = table.predict(plan)
    overhead = dataclasses.replace(table, correction=Correction(overhead_ms=0.5))
    assert overhead.predict(plan) == pytest.approx(plain + 0.5)
    op = Op("linear", (1, 1, 1280), 10)
    weights = dataclasses.replace(table, correction=Correction(weights_ms_per_mb=2.0))
    assert weights.op_ms(op) == pytest.approx(table.op_ms(op) + 2.0 * (1281 * 10 * 4) / 1e6)


def test_a_larger_network_is_slower(small: SearchSpace, filled: Fill) -> None:
    table = filled(small)
    assert table.predict(small.plan(smallest(small))) < table.predict(small.plan(largest(small)))


def test_a_routed_plan_costs_its_slowest_route(
    profile: DeviceProfile, small: SearchSpace, filled: Fill
) -> None:
    table = filled(small)
    ops = small.plan(smallest(small)).ops
    head, light, heavy = ops[0], ops[1], ops[2]
    plan = Plan(
        (96, 96, 3),
        (
            Segment("head", (head,)),
            Segment("light", (light,), ((0, 0),)),
            Segment("heavy", (heavy,), ((0, 0),)),
        ),
        (Route("a", (0, 1)), Route("b", (0, 2))),
    )
    slower = max(table.op_ms(light), table.op_ms(heavy))
    assert table.predict(plan) == pytest.approx(table.op_ms(head) + slower)


def test_the_interval_is_relative(small: SearchSpace, filled: Fill) -> None:
    pricer = dataclasses.replace(filled(small), interval=0.1).pricer(small)
    low, high = pricer.interval_ms(np.array([10.0, 20.0]))
    np.testing.assert_allclose(low, [9, 18])
    np.testing.assert_allclose(high, [11, 22])


def test_missing_ops_are_named_and_cost_their_resolution_only(small: SearchSpace, filled: Fill) -> None:
    table = filled(small)
    lost = Op("conv", (96, 96, 3), 16, kernel=3, stride=2, activation="hswish").key
    holed = dataclasses.replace(table, stats={k: v for k, v in table.stats.items() if k != lost})
    assert holed.missing(small) == (lost,)
    assert holed.covered_resolutions(small) == (128,)
    with pytest.raises(TableIncomplete) as raised:
        holed.pricer(small)
    assert raised.value.missing == (lost,)
    with pytest.raises(TableIncomplete):
        holed.predict(small.plan(smallest(small, 96)))
    narrowed = covered_space(holed, small)
    assert narrowed.dimensions[-1].choices == (128,)
    assert holed.pricer(narrowed).latency_ms(sample(narrowed, 3, np.random.default_rng(0))).shape == (3,)


def test_a_table_of_another_space_covers_nothing(small: SearchSpace, filled: Fill) -> None:
    with pytest.raises(TableIncomplete):
        covered_space(filled(small), space("ofa-mobilenetv3-w1.2", (96,), 10))


def test_a_table_round_trips_with_its_revision(small: SearchSpace, filled: Fill, tmp_path: Path) -> None:
    card = QualityCard(0.02, 0.05, 0.06, 0.9, 1.0, 0.99, 0.95, 0.01, 9, 1000, 3, 12.5, 0.04)
    table = dataclasses.replace(
        filled(small), correction=CORRECTION, quality=card, interval=0.05, statistic="low"
    )
    table.save(tmp_path / "t.json")
    again = LatencyTable.load(tmp_path / "t.json")
    assert again == table
    assert again.revision == table.revision
    assert dataclasses.replace(table, interval=0.06).revision != table.revision


def test_a_table_keeps_its_revision_where_a_program_wrote_its_numbers_shorter(
    small: SearchSpace, filled: Fill
) -> None:
    def shorter(data: Any) -> Any:
        if isinstance(data, dict):
            return {key: shorter(value) for key, value in data.items()}
        return int(data) if isinstance(data, float) and data.is_integer() else data

    audit = AdditivityAudit(9, 1.0, 0.02, 0.1)
    card = QualityCard(0.02, 0.05, 0.06, 0.9, 1.0, 1.0, 0.95, 0.01, 9, 1000, 3, 12.0, 0.04)
    table = dataclasses.replace(filled(small), correction=CORRECTION, quality=card, audit=audit)
    answer = table.to_json() | {"revision": table.revision}
    again = LatencyTable.from_json(shorter(answer))
    assert (again, again.revision) == (table, table.revision)
    typed = LatencyTable.from_json(shorter(table.to_json()))
    assert LatencyTable.from_json(typed.to_json() | {"revision": typed.revision}).revision == typed.revision
    assert LatencyTable.from_json(shorter(answer | {"interval": 0.5})).revision != table.revision


def test_stats_of_one_resolution_price_that_resolution(small: SearchSpace, filled: Fill) -> None:
    table = filled(small)
    mix = Op("conv", (1, 1, 960), 1280, activation="hswish", norm=False).key
    dearer = dataclasses.replace(table.stats[mix], median_ms=table.stats[mix].median_ms + 7)
    table = dataclasses.replace(table, by_resolution={128: {mix: dearer}})
    plain = filled(small)
    for resolution, extra in ((96, 0.0), (128, 7.0)):
        plan = small.plan(smallest(small, resolution))
        assert table.predict(plan) == pytest.approx(plain.predict(plan) + extra)
    genomes = sample(small, 30, np.random.default_rng(1))
    each = [table.predict(small.plan(decode(small, genome))) for genome in genomes]
    np.testing.assert_allclose(table.pricer(small).latency_ms(genomes), each, rtol=1e-12)
    assert LatencyTable.from_json(json.loads(json.dumps(table.to_json()))) == table


@pytest.mark.parametrize(
    ("change", "message"),
    [({"format": "x"}, "format 'x'"), ({"stats": {"v1:conv": {}}}, "v1:conv"), ({"statistic": "p99"}, "p99"),
     ({"interval": -1}, "interval"), ({"correction": {"factor": 2}}, "factor"), ({"profile": {}}, "missing")],
)  # fmt: skip
def test_a_wrong_table_says_what_is_wrong(
    small: SearchSpace, filled: Fill, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps(filled(small).to_json() | change))
    with pytest.raises(FileInvalid, match=message):
        LatencyTable.load(path)


def test_negative_latencies_are_refused(small: SearchSpace, filled: Fill) -> None:
    data = filled(small).to_json()
    next(iter(data["stats"].values()))["low_ms"] = -1.0
    with pytest.raises(InvalidInput, match=r"low_ms: got -1\.0"):
        LatencyTable.from_json(data)
    data["stats"] = {"v1:conv:nonsense": {}}
    with pytest.raises(OpKeyInvalid):
        LatencyTable.from_json(data)


def test_read_table_names_what_it_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "notes.txt").write_text("hi")
    for name, message in (
        ("absent", "no such file"), ("empty", "holds no latency table"), ("list.json", "format 'list'"),
        ("broken.json", "as JSON"), ("notes.txt", "ending in"),
    ):  # fmt: skip
        with pytest.raises(FileInvalid, match=message):
            read_table([tmp_path / name])
    with pytest.raises(FileInvalid, match="at least one"):
        read_table([])


def test_tables_of_two_resolutions_merge(filled: Fill, profile: DeviceProfile, tmp_path: Path) -> None:
    parts = {r: filled(space("ofa-mobilenetv3-w1.0", (r,), 10)) for r in (96, 128)}
    for resolution, table in parts.items():
        table.save(tmp_path / f"{resolution}.json")
    both = read_table([tmp_path])
    assert both.covered_resolutions(space("ofa-mobilenetv3-w1.0", (96, 112, 128), 10)) == (96, 128)
    other = dataclasses.replace(profile, threads=2)
    dataclasses.replace(parts[96], profile=other).save(tmp_path / "other.json")
    with pytest.raises(FileInvalid, match="another device profile"):
        read_table([tmp_path])


def test_ours_and_published_tables_do_not_mix(small: SearchSpace, filled: Fill, tmp_path: Path) -> None:
    filled(small).save(tmp_path / "a.json")
    (tmp_path / "b.yaml").write_text("{}")
    with pytest.raises(FileInvalid, match="cannot be merged"):
        read_table([tmp_path])
