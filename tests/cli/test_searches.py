"""``bespoke searches`` against a running service."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from bespoke.cli.searches import searches_app, show
from bespoke.client import Client
from tests.cli.conftest import Live
from tests.cli.test_offline import Done, bespoke
from tests.service.tables import profiled

EFFORT = ("--population", 8, "--generations", 3)
TINY = ("--supernet", "tiny")


@pytest.fixture(scope="module")
def devices(live: Live) -> tuple[str, str]:
    first = profiled(live.client, "searched", live.space)
    second = profiled(live.client, "second", live.space, slower=0.5, per_op_ms=0.1)
    return first["id"], second["id"]


def run(live: Live, command: str, *arguments: object) -> Done:
    return bespoke("searches", command, *arguments, *live.access)


def told(live: Live, command: str, *arguments: object) -> Any:
    done = run(live, command, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_option_of_a_search_reaches_the_service(live: Live, devices: tuple[str, str]) -> None:
    first, second = devices
    found = told(
        live, "ask", *TINY, *EFFORT, "--device", "searched", "--limit", "latency_ms=14@0.9",
        "--limit", "params=5e6", "--also", "second=9", "--restrict", "kernel=3,5",
        "--restrict", "resolution=48", "--alternatives", 1, "--seed", 3,
        "--metrics", "top1,latency_ms,params",
    )  # fmt: skip
    assert found["request"] == {
        "supernet": "tiny",
        "device": first,
        "constraints": {"latency_ms": {"limit": 14.0, "confidence": 0.9}, "params": 5e6},
        "devices": {second: {"latency_ms": 9.0}},
        "restrict": {"kernel": [3, 5], "resolution": [48]},
        "min_top1": None,
        "minimise": None,
        "alternatives": 1,
        "pareto": {"metrics": ["top1", "latency_ms", "params"]},
        "seed": 3,
        "effort": {"population": 8, "generations": 3},
        "verify": None,
    }
    assert len(found["alternatives"]) == 1
    assert found["front"]["members"]


def test_an_answer_is_shown_fetched_and_replayed(
    live: Live, devices: tuple[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    asked = run(
        live,
        "ask",
        *TINY,
        *EFFORT,
        "--device",
        "searched",
        "--limit",
        "latency_ms=6",
        "--pareto",
        "--out",
        path,
    )
    assert asked.returncode == 0, asked.stderr
    lines = asked.stdout.splitlines()
    assert hashlib.sha256(path.read_bytes()).hexdigest() in lines[-1]
    (search_id,) = [line.split()[1] for line in lines if line.startswith("search ")]
    assert any(line.startswith("limit ") and "of 6: " in line for line in lines)
    assert any(line.startswith("front ") for line in lines)
    shown = run(live, "show", search_id)
    assert shown.stdout.splitlines() == lines[:-1]
    assert told(live, "replay", search_id) == live.client.search_result(search_id)
    assert run(live, "replay", search_id).stdout == shown.stdout


def test_limits_that_nothing_meets_end_with_their_own_code(live: Live, devices: tuple[str, str]) -> None:
    arguments = (*TINY, "--device", "searched", "--limit", "latency_ms=0.001")
    done = run(live, "ask", *arguments)
    assert (done.returncode, done.stdout) == (3, "")
    assert "latency_ms" in done.stderr
    done = run(live, "ask", *arguments, "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["relax"]["latency_ms"] > 0.001


def test_a_fleet_is_covered_and_its_models_fetched(
    live: Live, devices: tuple[str, str], tmp_path: Path
) -> None:
    members = ("--member", "searched:latency_ms=12", "--member", "second:latency_ms=9@0.9,params=6e6")
    found = told(live, "fleet", *TINY, *EFFORT, *members, "--out", tmp_path / "models")
    assert [served["device"] for served in found["members"]] == list(devices)
    assert len(found["architectures"]) == 1
    assert found["request"]["members"][1]["constraints"]["latency_ms"] == {"limit": 9.0, "confidence": 0.9}
    names = {path.stem for path in (tmp_path / "models").iterdir()}
    assert names == {served["subnet"]["id"] for served in found["members"]}
    asked = run(live, "fleet", *TINY, *EFFORT, *members, "--subnets", 2)
    assert "at most 2 architectures: mean top-1" in asked.stdout
    fleet_id = asked.stdout.split()[-1]
    assert run(live, "show", fleet_id).stdout == asked.stdout
    shown = told(live, "show", found["id"], "--out", tmp_path / "again")
    assert shown == found
    assert {path.stem for path in (tmp_path / "again").iterdir()} == names
    assert run(live, "fleet", *TINY, "--member", "second:latency_ms=0.001").returncode == 3


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--limit", "latency_ms=fast", "latency_ms=20@0.95"),
        ("--also", "second=9@much", "latency_ms=20@0.95"),
        ("--restrict", "kernel=big", "kernel=3,5"),
        ("--limit", "macs=nan", "latency_ms=20@0.95"),
        ("--limit", "latency_ms=20@", "latency_ms=20@0.95"),
        ("--also", "second=", "latency_ms=20@0.95"),
    ],
)
def test_an_option_that_cannot_be_read_says_what_is_expected(
    live: Live, option: str, value: str, expected: str
) -> None:
    done = run(live, "ask", *TINY, option, value)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{option}: got {value!r}" in done.stderr
    assert expected in done.stderr


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--limit", ("macs=3e8", "macs=2e8")),
        ("--restrict", ("kernel=3", "kernel=5")),
        ("--also", ("second=9", "second=8")),
    ],
)
def test_what_is_given_twice_is_refused_and_not_lost(
    live: Live, devices: tuple[str, str], option: str, values: tuple[str, str]
) -> None:
    done = run(live, "ask", *TINY, *(word for value in values for word in (option, value)))
    assert (done.returncode, done.stdout) == (2, "")
    assert "twice" in done.stderr
    done = run(live, "fleet", *TINY, "--member", "second:latency_ms=9,latency_ms=8")
    assert "--member: got 'latency_ms' twice" in done.stderr


def test_an_answer_is_told_also_where_its_model_cannot_be_written(live: Live, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for command in (("ask", "--limit", "macs=1e9"), ("fleet", "--member", "second:latency_ms=9")):
        done = run(live, *command, *TINY, *EFFORT, "--out", tmp_path / "file" / "model.onnx")
        assert done.returncode == 2
        assert "sub_" in done.stdout
        assert "cannot be written" in done.stderr


def test_an_answer_tells_how_its_verification_stands(
    live: Live, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = told(live, "ask", *TINY, *EFFORT, "--limit", "macs=1e9")
    verified = {"kind": "measured", "state": "running", "progress": 0.5, "error": None, "met": None}
    winner = {"subnet_id": "sub_w", "top1": 0.8, "measured_top1": None, "measured_ms": 3.25}
    for more, expected in (
        ({"winner": None}, ["verified    measured: running, 50%"]),
        (
            {"state": "succeeded", "progress": 1.0, "met": True, "winner": winner},
            ["verified    measured: succeeded, 100%", "winner      sub_w  top-1 0.8000  measured 3.250 ms"],
        ),
        (
            {"state": "succeeded", "progress": 1.0, "met": False, "winner": None},
            ["verified    measured: succeeded, 100%; nothing was within the limit"],
        ),
    ):
        answer = found | {"verified": verified | more}
        monkeypatch.setattr(Client, "search_result", lambda self, search, answer=answer: answer)
        show("key", "srch_0")
        lines = capsys.readouterr().out.splitlines()
        assert [line for line in lines if line.startswith(("verified", "winner"))] == expected


def test_what_the_service_refuses_is_one_line(live: Live) -> None:
    done = run(live, "show", "srch_0000000000000000")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1


def test_every_subcommand_stands_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
    for command in searches_app.registered_commands:
        assert f"bespoke searches {command.name}" in text
