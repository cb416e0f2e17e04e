"""Campaigns, checks and tables through the API: what makes a latency table one that can be trusted."""

from __future__ import annotations

import io
import json
import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from bespoke.latency_tables import LatencyTable, read_table
from bespoke.service.app import create_app
from bespoke.service.auth import create_key
from bespoke.service.checking import start_due_checks
from bespoke.service.chores import prune
from bespoke.service.dependencies import Service
from bespoke.service.settings import Settings
from bespoke.supernet import zoo
from bespoke.supernet.architecture import SearchSpace, read_architecture
from bespoke.supernet.errors import ApiError
from tests.service.agents import PROFILE, SimulatedAgent, op_ms
from tests.service.api import Api, problem_of

PATIENCE_S = 240


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, random_zoo: Path) -> Iterator[tuple[Api, Service]]:
    var = tmp_path_factory.mktemp("var")
    settings = Settings(
        var=var, zoo=random_zoo, events_poll_s=0.05, events_s=5, artifact_grace_s=0, check_hours=1e-6
    )
    settings = settings.model_copy(update={"chores_s": 1e6})  # chores run when a test runs them
    app = create_app(settings)
    with TestClient(app) as http:
        key = create_key(app.state.service.place.store, ["search", "device:admin", "agent"]).text
        yield Api(http, {"all": key}, random_zoo), app.state.service
    shutil.rmtree(var)


@pytest.fixture(scope="module")
def api(service: tuple[Api, Service]) -> Api:
    return service[0]


@pytest.fixture(scope="module")
def space(api: Api) -> SearchSpace:
    return zoo.entry("tiny", api.zoo).space


@pytest.fixture(scope="module")
def board(api: Api, space: SearchSpace) -> dict[str, Any]:
    """A device that two agents have profiled together."""
    device = api.client.create_device("board", PROFILE)
    campaign = api.client.create_campaign(device["id"], "tiny", "quick")
    one, two = (SimulatedAgent(api.client, device["id"], space, name=name) for name in ("one", "two"))
    first, second = one.lease(entries=20), two.lease(entries=20)
    pairs = [(e["entry_id"], e["round"]) for lease in (first, second) for e in lease["entries"]]
    assert len(set(pairs)) == 40
    for agent, lease in ((one, first), (two, second)):
        assert agent.report(lease)["accepted"] == 20
    done = one.finish(campaign["id"])
    assert done["state"] == "succeeded", done
    assert [(a["name"], a["state"]) for a in done["agents"]] == [("one", "active"), ("two", "active")]
    return api.client.device(device["id"]) | {"campaign_id": campaign["id"]}


def wait_for(api: Api, device_id: str, campaign_id: str, *states: str) -> dict[str, Any]:
    until = time.monotonic() + PATIENCE_S
    while (campaign := api.client.campaign(device_id, campaign_id))["state"] not in states:
        assert time.monotonic() < until, campaign
        time.sleep(0.05)
    return campaign


# Campaigns


def test_the_events_of_a_campaign_tell_its_progress_and_its_end(
    api: Api, board: dict[str, Any], space: SearchSpace
) -> None:
    device = api.client.create_device("watched", PROFILE)
    campaign = api.client.create_campaign(device["id"], "tiny", "quick")
    path = f"/v1/devices/{device['id']}/campaigns/{campaign['id']}/events"
    problem_of(api.http.get(path), 401, "unauthorized")
    wrong = path.replace(device["id"], board["id"])
    problem_of(api.request("GET", wrong), 404, "not-found")
    SimulatedAgent(api.client, device["id"], space).report(
        SimulatedAgent(api.client, device["id"], space).lease(entries=3)
    )
    api.client.cancel_campaign(device["id"], campaign["id"])
    told = list(api.client.campaign_events(device["id"], campaign["id"]))
    assert told[-1] == api.client.campaign(device["id"], campaign["id"])
    assert (told[-1]["state"], told[-1]["progress"]["done"]) == ("cancelled", 3)
    answer = api.request("GET", path)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.startswith("event: done\ndata: {")


def test_a_cancelled_campaign_is_resumed_and_gives_its_table(api: Api, space: SearchSpace) -> None:
    device = api.client.create_device("resumed", PROFILE)
    campaign = api.client.create_campaign(device["id"], "tiny", "quick")
    agent = SimulatedAgent(api.client, device["id"], space)
    agent.report(agent.lease(entries=50))
    api.client.cancel_campaign(device["id"], campaign["id"])
    resumed = api.client.resume_campaign(device["id"], campaign["id"])
    assert resumed["progress"]["done"] == 50
    with pytest.raises(ApiError, match="only a cancelled or failed"):
        api.client.resume_campaign(device["id"], campaign["id"])
    done = agent.finish(campaign["id"])
    assert (done["state"], done["progress"]["done"]) == ("succeeded", done["progress"]["total"])
    assert done["progress"]["active_s"] > 0


