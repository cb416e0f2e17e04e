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
from bespoke.service.routers import campaigns
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
        var=var, zoo=random_zoo, events_poll_s=0.05, events_s=0.5, artifact_grace_s=0, check_hours=1e-6
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
    """A device that two agents have profiled together, beside a third one that was disturbed."""
    device = api.client.create_device("board", PROFILE)
    campaign = api.client.create_campaign(device["id"], "tiny", "quick")
    one, two, slow = (
        SimulatedAgent(api.client, device["id"], api.zoo, name=name, slower=2.0 if name == "slow" else 1.0)
        for name in ("one", "two", "slow")
    )
    first, second = one.lease(entries=20), two.lease(entries=20)
    pairs = [(e["entry_id"], e["round"]) for lease in (first, second) for e in lease["entries"]]
    assert len(set(pairs)) == 40
    for agent, lease in ((one, first), (two, second)):
        assert agent.report(lease)["accepted"] == 20
    while (lease := api.client.lease(device["id"], "slow", 64)) is not None:
        assert slow.report(lease)["campaign_state"] == "measuring"
        one.report(one.lease(64))
    done = one.finish(campaign["id"])
    assert done["state"] == "succeeded", done
    assert done["progress"]["done"] == done["progress"]["total"]
    agents = {agent["name"]: agent for agent in done["agents"]}
    assert {name: agent["state"] for name, agent in agents.items()} == {
        "one": "active",
        "two": "active",
        "slow": "quarantined",
    }
    assert "2.0" in agents["slow"]["reason"]
    return api.client.device(device["id"]) | {"campaign_id": campaign["id"]}


@pytest.fixture(scope="module")
def measuring(api: Api) -> Iterator[tuple[str, str]]:
    """A device and its campaign that waits for agents."""
    device = api.client.create_device("waiting", PROFILE)
    campaign = api.client.create_campaign(device["id"], "tiny", "quick")
    yield device["id"], campaign["id"]
    api.client.cancel_campaign(device["id"], campaign["id"])


# Campaigns


def test_a_table_holds_though_one_agent_was_disturbed(api: Api, board: dict[str, Any]) -> None:
    table = LatencyTable.from_json(api.client.latency_table(board["id"], "tiny"))
    assert table.quality is not None
    assert table.quality.mape < 0.02


def test_the_events_of_a_campaign_tell_its_progress_and_its_end(
    api: Api, board: dict[str, Any], measuring: tuple[str, str]
) -> None:
    device_id, campaign_id = measuring
    path = f"/v1/devices/{device_id}/campaigns/{campaign_id}/events"
    problem_of(api.http.get(path), 401, "unauthorized")
    problem_of(api.request("GET", path.replace(device_id, board["id"])), 404, "not-found")
    running = api.request("GET", path)  # until the stream closes by itself
    assert running.headers["content-type"].startswith("text/event-stream")
    assert running.text.startswith("event: progress\ndata: {")
    assert "event: done" not in running.text
    (told,) = api.client.campaign_events(board["id"], board["campaign_id"])
    assert told == api.client.campaign(board["id"], board["campaign_id"])


def test_a_second_campaign_measures_no_op_that_is_known(
    service: tuple[Api, Service], board: dict[str, Any], space: SearchSpace
) -> None:
    api, running = service
    before = api.client.latency_table(board["id"], "tiny")
    again = api.client.create_campaign(board["id"], "tiny", "quick")
    agent = SimulatedAgent(api.client, board["id"], api.zoo)
    lease = agent.lease()
    assert {entry["kind"] for entry in lease["entries"]} <= {"subnet", "sentinel"}
    agent.report(lease)
    done = agent.finish(again["id"])
    assert done["base_revision"] == before["revision"]
    assert done["progress"]["total"] < len(before["stats"])
    after = api.client.latency_table(board["id"], "tiny")
    assert (after["revision"], after["stats"]) == (done["table_revision"], before["stats"])
    for options in ({"remeasure": True}, {"base": False}):
        whole = api.client.create_campaign(board["id"], "tiny", "quick", **options)
        until = time.monotonic() + PATIENCE_S
        while (plan := running.place.store.campaign(whole["id"]).plan) is None:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert len(plan["entries"]) > len(before["stats"])
        assert api.client.cancel_campaign(board["id"], whole["id"])["base_revision"] is None


