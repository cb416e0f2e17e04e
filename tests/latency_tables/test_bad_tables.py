"""Tables that somebody broke: refused with what was found where, whatever it is; nothing is half-written."""

import copy
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bespoke.latency_tables import DeviceProfile, LatencyStat, LatencyTable, csv_text, read_table
from bespoke.latency_tables.files import MOST_BYTES
from bespoke.latency_tables.official import key_of
from bespoke.supernet.architecture import SearchSpace
from bespoke.supernet.cost import op_macs
from bespoke.supernet.errors import FileInvalid, InvalidInput
from bespoke.supernet.spaces import space
from bespoke.supernet.whole_files import write_whole

Fill = Callable[[SearchSpace], LatencyTable]

fuzzed = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NOT_A_LATENCY = [float("nan"), float("inf"), -1.0, 0, 1e9, 10**400, "1.0", None, True, [], {}]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3)
    ),
    max_leaves=6,
)


@cache
def whole() -> dict[str, Any]:
    """A table of twelve ops, as JSON."""
    ops = [op for slot in space("ofa-mobilenetv3-w1.0", (96,), 10).slots for op in slot.ops if op][:12]
    profile = DeviceProfile("board", "onnxruntime", "1.0", "CPU", 1, "fp32", 1, {"cpu": "x"})
    stats = {op.key: LatencyStat(1e-3 + op_macs(op) / 1e9, 1e-3, 2e-3, 30, 1) for op in ops}
    return LatencyTable(profile, stats).to_json()


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = data.items() if isinstance(data, dict) else []
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))]


@pytest.mark.parametrize("value", NOT_A_LATENCY)
def test_what_is_no_latency_is_refused_with_its_op(value: object) -> None:
    data = copy.deepcopy(whole())
    key = sorted(data["stats"])[3]
    data["stats"][key]["median_ms"] = value
    with pytest.raises(InvalidInput, match="median_ms") as raised:
        LatencyTable.from_json(data)
    assert key in str(raised.value)


@pytest.mark.parametrize("factor", [1000, 0.001])
def test_an_op_in_another_unit_is_refused(small: SearchSpace, filled: Fill, factor: float) -> None:
    data = filled(small).to_json()
    key = sorted(data["stats"])[100]
    data["stats"][key]["median_ms"] *= factor
    with pytest.raises(InvalidInput, match="another unit") as raised:
        LatencyTable.from_json(data)
    assert key in str(raised.value)


def test_networks_in_another_unit_than_ops_are_refused() -> None:
    scaled = whole() | {"correction": {"overhead_ms": 0.0, "scale": 1000.0, "weights_ms_per_mb": 0.0}}
    with pytest.raises(InvalidInput, match="scale: got 1000"):
        LatencyTable.from_json(scaled)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[NaN]", "got NaN for a number"),
        ('{"format": 1, "format": 2}', "'format' stands 2 times"),
        ("[" * 100_000, "expected JSON"),
        ("9" * 5000, "expected JSON|format"),
        ("{}", "format None"),
        ("\ufeff{}", "expected JSON"),
    ],
)
def test_json_that_is_no_table_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        LatencyTable.parse(text)


def test_an_op_that_stands_twice_is_refused(tmp_path: Path) -> None:
    text = json.dumps(whole())
    key = sorted(whole()["stats"])[0]
    twice = text.replace('"stats": {', f'"stats": {{"{key}": {json.dumps(whole()["stats"][key])}, ')
    (tmp_path / "t.json").write_text(twice)
    with pytest.raises(FileInvalid, match=f"'{key}' stands 2 times"):
        read_table([tmp_path / "t.json"])


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    for name in ("t.json", "t.csv", "t.yaml"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(MOST_BYTES + 1)
        with pytest.raises(FileInvalid, match=f"is {MOST_BYTES + 1} bytes"):
            read_table([tmp_path / name])


def test_another_spaces_ops_cover_nothing(small: SearchSpace) -> None:
    table = LatencyTable.from_json(whole())
    assert table.covered_resolutions(small) == ()


@given(st.integers(0, 10_000))
@fuzzed
def test_a_truncated_table_is_refused_in_every_format(tmp_path: Path, cut: int) -> None:
    json_text, csv = json.dumps(whole()), csv_text(LatencyTable.from_json(whole()))
    (tmp_path / "t.json").write_text(json_text[: cut % len(json_text)])
    with pytest.raises(FileInvalid):
        read_table([tmp_path / "t.json"])
    (tmp_path / "t.csv").write_text(csv[: cut % len(csv)])
    with pytest.raises(FileInvalid):
        read_table([tmp_path / "t.csv"])


@given(st.data())
@fuzzed
def test_any_field_may_hold_anything(data: st.DataObject) -> None:
    """Whatever stands anywhere in a table is read, or is an InvalidInput: no other error, no hang."""
    broken = copy.deepcopy(whole())
    *path, last = data.draw(st.sampled_from(places(broken)[1:]))
    inside = broken
    for key in path:
        inside = inside[key]
    inside[last] = data.draw(JSON)
    try:
        table = LatencyTable.from_json(broken)
    except InvalidInput:
        return
    assert LatencyTable.from_json(table.to_json()).revision == table.revision


@given(st.text(max_size=200) | st.binary(max_size=200))
@fuzzed
def test_any_text_is_refused_in_every_format(tmp_path: Path, content: str | bytes) -> None:
    raw = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    for name in ("t.json", "t.csv", "t.yaml"):
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(FileInvalid):
            read_table([tmp_path / name])


@given(st.data())
@fuzzed
def test_a_published_file_with_a_broken_entry_is_refused_or_read(tmp_path: Path, data: st.DataObject) -> None:
    ops = [op for slot in space("ofa-mobilenetv3-w1.0", (96,), 10).slots for op in slot.ops if op][:6]
    entries: dict[str, Any] = {key_of(op): {"count": 3, "mean": 0.1, "std": 0.01} for op in ops}
    key = data.draw(st.sampled_from(sorted(entries)))
    wrong = data.draw(JSON)
    entries[key] = data.draw(
        st.sampled_from([wrong, {"count": 3, "mean": wrong}, {"count": wrong, "mean": 1.0}])
    )
    (tmp_path / "t.yaml").write_text(json.dumps(entries))
    try:
        table = read_table([tmp_path / "t.yaml"])
    except FileInvalid:
        return
    assert all(stat.mean_ms > 0 for stat in table.stats.values())


def test_a_published_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    line = "Conv-input:160x160x3-output:80x80x24: {mean: 0.5, count: 3}\n"
    (tmp_path / "t.yaml").write_text(2 * line)
    with pytest.raises(FileInvalid, match="stands 2 times"):
        read_table([tmp_path / "t.yaml"])


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("before")
    (tmp_path / "b").mkdir()
    with pytest.raises(FileInvalid, match="cannot be written"):
        write_whole({tmp_path / "b" / "c" / ".." / "..": "new", tmp_path / "a": "after"})
    assert (tmp_path / "a").read_text() == "before"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "b"]