def test_a_second_campaign_measures_no_op_that_is_known(
    api: Api, board: dict[str, Any], space: SearchSpace
) -> None:
    before = api.client.latency_table(board["id"], "tiny")
    again = api.client.create_campaign(board["id"], "tiny", "quick")
    agent = SimulatedAgent(api.client, board["id"], space)
    lease = agent.lease()
    assert {entry["kind"] for entry in lease["entries"]} <= {"subnet", "sentinel"}
    agent.report(lease)
    done = agent.finish(again["id"])
    assert done["base_revision"] == before["revision"]
    assert done["progress"]["total"] < len(before["stats"])
    after = api.client.latency_table(board["id"], "tiny")
    assert (after["revision"], after["stats"]) == (done["table_revision"], before["stats"])
    everything = api.client.create_campaign(board["id"], "tiny", "quick", remeasure=True)
    measuring = wait_for(api, board["id"], everything["id"], "measuring")
    assert measuring["base_revision"] is None
    assert measuring["progress"]["total"] > 3 * len(before["stats"])
    api.client.cancel_campaign(board["id"], everything["id"])


def test_models_of_ended_campaigns_are_pruned(
    service: tuple[Api, Service], board: dict[str, Any], space: SearchSpace
) -> None:
    api, running = service
    device = api.client.create_device("pruned", PROFILE)
    campaign = api.client.create_campaign(device["id"], "tiny", "quick")
    agent = SimulatedAgent(api.client, device["id"], space)
    lease = agent.lease(entries=1)
    sha256 = lease["entries"][0]["sha256"]
    prune(running.place, running.engine)
    assert len(api.client.artifact(sha256)) == lease["entries"][0]["size"]
    api.client.cancel_campaign(device["id"], campaign["id"])
    while True:
        prune(running.place, running.engine)
        answer = api.request("GET", f"/v1/artifacts/{sha256}")
        if answer.status_code == 404:
            break
    assert not list((running.place.settings.var / "artifacts").rglob(sha256))


@pytest.mark.parametrize(
    ("samples", "field", "got"),
    [
        ("[1.0, NaN]", "samples_ms[1]", "nan"),
        ("[Infinity]", "samples_ms[0]", "inf"),
        ("[-2.5]", "samples_ms[0]", "-2.5"),
        ("[0]", "samples_ms[0]", "0"),
        ("[1e12]", "samples_ms[0]", "1000000000000.0"),
    ],
)
def test_a_report_that_cannot_be_true_names_entry_and_value(
    api: Api, space: SearchSpace, samples: str, field: str, got: str
) -> None:
    device = api.client.create_device(f"nonsense {samples}", PROFILE)
    campaign = api.client.create_campaign(device["id"], "tiny", "quick")
    agent = SimulatedAgent(api.client, device["id"], space)
    lease = agent.lease(entries=2)
    good, bad = (agent.measure(entry) for entry in lease["entries"])
    text = json.dumps({"results": [good, bad | {"samples_ms": "SAMPLES"}]}).replace('"SAMPLES"', samples)
    path, headers = f"/v1/leases/{lease['lease_id']}/report", {"content-type": "application/json"}
    problem = problem_of(api.request("POST", path, content=text, headers=headers), 422, "measurement-invalid")
    assert (problem["entry_id"], problem["field"]) == (bad["entry_id"], field)
    assert problem["got"].startswith(got.removesuffix(".0"))
    assert api.client.campaign(device["id"], campaign["id"])["progress"]["done"] == 0
    for _ in range(2):
        api.request("POST", path, content=text, headers=headers)
    (told,) = api.client.campaign(device["id"], campaign["id"])["agents"]
    assert told["state"] == "quarantined"
    assert bad["entry_id"] in told["reason"]
    with pytest.raises(ApiError) as refused:
        agent.report(lease)
    assert refused.value.slug == "agent-quarantined"
    api.client.cancel_campaign(device["id"], campaign["id"])


