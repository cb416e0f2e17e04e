"""``bespoke devices`` and ``bespoke profile`` against a running service."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from bespoke.client import Client
from bespoke.latency_tables import LatencyTable
from bespoke.supernet.architecture import read_architecture
from tests.cli.conftest import Live
from tests.cli.test_offline import Done, bespoke
from tests.service.agents import SimulatedAgent, op_ms
from tests.service.tables import arithmetic_table, profile_of, profiled

TINY = ("--supernet", "tiny")


@pytest.fixture(scope="module")
def board(live: Live) -> dict[str, Any]:
    return profiled(live.client, "board", live.space)


def run(live: Live, *arguments: object, stdin: str = "") -> Done:
    return bespoke(*arguments, *live.access, stdin=stdin)


def told(live: Live, *arguments: object, stdin: str = "") -> Any:
    done = run(live, *arguments, "--json", stdin=stdin)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_devices_are_listed_by_id_name_and_profile(live: Live, board: dict[str, Any]) -> None:
    assert board in told(live, "devices", "list")["devices"]
    (line,) = [one for one in run(live, "devices", "list").stdout.splitlines() if board["id"] in one]
    assert line.split()[1:] == ["board", "none", "fp32", "x1", "tiny"]


def test_the_revisions_of_a_device_are_told_by_its_name(live: Live, board: dict[str, Any]) -> None:
    (table,) = told(live, "devices", "tables", "board")["tables"]
    assert table["revision"] == board["profiled"]["tiny"]
    shown = run(live, "devices", "tables", "board").stdout
    assert table["revision"][:12] in shown
    assert "current" in shown
    assert "no quality card" in shown
    assert told(live, "devices", "tables", "board", "--supernet", "other") == {"tables": []}


def test_a_table_is_exported_and_imported(live: Live, board: dict[str, Any], tmp_path: Path) -> None:
    revision = board["profiled"]["tiny"]
    for form in ("json", "csv", "ofa"):
        path = tmp_path / "new" / f"table.{form}"
        done = run(live, "devices", "export", "board", "--out", path, "--format", form, *TINY)
        assert done.returncode == 0, done.stderr
        assert f"{path.stat().st_size} bytes of revision {revision[:12]}" in done.stdout
    part = run(live, "devices", "export", "board", "--out", tmp_path / "x", "--revision", revision[:6], *TINY)
    assert part.returncode == 0, part.stderr
    assert LatencyTable.from_json(json.loads((tmp_path / "x").read_text())).revision == revision
    copy = live.client.create_device("copy", profile_of().to_json())
    kept = told(live, "devices", "import", copy["id"], tmp_path / "new" / "table.csv", *TINY)
    assert (kept["revision"], kept["current"]) == (revision, True)
    again = run(live, "devices", "import", copy["id"], tmp_path / "new" / "table.json", *TINY)
    assert again.stdout.strip() == f"latency table {revision}"


def test_a_table_of_another_profile_is_refused(live: Live, board: dict[str, Any], tmp_path: Path) -> None:
    arithmetic_table(live.space, profile_of("int8")).save(tmp_path / "int8.json")
    done = run(live, "devices", "import", "board", tmp_path / "int8.json", *TINY)
    assert (done.returncode, done.stdout) == (2, "")
    assert "precision" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_what_cannot_be_exported_says_so(live: Live, board: dict[str, Any], tmp_path: Path) -> None:
    out = ("--out", tmp_path / "x")
    for expected, arguments in {
        "json, csv, ofa, png": ("board", *out, "--format", "pdf"),
        "nothing to draw": ("board", *out, *TINY, "--format", "png"),
        "0 revisions": ("board", *out, *TINY, "--revision", "zz"),
        "no device named 'nobody'": ("nobody", *out, *TINY),
    }.items():
        done = run(live, "devices", "export", *arguments)
        assert done.returncode == 2
        assert expected in done.stderr
    assert not (tmp_path / "x").exists()


def test_a_name_of_several_devices_needs_an_id(live: Live, board: dict[str, Any]) -> None:
    twins = [live.client.create_device("twin", profile_of(p).to_json())["id"] for p in ("fp32", "int8")]
    done = run(live, "devices", "tables", "twin")
    assert done.returncode == 2
    assert all(twin in done.stderr for twin in twins)


def test_a_few_measured_networks_make_a_provisional_table(live: Live, board: dict[str, Any]) -> None:
    new = live.client.create_device("new", profile_of().to_json() | {"threads": 2})["id"]
    chosen = run(live, "devices", "choose", "new", "--count", 10, *TINY)
    lines = [json.loads(line) for line in chosen.stdout.splitlines()]
    assert len(lines) == 10
    measured = [
        one
        | {
            "latency_ms": 0.7
            * sum(op_ms(op) for op in live.space.plan(read_architecture(live.space, one)).ops)
        }
        for one in lines
    ]
    kept = told(live, "devices", "few-shot", "new", *TINY, stdin="\n".join(map(json.dumps, measured)))
    assert (kept["provisional"], kept["current"]) == (True, True)
    assert live.client.device(new)["profiled"] == {"tiny": kept["revision"]}
    assert "repeat error unknown" in run(live, "devices", "tables", "new").stdout
    for wrong, expected in (("{", "line 1: expected one JSON"), ("\n[]", "line 2: got list")):
        done = run(live, "devices", "few-shot", "new", *TINY, stdin=wrong)
        assert (done.returncode, done.stdout) == (2, "")
        assert expected in done.stderr


def test_a_device_is_profiled_and_later_found_to_have_drifted(live: Live) -> None:
    device = live.client.create_device("measured", profile_of().to_json())["id"]

    def measure(slower: float) -> threading.Thread:
        agent = SimulatedAgent(Client(live.service.url, live.key), device, live.zoo, slower=slower)

        def work() -> None:
            while agent.report(agent.lease())["campaign_state"] == "measuring":
                pass

        thread = threading.Thread(target=work)
        thread.start()
        return thread

    working = measure(1.0)
    campaign = told(live, "profile", "--device", "measured", *TINY)
    working.join()
    assert campaign["state"] == "succeeded"
    assert live.client.device(device)["profiled"] == {"tiny": campaign["table_revision"]}
    for slower, verdict in ((1.0, "holds"), (1.3, "stale")):
        working = measure(slower)
        done = run(live, "devices", "check", "measured", *TINY)
        working.join()
        assert f"latency table {campaign['table_revision'][:12]} {verdict}" in done.stdout
    assert "bespoke profile --device measured --supernet tiny --effort quick --remeasure" in done.stdout
    shown = run(live, "devices", "tables", "measured").stdout
    assert "stale" in shown
    assert "held-out networks" in shown


def test_a_table_that_was_not_measured_here_cannot_be_checked(live: Live, board: dict[str, Any]) -> None:
    done = run(live, "devices", "check", "board", *TINY)
    assert done.returncode == 2
    assert "409" in done.stderr