@pytest.mark.parametrize(
    ("samples", "field", "got"),
    [
        ("[1.0, NaN]", "samples_ms[1]", "nan"),
        ("[Infinity]", "samples_ms[0]", "inf"),
        ("[-2.5]", "samples_ms[0]", "-2.5"),
        ("[0]", "samples_ms[0]", "0"),
        ("[1e12]", "samples_ms[0]", "1000000000000"),
    ],
)
def test_a_report_that_cannot_be_true_names_entry_and_value(
    api: Api, space: SearchSpace, measuring: tuple[str, str], samples: str, field: str, got: str
) -> None:
    device_id, campaign_id = measuring
    agent = SimulatedAgent(api.client, device_id, api.zoo, name=f"agent that says {samples}")
    lease = agent.lease(entries=2)
    good, bad = (agent.measure(entry) for entry in lease["entries"])
    text = json.dumps({"results": [good, bad | {"samples_ms": "SAMPLES"}]}).replace('"SAMPLES"', samples)
    path, headers = f"/v1/leases/{lease['lease_id']}/report", {"content-type": "application/json"}
    answers = [api.request("POST", path, content=text, headers=headers) for _ in range(3)]
    problem = problem_of(answers[0], 422, "measurement-invalid")
    assert (problem["entry_id"], problem["field"]) == (bad["entry_id"], field)
    assert problem["got"].startswith(got)
    assert api.client.campaign(device_id, campaign_id)["progress"]["done"] == 0
    agents = {one["name"]: one for one in api.client.campaign(device_id, campaign_id)["agents"]}
    assert agents[agent.name]["state"] == "quarantined"
    assert bad["entry_id"] in agents[agent.name]["reason"]
    with pytest.raises(ApiError) as refused:
        agent.report(lease)
    assert refused.value.slug == "agent-quarantined"
    assert api.client.lease(device_id, agent.name, 1) is None


def test_a_cancelled_campaign_loses_its_models_and_is_resumed_where_it_was(
    service: tuple[Api, Service], measuring: tuple[str, str], space: SearchSpace
) -> None:
    api, running = service
    device = api.client.create_device("resumed", PROFILE)
    campaign = api.client.create_campaign(device["id"], "tiny", "quick")
    agent = SimulatedAgent(api.client, device["id"], api.zoo)
    lease = agent.lease(entries=50)
    agent.report(lease)
    waiting = agent.lease(entries=1)["entries"][0]
    for device_id, campaign_id in ((device["id"], campaign["id"]), measuring):
        prune(running.place, running.engine)  # each of the two campaigns needs the file
        assert len(api.client.artifact(waiting["sha256"])) == waiting["size"]
        api.client.cancel_campaign(device_id, campaign_id)
    gone = f"/v1/artifacts/{waiting['sha256']}"
    until = time.monotonic() + PATIENCE_S
    while api.request("GET", gone).status_code != 404:
        assert time.monotonic() < until
        prune(running.place, running.engine)
    assert not list((running.place.settings.var / "artifacts").rglob(waiting["sha256"]))
    resumed = api.client.resume_campaign(device["id"], campaign["id"])
    assert resumed["progress"]["done"] == 50
    with pytest.raises(ApiError, match="only a cancelled or failed"):
        api.client.resume_campaign(device["id"], campaign["id"])
    done = agent.finish(campaign["id"])
    assert (done["state"], done["progress"]["done"]) == ("succeeded", done["progress"]["total"])
    assert done["progress"]["active_s"] > 0


# Checks


def check(api: Api, device_id: str, space: SearchSpace, slower: float) -> dict[str, Any]:
    started = api.client.create_check(device_id, "tiny")
    assert started["purpose"] == "check"
    agent = SimulatedAgent(api.client, device_id, api.zoo, slower=slower)
    done: dict[str, Any] = agent.finish(started["id"])
    assert done["state"] == "succeeded", done
    return done


def test_a_check_finds_a_device_that_has_drifted(
    api: Api, board: dict[str, Any], space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    assert drifted["base_revision"] == told["table_revision"]
    monkeypatch.setattr(campaigns, "MOST_LISTED", 1)
    listed = {**told, "searches": None, "search_ids": None}
    assert api.client.campaigns(board["id"]) == [{**drifted, "check": listed}]
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