def test_an_agent_whose_sentinels_are_off_is_quarantined_and_the_table_is_right(
    api: Api, space: SearchSpace
) -> None:
    device = api.client.create_device("disturbed", PROFILE)
    campaign = api.client.create_campaign(device["id"], "tiny", "quick")
    good = SimulatedAgent(api.client, device["id"], space, name="good")
    bad = SimulatedAgent(api.client, device["id"], space, name="bad", slower=2)
    agents = [good, bad]
    for _ in range(200):
        for agent in tuple(agents):
            lease = agent.client.lease(device["id"], agent.name, 32) or {"entries": []}
            if lease["entries"]:
                agent.report(lease)
        told = {a["name"]: a for a in api.client.campaign(device["id"], campaign["id"])["agents"]}
        if told.get("bad", {}).get("state") == "quarantined":
            break
        time.sleep(0.05)
    assert told["good"]["state"] == "active"
    assert "2.0" in told["bad"]["reason"]
    assert api.client.lease(device["id"], "bad", 1) is None
    done = good.finish(campaign["id"])
    assert done["state"] == "succeeded"
    table = LatencyTable.from_json(api.client.latency_table(device["id"], "tiny"))
    assert table.quality is not None
    assert table.quality.mape < 0.02


# Checks


def check(api: Api, device_id: str, space: SearchSpace, slower: float) -> dict[str, Any]:
    started = api.client.create_check(device_id, "tiny")
    assert started["purpose"] == "check"
    agent = SimulatedAgent(api.client, device_id, space, slower=slower)
    done: dict[str, Any] = agent.finish(started["id"])
    assert done["state"] == "succeeded", done
    return done


def test_a_check_finds_a_device_that_has_drifted(api: Api, board: dict[str, Any], space: SearchSpace) -> None:
    search = {"supernet": "tiny", "device": board["id"], "constraints": {"latency_ms": 12}}
    found = api.request("POST", "/v1/searches", json=search).json()
    assert found["warnings"] == []
    steady = check(api, board["id"], space, slower=1.01)["check"]
    assert (steady["stale"], steady["proposal"]) == (False, None)
    assert steady["drift"] == pytest.approx(0.01, abs=0.005)
    drifted = check(api, board["id"], space, slower=1.2)
    assert drifted["progress"]["total"] < 40
    told = drifted["check"]
    assert (told["stale"], told["limit"]) == (True, pytest.approx(0.05, abs=0.01))
    assert told["drift"] == pytest.approx(0.2, abs=0.02)
    assert found["id"] in told["search_ids"]
    assert told["proposal"]["href"] == f"/v1/devices/{board['id']}/campaigns"
    served = api.client.latency_table(board["id"], "tiny")
    assert served["stale"]
    assert served["stale_reason"]["campaign_id"] == drifted["id"]
    (warning,) = api.request("POST", "/v1/searches", json=search).json()["warnings"]
    assert warning["code"] == "table-stale"
    assert api.client.search_result(found["id"])["warnings"] == [warning]
    proposed = api.request("POST", told["proposal"]["href"], json=told["proposal"]["body"])
    assert proposed.status_code == 202
    api.client.cancel_campaign(board["id"], proposed.json()["id"])
    assert not check(api, board["id"], space, slower=1.0)["check"]["stale"]
    assert api.request("POST", "/v1/searches", json=search).json()["warnings"] == []


def test_checks_that_are_due_start_by_themselves(
    service: tuple[Api, Service], board: dict[str, Any], space: SearchSpace
) -> None:
    api, running = service
    start_due_checks(running.place, running.engine)
    start_due_checks(running.place, running.engine)  # one that goes on is not started again
    active = [c for c in api.client.campaigns(board["id"]) if c["state"] in ("preparing", "measuring")]
    assert [campaign["purpose"] for campaign in active] == ["check"]
    for device in api.client.devices():
        for campaign in api.client.campaigns(device["id"]):
            if campaign["state"] in ("preparing", "measuring"):
                api.client.cancel_campaign(device["id"], campaign["id"])


def test_a_table_that_was_not_measured_here_cannot_be_checked(api: Api, board: dict[str, Any]) -> None:
    device = api.client.create_device("unchecked", PROFILE)
    path = f"/v1/devices/{device['id']}/checks"
    problem_of(api.request("POST", path, json={"supernet": "tiny"}), 409, "device-not-profiled")
    api.client.import_latency_table(device["id"], "tiny", api.client.latency_table(board["id"], "tiny"))
    problem_of(api.request("POST", path, json={"supernet": "tiny"}), 409, "conflict")


# Revisions


