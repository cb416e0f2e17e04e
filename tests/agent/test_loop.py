"""The agent against a service in the same process, that loses leases, connections and patience."""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from bespoke.agent import AgentEvent, AgentSettings, OnnxRuntime, device_profile, run_agent
from bespoke.agent.cache import ModelCache, Spool
from bespoke.client import ApiError, Client
from bespoke.supernet.errors import InvalidInput
from bespoke.supernet.onnx import op_plan, random_weights, write_onnx
from bespoke.supernet.ops import Op

RUNTIME = OnnxRuntime(threads=1)
QUICK = {"warm_up_ms": 0, "min_ms": 0, "min_runs": 2}


def models(count: int) -> list[bytes]:
    plans = [op_plan(Op("linear", (1, 1, 8 + i), 4)) for i in range(count)]
    return [write_onnx(plan, random_weights(plan)) for plan in plans]


class Service:
    """Leases entries, takes results, and fails as told."""

    def __init__(self, networks: Sequence[bytes], *, ttl_s: float = 30.0) -> None:
        self.stored = {hashlib.sha256(content).hexdigest(): content for content in networks}
        self.todo = [{"entry_id": f"op{i}", "kind": "op", "round": 0, "sha256": digest, "size": 1}
                     for i, digest in enumerate(self.stored)]  # fmt: skip
        self.ttl_s, self.leases = ttl_s, 0
        self.results: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.failures: dict[str, list[int | Exception]] = {}

    def fail(self, what: str, *answers: int | Exception) -> None:
        """Let the next calls of a kind (devices, lease, artifacts, report, heartbeat) fail."""
        self.failures[what] = list(answers)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        what = next(
            w for w in ("lease", "artifacts", "report", "heartbeat", "devices") if re.search(rf"/{w}\b", path)
        )
        self.asked.append(what)
        if self.failures.get(what):
            failure = self.failures[what].pop(0)
            if isinstance(failure, Exception):
                raise failure
            return httpx.Response(
                failure, json={"type": "https://bespoke.dev/problems/x", "title": "told to"}
            )
        body = json.loads(request.content or b"{}")
        answer: httpx.Response = getattr(self, what)(body, path)
        return answer

    def devices(self, body: dict[str, Any], path: str) -> httpx.Response:
        return httpx.Response(201, json={"id": "dev1", "name": body["name"]})

    def lease(self, body: dict[str, Any], path: str) -> httpx.Response:
        taken, self.todo = self.todo[: body["entries"]], self.todo[body["entries"] :]
        if not taken:
            return httpx.Response(204)
        self.leases += 1
        lease = {"lease_id": f"lease{self.leases}", "ttl_s": self.ttl_s, "measure": QUICK, "entries": taken}
        return httpx.Response(200, json=lease)

    def artifacts(self, body: dict[str, Any], path: str) -> httpx.Response:
        return httpx.Response(200, content=self.stored[path.rpartition("/")[2]])

    def heartbeat(self, body: dict[str, Any], path: str) -> httpx.Response:
        return httpx.Response(200, json={"expires_at": "later"})

    def report(self, body: dict[str, Any], path: str) -> httpx.Response:
        new = [result for result in body["results"] if result["entry_id"] not in self.results]
        self.results |= {result["entry_id"]: result for result in new}
        answer = {"accepted": len(new), "duplicates": len(body["results"]) - len(new)}
        return httpx.Response(200, json=answer)


class Agent:
    """Runs the agent against a service; keeps events and pauses."""

    def __init__(self, service: Service, cache: Path) -> None:
        self.service, self.cache = service, cache
        self.events: list[AgentEvent] = []
        self.pauses: list[float] = []

    def run(self, stop: Callable[[], bool] = lambda: False, **changes: Any) -> Any:
        settings = AgentSettings(**({"name": "a", "cache": self.cache, "once": True} | changes))
        transport = httpx.MockTransport(self.service)
        with Client("http://test", "bsp_a_b", transport=transport, attempts=1) as client:
            return run_agent(
                client, device_profile("board", RUNTIME), runtime=RUNTIME, settings=settings,
                stop=stop, progress=self.events.append, sleep=self.pauses.append,
            )  # fmt: skip

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


def test_everything_is_measured_and_reported(tmp_path: Path) -> None:
    service = Service(models(5))
    summary = Agent(service, tmp_path).run(entries=2, report_every=2)
    assert (summary.device_id, summary.measured, summary.failed, summary.leases) == ("dev1", 5, 0, 3)
    assert sorted(service.results) == [f"op{i}" for i in range(5)]
    for result in service.results.values():
        assert len(result["samples_ms"]) >= 1
        assert min(result["samples_ms"]) > 0 and result["cold_ms"] > 0 and result["error"] is None


def test_results_come_in_chunks(tmp_path: Path) -> None:
    service = Service(models(5))
    Agent(service, tmp_path).run(report_every=2)
    assert service.asked.count("report") == 3


def test_networks_are_fetched_once(tmp_path: Path) -> None:
    networks = models(3)
    for _ in range(2):
        service = Service(networks)
        Agent(service, tmp_path).run()
        assert len(service.results) == 3
    assert "artifacts" not in service.asked


def test_a_damaged_cache_is_mended(tmp_path: Path) -> None:
    networks = models(1)
    Agent(Service(networks), tmp_path).run()
    (file,) = (tmp_path / "models").glob("*.onnx")
    file.write_bytes(b"damaged")
    service = Service(networks)
    assert Agent(service, tmp_path).run().failed == 0
    assert file.read_bytes() == networks[0]


