"""Verified answers: measured on a device by its agent, or on the images of a data set."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from bespoke.cli.local import BESPOKE, local_service
from bespoke.client import Client
from bespoke.latency_tables import EFFORTS, DeviceProfile
from bespoke.service import verification
from bespoke.service.app import create_app
from bespoke.service.auth import create_key
from bespoke.service.settings import Settings
from bespoke.supernet import zoo
from bespoke.supernet.architecture import SearchSpace, read_architecture
from bespoke.supernet.onnx import read_metadata
from tests.service.agents import op_ms
from tests.service.api import Api, problem_of
from tests.service.tables import arithmetic_table, profiled

PATIENCE_S = 240
CLASSES = ("ant", "bee", "cat", "dog")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def api(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, random_zoo: Path
) -> Iterator[Api]:
    """A service whose supernet knows its classes, with a folder for data sets that is empty at first."""
    url = "" if request.param == "sqlite" else request.getfixturevalue("postgresql")()
    var = tmp_path_factory.mktemp("var")
    shutil.copytree(random_zoo, var / "zoo")
    (var / "zoo" / "tiny" / "card.json").write_text(json.dumps({"classes": CLASSES}))
    (var / "data").mkdir()
    settings = Settings(var=var, database_url=url, zoo=var / "zoo", data=var / "data", archives=False)
    app = create_app(settings)
    with TestClient(app) as http:
        key = create_key(app.state.service.place.store, ["search", "device:admin", "agent"]).text
        yield Api(http, {"all": key}, var / "zoo")
    shutil.rmtree(var)


@pytest.fixture(scope="module")
def space(api: Api) -> SearchSpace:
    return zoo.entry("tiny", api.zoo).space


@contextmanager
def agent(api: Api, device_id: str, space: SearchSpace, slower: float) -> Iterator[None]:
    """Measures by arithmetic what an ONNX file says that it is; it must be a file that is shipped."""
    stop, client = threading.Event(), api.client

    @lru_cache
    def model_ms(sha256: str) -> float:
        told = read_metadata(client.artifact(sha256))
        plan = space.plan(read_architecture(space, json.loads(told["architecture"])))
        return slower * sum(op_ms(op) for op in plan.ops)

    def measured(entry: dict[str, Any]) -> dict[str, Any]:
        ms = model_ms(entry["sha256"])
        place = {"entry_id": entry["entry_id"], "round": entry["round"]}
        return {**place, "samples_ms": [ms] * 20, "cold_ms": 10 * ms, "error": None}

    def work() -> None:
        while not stop.wait(0.05):
            lease = client.lease(device_id, "board", 16)
            if lease is not None:
                client.report(lease["lease_id"], [measured(entry) for entry in lease["entries"]])

    assert client.lease(device_id, "board", 16) is None
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def ask(api: Api, **body: Any) -> Any:
    return api.request("POST", "/v1/searches", json={"supernet": "tiny", **body})


def verified(api: Api, **body: Any) -> dict[str, Any]:
    """Ask, and wait for the end of the verification."""
    answer = ask(api, **body)
    assert answer.status_code == 202, answer.text
    assert answer.json()["verified"]["state"] in ("queued", "running")
    return ended(api.client, answer.json()["id"])


def ended(client: Client, search_id: str) -> dict[str, Any]:
    until = time.monotonic() + PATIENCE_S
    while True:
        found = client.search_result(search_id)
        if found["verified"]["state"] not in ("queued", "running"):
            return found
        assert time.monotonic() < until, found
        time.sleep(0.1)


def middle_ms(api: Api, device_id: str) -> float:
    low, high = api.client.supernet("tiny")["feasible"][device_id]["latency_ms"]
    return float(low + high) / 2


def test_without_an_agent_a_measured_winner_is_refused_at_once(api: Api, space: SearchSpace) -> None:
    device = profiled(api.client, "lonely", space)["id"]
    body = {"device": device, "constraints": {"latency_ms": middle_ms(api, device)}, "verify": "measured"}
    refused = problem_of(ask(api, **body), 409, "agent-offline")
    assert (refused["device_id"], refused["seen_at"]) == (device, None)
    refused = problem_of(ask(api, verify="measured"), 422, "request-invalid")
    assert refused["field"] == "verify"


def test_a_winner_that_keeps_its_limit_is_measured_once(
    api: Api, space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The child that holds the weights writes what is measured: none is started for it.
    monkeypatch.setattr(verification, "Child", None)
    device = profiled(api.client, "quick", space)["id"]
    limit = middle_ms(api, device)
    with agent(api, device, space, slower=0.98):
        found = verified(api, device=device, constraints={"latency_ms": limit}, verify="measured")
    told = found["verified"]
    assert (told["kind"], told["state"], told["met"], told["progress"]) == ("measured", "succeeded", True, 1)
    (only,) = told["rounds"]
    assert 1 < len(only["candidates"]) <= 5
    assert only["learned_table_revision"] is None
    winner = told["winner"]
    assert winner["subnet_id"] == found["subnet"]["id"]
    assert winner["latency_ms"] == found["subnet"]["predicted"]["latency_ms"]
    assert winner["measured_ms"] == pytest.approx(0.98 * winner["latency_ms"])
    low, high = winner["latency_interval_ms"]
    assert low <= winner["measured_ms"] <= high
    campaign = api.client.campaign(device, only["campaign_id"])
    assert (campaign["purpose"], campaign["state"]) == ("verify", "succeeded")
    rounds = EFFORTS[verification.DEFAULT_EFFORT].rounds
    assert campaign["progress"]["total"] == rounds * len(only["candidates"])
    problem_of(
        api.request("POST", f"/v1/devices/{device}/campaigns/{campaign['id']}/resume"), 409, "conflict"
    )


def test_winners_over_their_limit_are_dropped_and_the_table_learns(api: Api, space: SearchSpace) -> None:
    device = profiled(api.client, "slow", space)
    middle = {"latency_ms": middle_ms(api, device["id"])}
    limit = ask(api, device=device["id"], constraints=middle).json()["subnet"]["predicted"]["latency_ms"]
    with agent(api, device["id"], space, slower=1.2):
        found = verified(api, device=device["id"], constraints={"latency_ms": limit}, verify="measured")
    told = found["verified"]
    assert told["met"] is True
    assert told["winner"]["measured_ms"] <= limit
    assert told["winner"]["subnet_id"] != found["subnet"]["id"]
    first, second, *_ = told["rounds"]
    assert first["table_revision"] == device["profiled"]["tiny"]
    dropped = {one["subnet_id"] for one in first["candidates"] if not one["within"]}
    assert found["subnet"]["id"] in dropped
    assert first["learned_table_revision"] == second["table_revision"]
    for one in second["candidates"]:
        assert one["measured_ms"] == pytest.approx(one["latency_ms"], rel=0.02)
    shown = api.client.subnet(told["winner"]["subnet_id"])
    assert shown["predicted"]["latency_ms"] == told["winner"]["latency_ms"]
    serving = api.client.device(device["id"])["profiled"]["tiny"]
    assert serving in {one["learned_table_revision"] for one in told["rounds"]}


def test_the_winner_of_a_search_that_minimises_has_the_least_of_what_was_asked_for() -> None:
    def candidate(subnet_id: str, macs: int, measured_ms: float, top1: float, within: bool = True) -> Any:
        told = {"subnet_id": subnet_id, "minimised": macs, "measured_ms": measured_ms, "top1": top1}
        return {**told, "within": within}

    candidates = [
        candidate("too slow", 1, 9.0, 0.7, within=False),
        candidate("small", 2, 5.0, 0.8),
        candidate("accurate", 4, 3.0, 0.9),
        candidate("fast", 3, 2.0, 0.8),
    ]
    for metric, winner in (("macs", "small"), ("latency_ms", "fast"), (None, "accurate")):
        told = [one if metric else {**one, "minimised": None} for one in candidates]
        place: Any = SimpleNamespace(
            store=SimpleNamespace(
                verification=lambda _, told=told: SimpleNamespace(rounds=[{"candidates": told}]),
                search=lambda _, metric=metric: (SimpleNamespace(request={"minimise": metric}), None),
            )
        )
        run: Any = SimpleNamespace(step=lambda name, _: {"candidates": []})
        found = verification._measured(place, None, run, "srch_0")  # type: ignore[arg-type]
        assert (found["met"], found["winner"]["subnet_id"]) == (True, winner)


def test_a_verification_ends_when_its_agent_is_gone(
    api: Api, space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "GONE_S", 0.5)
    device = profiled(api.client, "leaving", space)["id"]
    assert api.client.lease(device, "leaving", 1) is None  # it asks for work, and never again
    found = verified(
        api, device=device, constraints={"latency_ms": middle_ms(api, device)}, verify="measured"
    )
    assert found["verified"]["state"] == "failed"
    assert "no agent" in found["verified"]["error"]
    assert found["verified"]["met"] is None


def test_accuracy_is_measured_on_a_data_set_with_the_classes_of_the_supernet(
    api: Api, space: SearchSpace
) -> None:
    body = {"constraints": {"macs": 1.1e7}, "verify": "accuracy"}
    refused = problem_of(ask(api, **body), 409, "conflict")
    assert "BESPOKE_DATA" in refused["detail"]
    rng = np.random.default_rng(0)
    for name in CLASSES:
        folder = api.zoo.parent / "data" / "animals" / "val" / name
        folder.mkdir(parents=True)
        for number in range(3):
            pixels = rng.integers(0, 255, (60, 60, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    found = verified(api, **body)
    told = found["verified"]
    assert (told["kind"], told["state"], told["images"]) == ("accuracy", "succeeded", 12)
    (only,) = told["rounds"]
    seen = {one["subnet_id"]: one["measured_top1"] for one in only["candidates"]}
    assert found["subnet"]["id"] in seen
    assert len(seen) > 1
    assert all(round(12 * top1) == pytest.approx(12 * top1) for top1 in seen.values())
    assert told["winner"]["measured_top1"] == max(seen.values())
    for subnet_id in seen:
        assert api.client.subnet(subnet_id)["predicted"]["macs"] <= 1.1e7


def measured(top1: float, measured_top1: float, minimised: float | None) -> dict[str, Any]:
    return {"top1": top1, "measured_top1": measured_top1, "minimised": minimised}


def test_of_what_reaches_a_least_accuracy_the_cheapest_wins_and_without_any_nothing_does() -> None:
    cheap, dear, short = measured(0.81, 0.805, 5.0), measured(0.83, 0.82, 9.0), measured(0.81, 0.79, 4.0)
    assert verification.most_wanted([short, cheap, dear], 0.8) == cheap
    assert verification.most_wanted([short, cheap, dear], 0.815) == dear
    assert verification.most_wanted([short, cheap, dear], 0.83) is None
    plain = [measured(0.82, 0.80, None), measured(0.81, 0.81, None), measured(0.83, 0.80, None)]
    assert verification.most_wanted(plain, None) == plain[1]


def test_a_real_agent_measures_what_was_found(random_zoo: Path, tmp_path: Path) -> None:
    settings = {"BESPOKE_ZOO": str(random_zoo), "BESPOKE_ARCHIVES": "false"}
    with local_service(tmp_path / "var", settings) as service:
        client = service.client(("search", "device:admin"), "test")
        environment = {**service.environment, "BESPOKE_KEY": service.key(["agent"], "agent")}
        cache = str(tmp_path / "agent")
        command = [*BESPOKE, "agent", "--server", service.url, "--name", "here", "--cache", cache]
        process = subprocess.Popen(command, env=environment)
        try:
            until = time.monotonic() + PATIENCE_S
            while not (devices := client.devices()):
                assert time.monotonic() < until
                time.sleep(0.1)
            device = devices[0]
            space = zoo.entry("tiny", random_zoo).space
            # It takes far less time than this table says, so that the first round is the last one.
            table = arithmetic_table(space, DeviceProfile.from_json(device["profile"]), slower=10)
            client.import_latency_table(device["id"], "tiny", table.to_json())
            low, high = client.supernet("tiny")["feasible"][device["id"]]["latency_ms"]
            body = {"latency_ms": (low + high) / 2}
            found = client.search("tiny", body, device["id"], verify="measured")
            told = ended(client, found["id"])["verified"]
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
    assert told["state"] == "succeeded", told
    assert told["met"] is True
    assert 0 < told["winner"]["measured_ms"] < told["winner"]["latency_ms"]