def test_every_revision_stays_and_can_be_fetched(api: Api, board: dict[str, Any]) -> None:
    listed = api.client.latency_tables(board["id"], "tiny")
    assert [table["current"] for table in listed] == [True] + [False] * (len(listed) - 1)
    for table in listed:
        whole = api.client.latency_table_revision(board["id"], table["revision"])
        assert LatencyTable.from_json(whole).revision == table["revision"]
        assert (whole["quality"], table["source"]) == (table["quality"], "ops")
    problem_of(api.request("GET", f"/v1/devices/{board['id']}/latency-tables/{'0' * 64}"), 404, "not-found")
    assert api.client.latency_tables(board["id"], "another") == []


def test_a_table_is_exported_and_imported_again(api: Api, board: dict[str, Any], tmp_path: Path) -> None:
    (table, *_) = api.client.latency_tables(board["id"], "tiny")
    path = tmp_path / "table.csv"
    path.write_bytes(api.client.export_latency_table(board["id"], table["revision"], "csv"))
    read = read_table([path])
    assert read.revision == table["revision"]
    other = api.client.create_device("imported", PROFILE)
    kept = api.client.import_latency_table(other["id"], "tiny", read.to_json())
    again = api.client.import_latency_table(
        other["id"], "tiny", api.client.latency_table(other["id"], "tiny")
    )
    assert kept == again
    assert (kept["revision"], kept["campaign_id"], kept["current"]) == (table["revision"], None, True)
    packed = api.client.export_latency_table(board["id"], table["revision"], "ofa")
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert len(archive.namelist()) == 2
    plot = api.client.quality_plot(board["id"], table["revision"])
    assert plot.startswith(b"\x89PNG")


def test_a_table_that_does_not_fit_is_refused(api: Api, board: dict[str, Any]) -> None:
    def refused(table: dict[str, Any], status: int, slug: str) -> str:
        path = f"/v1/devices/{board['id']}/latency-tables?supernet=tiny"
        answer = api.request(
            "POST", path, content=json.dumps(table), headers={"content-type": "application/json"}
        )
        return str(problem_of(answer, status, slug)["detail"])

    good = api.client.latency_table(board["id"], "tiny")
    before = api.client.latency_tables(board["id"])
    table = {name: value for name, value in good.items() if name != "revision"}
    key = next(iter(table["stats"]))
    wrong = {key: table["stats"][key] | {"median_ms": float("nan")}}
    assert "NaN" in refused(table | {"stats": table["stats"] | wrong}, 422, "request-invalid")
    fewer = {name: stat for name, stat in table["stats"].items() if name != key}
    assert key in refused(table | {"stats": fewer}, 422, "request-invalid")
    profile = table["profile"] | {"threads": 4}
    assert "threads" in refused(table | {"profile": profile}, 409, "conflict")
    assert "changed on its way" in refused(good | {"interval": 0.5}, 422, "request-invalid")
    refused({}, 422, "request-invalid")
    assert api.client.latency_tables(board["id"]) == before


# Few-shot


def test_a_few_measured_networks_serve_until_a_campaign_does(
    api: Api, board: dict[str, Any], space: SearchSpace
) -> None:
    other = {**PROFILE, "threads": 2}
    device = api.client.create_device("new", other)
    chosen = api.client.few_shot_choice(device["id"], "tiny", 10)
    assert len(chosen) == 10
    samples = [
        data | {"latency_ms": 0.6 * sum(op_ms(op) for op in space.plan(read_architecture(space, data)).ops)}
        for data in chosen
    ]
    kept = api.client.few_shot(device["id"], "tiny", samples)
    assert (kept["source"], kept["provisional"], kept["current"]) == ("few-shot", True, True)
    search = {"supernet": "tiny", "device": device["id"], "constraints": {"latency_ms": 8}}
    found = api.request("POST", "/v1/searches", json=search).json()
    assert [warning["code"] for warning in found["warnings"]] == ["table-provisional"]
    plan = space.plan(read_architecture(space, found["subnet"]["architecture"]))
    true_ms = 0.6 * sum(op_ms(op) for op in plan.ops)
    assert found["subnet"]["predicted"]["latency_ms"] == pytest.approx(true_ms, rel=0.1)
    wrong = [*samples[:2], samples[2] | {"latency_ms": -1}]
    body = {"supernet": "tiny", "samples": wrong}
    answer = api.request("POST", f"/v1/devices/{device['id']}/few-shot", json=body)
    assert "line 3" in problem_of(answer, 422, "request-invalid")["detail"]
    full = api.client.latency_table(board["id"], "tiny")
    ours = {name: value for name, value in full.items() if name != "revision"} | {"profile": other}
    imported = api.client.import_latency_table(device["id"], "tiny", ours)
    assert imported["current"]
    assert api.request("POST", "/v1/searches", json=search).json()["warnings"] == []