def test_a_network_that_cannot_run_is_reported_as_an_error(tmp_path: Path) -> None:
    service = Service([b"this is no network", *models(1)])
    summary = Agent(service, tmp_path).run()
    assert (summary.measured, summary.failed) == (2, 1)
    assert service.results["op0"]["samples_ms"] == []
    assert len(service.results["op0"]["error"]) <= 500
    assert service.results["op1"]["error"] is None


def test_bytes_that_do_not_match_their_digest_never_run(tmp_path: Path) -> None:
    service = Service(models(1))
    digest = next(iter(service.stored))
    service.stored[digest] = models(2)[1]
    agent = Agent(service, tmp_path)
    calls = iter([False] * 6)
    agent.run(stop=lambda: next(calls, True))
    assert list((tmp_path / "models").glob("*.onnx")) == []
    assert all(result["error"] for result in service.results.values())


@pytest.mark.parametrize("what", ["devices", "lease", "artifacts", "report"])
def test_a_cut_line_and_a_tired_server_are_waited_out(tmp_path: Path, what: str) -> None:
    service = Service(models(2))
    service.fail(what, httpx.ConnectError("cut"), 503, 429)
    agent = Agent(service, tmp_path)
    agent.run()
    assert len(service.results) == 2
    assert all(result["error"] is None for result in service.results.values())
    assert agent.kinds().count("offline") == 3
    assert len(agent.pauses) >= 3 and max(agent.pauses) <= 4


@pytest.mark.parametrize(("what", "status"), [("devices", 401), ("lease", 403), ("report", 401)])
def test_a_refusal_is_raised(tmp_path: Path, what: str, status: int) -> None:
    service = Service(models(1))
    service.fail(what, status)
    with pytest.raises(ApiError) as raised:
        Agent(service, tmp_path).run()
    assert raised.value.status == status


def test_results_survive_a_restart(tmp_path: Path) -> None:
    service = Service(models(3))
    service.fail("report", httpx.ConnectError("cut"), httpx.ConnectError("cut"))
    agent = Agent(service, tmp_path)
    agent.run(stop=lambda: "offline" in agent.kinds(), report_every=3)
    assert service.results == {}
    again = Agent(service, tmp_path)
    again.run(stop=lambda: "reported" in again.kinds())
    assert len(service.results) == 3
    assert list(Spool(tmp_path / "results").waiting()) == []


def test_results_that_nobody_takes_are_dropped(tmp_path: Path) -> None:
    service = Service(models(1))
    service.fail("report", 404)
    Agent(service, tmp_path).run()
    assert list(Spool(tmp_path / "results").waiting()) == []


def test_a_lost_lease_stops_the_measuring_but_not_the_report(tmp_path: Path) -> None:
    service = Service(models(20), ttl_s=0.15)
    service.fail("heartbeat", 409)
    agent = Agent(service, tmp_path)

    def slow(event: AgentEvent) -> None:
        agent.events.append(event)
        if event.kind == "measured":
            time.sleep(0.03)

    settings = AgentSettings("a", tmp_path, entries=20, report_every=100, once=True)
    with Client("http://test", "k", transport=httpx.MockTransport(service), attempts=1) as client:
        summary = run_agent(
            client, device_profile("b", RUNTIME), runtime=RUNTIME, settings=settings, progress=slow
        )
    assert "lost" in agent.kinds()
    assert 1 <= summary.measured < 20
    assert len(service.results) == summary.measured


def test_a_lease_is_kept_while_measuring(tmp_path: Path) -> None:
    service = Service(models(8), ttl_s=0.15)
    settings = AgentSettings("a", tmp_path, once=True)
    with Client("http://test", "k", transport=httpx.MockTransport(service), attempts=1) as client:
        run_agent(
            client, device_profile("b", RUNTIME), runtime=RUNTIME, settings=settings,
            progress=lambda event: time.sleep(0.03),
        )  # fmt: skip
    assert "heartbeat" in service.asked
    assert len(service.results) == 8


def test_without_work_it_asks_ever_more_slowly_until_stopped(tmp_path: Path) -> None:
    agent = Agent(Service([]), tmp_path)
    agent.run(stop=lambda: len(agent.pauses) >= 20, poll_s=0.5, longest_poll_s=5.0)
    assert agent.pauses[0] == 0.5
    assert agent.pauses == sorted(agent.pauses)
    assert agent.pauses[-1] == 5.0


def test_a_stop_between_entries_reports_what_is_there(tmp_path: Path) -> None:
    service = Service(models(6))
    agent = Agent(service, tmp_path)
    agent.run(stop=lambda: agent.kinds().count("measured") >= 2)
    assert len(service.results) == 2


def test_the_cache_forgets_what_was_not_used_for_longest(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path, most_bytes=250)
    contents = [bytes([i]) * 100 for i in range(3)]
    digests = [hashlib.sha256(content).hexdigest() for content in contents]
    by_digest = dict(zip(digests, contents, strict=True))
    for age, digest in enumerate(digests[:2]):
        cache.get(digest, by_digest.__getitem__)
        os.utime(tmp_path / f"{digest}.onnx", (age, age))
    cache.get(digests[2], by_digest.__getitem__)
    assert sorted(file.stem for file in tmp_path.glob("*.onnx")) == sorted(digests[1:])


@pytest.mark.parametrize("digest", ["../../etc/passwd", "", "abc"])
def test_a_digest_cannot_name_another_file(tmp_path: Path, digest: str) -> None:
    with pytest.raises(InvalidInput, match="64 hexadecimal"):
        ModelCache(tmp_path).get(digest, lambda _: b"")


def test_a_lease_id_cannot_name_another_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="lease id"):
        Spool(tmp_path).keep("../x", [{}])
