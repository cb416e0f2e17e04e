"""The agent against a service in the same process, that loses leases, connections and patience."""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from bespoke.agent import AgentEvent, AgentSettings, Bench, ChildBench, Measurement, device_profile, run_agent
from bespoke.agent.cache import ModelCache, Spool
from bespoke.client import ApiError, Client
from bespoke.latency_tables import Timing
from bespoke.supernet.errors import InvalidInput, TaskFailed, Unavailable
from bespoke.supernet.onnx import op_plan, random_weights, write_onnx
from bespoke.supernet.ops import Op

QUICK = {"warm_up_ms": 0, "min_ms": 0, "min_runs": 2}


def models(count: int) -> list[bytes]:
    plans = [op_plan(Op("linear", (1, 1, 8 + i), 4)) for i in range(count)]
    return [write_onnx(plan, random_weights(plan)) for plan in plans]


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with ChildBench(pin=False) as bench:
        yield bench


class Service:
    """Leases entries, takes results, and fails as told."""

    def __init__(self, networks: Sequence[bytes], *, ttl_s: float = 30.0) -> None:
        self.stored = {hashlib.sha256(content).hexdigest(): content for content in networks}
        self.todo = [{"entry_id": f"op{i}", "kind": "op", "round": 0, "sha256": digest, "size": 1}
                     for i, digest in enumerate(self.stored)]  # fmt: skip
        self.ttl_s, self.leases = ttl_s, 0
        self.results: dict[str, dict[str, Any]] = {}
        self.rounds: set[tuple[str, int]] = set()
        self.asked: list[str] = []
        self.failures: dict[str, list[int | str | Exception]] = {}
        self.device_id = "dev1"

    def fail(self, what: str, *answers: int | str | Exception) -> None:
        """Let the next calls of a kind (devices, lease, artifacts, report, heartbeat) fail.

        A text is a 404 that something in front of the service answers.
        """
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
            if isinstance(failure, str):
                return httpx.Response(404, text=failure)
            return httpx.Response(
                failure, json={"type": "https://bespoke.dev/problems/x", "title": "told to"}
            )
        body = json.loads(request.content or b"{}")
        answer: httpx.Response = getattr(self, what)(body, path)
        return answer

    def devices(self, body: dict[str, Any], path: str) -> httpx.Response:
        return httpx.Response(201, json={"id": self.device_id, "name": body["name"]})

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
        self.rounds |= {(result["entry_id"], result["round"]) for result in body["results"]}
        answer = {"accepted": len(new), "duplicates": len(body["results"]) - len(new)}
        return httpx.Response(200, json=answer)


class Agent:
    """Runs the agent against a service; keeps events and pauses."""

    def __init__(self, service: Service, cache: Path, bench: Bench) -> None:
        self.service, self.cache, self.bench = service, cache, bench
        self.events: list[AgentEvent] = []
        self.pauses: list[float] = []

    def run(
        self,
        stop: Callable[[], bool] = lambda: False,
        progress: Callable[[AgentEvent], None] = lambda event: None,
        watch: Callable[[], Sequence[str]] = lambda: (),
        **changes: Any,
    ) -> Any:
        def tell(event: AgentEvent) -> None:
            self.events.append(event)
            progress(event)

        settings = AgentSettings(**({"name": "a", "cache": self.cache, "once": True} | changes))
        transport = httpx.MockTransport(self.service)
        with Client("http://test", "bsp_a_b", transport=transport, attempts=1) as client:
            return run_agent(
                client, device_profile("board", self.bench), bench=self.bench, settings=settings,
                stop=stop, progress=tell, sleep=self.pauses.append, watch=watch,
            )  # fmt: skip

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


def test_everything_is_measured_and_reported(tmp_path: Path, bench: Bench) -> None:
    service = Service(models(5))
    summary = Agent(service, tmp_path, bench).run(entries=2, window=2)
    assert (summary.device_id, summary.measured, summary.failed, summary.leases) == ("dev1", 5, 0, 3)
    assert sorted(service.results) == [f"op{i}" for i in range(5)]
    for result in service.results.values():
        assert len(result["samples_ms"]) >= 1
        assert min(result["samples_ms"]) > 0 and result["cold_ms"] > 0 and result["error"] is None


def test_results_come_in_chunks(tmp_path: Path, bench: Bench) -> None:
    service = Service(models(5))
    Agent(service, tmp_path, bench).run(window=2)
    assert service.asked.count("report") == 3


def test_networks_are_fetched_once(tmp_path: Path, bench: Bench) -> None:
    networks = models(3)
    for _ in range(2):
        service = Service(networks)
        Agent(service, tmp_path, bench).run()
        assert len(service.results) == 3
    assert "artifacts" not in service.asked


def test_a_damaged_cache_is_mended(tmp_path: Path, bench: Bench) -> None:
    networks = models(1)
    Agent(Service(networks), tmp_path, bench).run()
    (file,) = (tmp_path / "models").glob("*.onnx")
    file.write_bytes(b"damaged")
    service = Service(networks)
    assert Agent(service, tmp_path, bench).run().failed == 0
    assert file.read_bytes() == networks[0]


def test_a_network_that_cannot_run_is_reported_as_an_error(tmp_path: Path, bench: Bench) -> None:
    service = Service([b"this is no network", *models(1)])
    summary = Agent(service, tmp_path, bench).run()
    assert (summary.measured, summary.failed) == (2, 1)
    assert service.results["op0"]["samples_ms"] == []
    assert len(service.results["op0"]["error"]) <= 500
    assert service.results["op1"]["error"] is None


def test_bytes_that_do_not_match_their_digest_never_run(tmp_path: Path, bench: Bench) -> None:
    service = Service(models(1))
    digest = next(iter(service.stored))
    service.stored[digest] = models(2)[1]
    agent = Agent(service, tmp_path, bench)
    calls = iter([False] * 6)
    agent.run(stop=lambda: next(calls, True))
    assert list((tmp_path / "models").glob("*.onnx")) == []
    assert all(result["error"] for result in service.results.values())


@pytest.mark.parametrize("what", ["lease", "artifacts", "report"])
def test_a_proxy_that_finds_no_service_is_waited_out(tmp_path: Path, bench: Bench, what: str) -> None:
    service = Service(models(2))
    service.fail(what, *["404 page not found"] * 2)
    Agent(service, tmp_path, bench).run()
    assert len(service.results) == 2
    assert all(result["error"] is None for result in service.results.values())


@pytest.mark.parametrize("what", ["devices", "lease", "artifacts", "report"])
def test_a_cut_line_and_a_tired_server_are_waited_out(tmp_path: Path, bench: Bench, what: str) -> None:
    service = Service(models(2))
    service.fail(what, httpx.ConnectError("cut"), 503, 429)
    agent = Agent(service, tmp_path, bench)
    agent.run()
    assert len(service.results) == 2
    assert all(result["error"] is None for result in service.results.values())
    assert agent.kinds().count("offline") == 3
    assert len(agent.pauses) >= 3 and max(agent.pauses) <= 4


@pytest.mark.parametrize(("what", "status"), [("devices", 401), ("lease", 403), ("report", 401)])
def test_a_refusal_is_raised(tmp_path: Path, bench: Bench, what: str, status: int) -> None:
    service = Service(models(1))
    service.fail(what, status)
    with pytest.raises(ApiError) as raised:
        Agent(service, tmp_path, bench).run()
    assert raised.value.status == status


def test_a_key_that_is_not_taken_is_no_failure_of_a_network(tmp_path: Path, bench: Bench) -> None:
    service = Service(models(2))
    service.fail("artifacts", *[401] * 9)
    with pytest.raises(ApiError, match="401"):
        Agent(service, tmp_path, bench).run()
    assert waiting(tmp_path) == []


def test_a_bench_that_measures_nothing_any_more_ends_the_agent(tmp_path: Path) -> None:
    class GoneBench(ScriptedBench):
        def measure(self, *_: Any) -> Measurement:
            raise Unavailable("the runtime was there, and is no more")

    with pytest.raises(Unavailable, match="no more"):
        Agent(Service(models(2)), tmp_path, GoneBench(b"")).run()
    assert waiting(tmp_path) == []


def waiting(cache: Path) -> list[Path]:
    """The files of results that the service has not taken."""
    return list((cache / "results").rglob("*.json"))


def test_results_survive_a_restart(tmp_path: Path, bench: Bench) -> None:
    service = Service(models(3))
    service.fail("report", httpx.ConnectError("cut"), httpx.ConnectError("cut"))
    agent = Agent(service, tmp_path, bench)
    agent.run(stop=lambda: "offline" in agent.kinds(), window=3)
    assert service.results == {} and len(waiting(tmp_path)) == 1
    again = Agent(service, tmp_path, bench)
    again.run(stop=lambda: "reported" in again.kinds())
    assert len(service.results) == 3
    assert waiting(tmp_path) == []


def test_a_stop_while_a_network_is_fetched_is_no_failure_of_it(tmp_path: Path, bench: Bench) -> None:
    class CutOff(Service):
        def artifacts(self, body: dict[str, Any], path: str) -> httpx.Response:
            if self.asked.count("artifacts") > 1:
                raise httpx.ConnectError("cut")
            return super().artifacts(body, path)

    service = CutOff(models(2))
    agent = Agent(service, tmp_path, bench)
    agent.run(stop=lambda: "offline" in agent.kinds())
    assert "offline" in agent.kinds()
    assert [result["error"] for result in service.results.values() if result["error"]] == []


def test_results_that_nobody_takes_are_dropped(tmp_path: Path, bench: Bench) -> None:
    service = Service(models(1))
    service.fail("report", 404)
    Agent(service, tmp_path, bench).run()
    assert waiting(tmp_path) == []


def test_a_lost_lease_stops_the_measuring_but_not_the_report(tmp_path: Path, bench: Bench) -> None:
    service = Service(models(20), ttl_s=0.15)
    service.fail("heartbeat", 409)
    agent = Agent(service, tmp_path, bench)
    summary = agent.run(progress=slowly, entries=20, window=100)
    assert "lost" in agent.kinds()
    assert 1 <= summary.measured < 20
    assert len(service.results) == summary.measured


def test_a_lease_is_kept_while_measuring(tmp_path: Path, bench: Bench) -> None:
    service = Service(models(8), ttl_s=0.15)
    Agent(service, tmp_path, bench).run(progress=slowly)
    assert "heartbeat" in service.asked
    assert len(service.results) == 8


def slowly(event: AgentEvent) -> None:
    if event.kind == "measured":
        time.sleep(0.03)


def test_without_work_it_asks_ever_more_slowly_until_stopped(tmp_path: Path, bench: Bench) -> None:
    agent = Agent(Service([]), tmp_path, bench)
    agent.run(stop=lambda: len(agent.pauses) >= 20, poll_s=0.5, longest_poll_s=5.0)
    assert agent.pauses[0] == 0.5
    assert agent.pauses == sorted(agent.pauses)
    assert agent.pauses[-1] == 5.0


def test_a_stop_between_entries_reports_what_is_there(tmp_path: Path, bench: Bench) -> None:
    service = Service(models(6))
    agent = Agent(service, tmp_path, bench)
    agent.run(stop=lambda: agent.kinds().count("measured") >= 2)
    assert len(service.results) == 2


def test_the_cache_forgets_what_was_not_used_for_longest(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path, most_bytes=250)
    contents = [bytes([i]) * 100 for i in range(3)]
    digests = [hashlib.sha256(content).hexdigest() for content in contents]
    by_digest = dict(zip(digests, contents, strict=True))

    def fetch(digest: str, path: Path) -> None:
        path.write_bytes(by_digest[digest])

    for age, digest in enumerate(digests[:2]):
        assert cache.get(digest, fetch).read_bytes() == by_digest[digest]
        os.utime(tmp_path / f"{digest}.onnx", (age, age))
    cache.get(digests[2], fetch)
    assert sorted(file.stem for file in tmp_path.glob("*.onnx")) == sorted(digests[1:])


def test_a_full_disk_is_no_failure_of_a_network(tmp_path: Path, bench: Bench) -> None:
    class FullDisk(Service):
        def artifacts(self, body: dict[str, Any], path: str) -> httpx.Response:
            raise OSError(28, "No space left on device")

    with pytest.raises(Unavailable, match=r"networks cannot be kept in .*models: .*No space left"):
        Agent(FullDisk(models(1)), tmp_path, bench).run()
    assert waiting(tmp_path) == []


def test_a_cache_that_another_agent_clears_meanwhile_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "glob", lambda folder, _: iter([folder / "gone.onnx"]))
    digest = hashlib.sha256(b"x").hexdigest()
    path = ModelCache(tmp_path).get(digest, lambda _, path: path.write_bytes(b"x"))
    assert path.read_bytes() == b"x"


@pytest.mark.parametrize("digest", ["../../etc/passwd", "", "abc"])
def test_a_digest_cannot_name_another_file(tmp_path: Path, digest: str) -> None:
    with pytest.raises(InvalidInput, match="64 hexadecimal"):
        ModelCache(tmp_path).get(digest, lambda _, path: path.write_bytes(b""))


def test_a_lease_id_cannot_name_another_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="lease id"):
        Spool(tmp_path).keep("../x", [{}])


def test_a_device_id_cannot_name_another_folder(tmp_path: Path, bench: Bench) -> None:
    private = tmp_path / "private.json"
    private.write_text('[{"password": "x"}]')
    service = Service(models(1))
    service.device_id = "../.."
    with pytest.raises(InvalidInput, match=r"device id: got '../..'"):
        Agent(service, tmp_path / "agent", bench).run()
    assert "report" not in service.asked and private.exists()


class ScriptedBench:
    """Every network takes 1 ms, but for one that takes what it is told, the last for ever."""

    name, version, provider, threads = "onnxruntime", "1", "CPUExecutionProvider", 1

    def __init__(self, network: bytes, *takes_ms: float) -> None:
        self.sentinel, self.takes_ms = hashlib.sha256(network).hexdigest(), list(takes_ms)
        self.measured: list[str] = []

    def measure(
        self, model: Path, sha256: str, timing: Timing, stop: Callable[[], bool] = lambda: False
    ) -> Measurement:
        self.measured.append(sha256)
        takes_ms = 1.0
        if sha256 == self.sentinel:
            takes_ms = self.takes_ms.pop(0) if len(self.takes_ms) > 1 else self.takes_ms[0]
        return Measurement((takes_ms,) * 20, 5.0, 5, 1, 1500.0, 61.5)


def sentinel_service(count: int) -> tuple[Service, bytes]:
    """A campaign whose first entry is its sentinel."""
    networks = models(count)
    service = Service(networks)
    service.todo[0]["kind"] = "sentinel"
    return service, networks[0]


def test_a_sentinel_is_measured_around_every_window(tmp_path: Path) -> None:
    service, network = sentinel_service(9)
    bench = ScriptedBench(network, 2.0)
    summary = Agent(service, tmp_path, bench).run(window=3)
    assert (summary.windows, summary.repeats) == (3, 0)
    # Before the first window and after each; and once as an entry of its own.
    assert bench.measured.count(bench.sentinel) == 5
    assert bench.measured[0] == bench.measured[-1] == bench.sentinel
    assert all(result["repeated"] == 0 and result["degraded"] == [] for result in service.results.values())


def test_a_window_in_which_the_sentinel_drifts_is_measured_again(tmp_path: Path) -> None:
    service, network = sentinel_service(4)
    # Before, as an entry, after; from the third on the device is as it was at first.
    bench = ScriptedBench(network, 2.0, 2.5, 2.5, 2.0, 2.0, 2.0, 2.0)
    agent = Agent(service, tmp_path, bench)
    summary = agent.run(window=4)
    # One repeat is enough: it is held against a fresh look, not against the one that had drifted.
    assert summary.repeats == agent.kinds().count("drifted") == 1
    assert len(service.results) == summary.measured == 4
    assert {result["repeated"] for result in service.results.values()} == {1}
    assert all(result["degraded"] == [] for result in service.results.values())


def test_results_tell_that_their_sentinel_could_not_be_measured(tmp_path: Path) -> None:
    class Crashes(ScriptedBench):
        def measure(self, model: Path, sha256: str, *rest: Any) -> Measurement:
            if sha256 == self.sentinel:
                raise TaskFailed("measure", "the network ended its process")
            return super().measure(model, sha256, *rest)

    service, network = sentinel_service(3)
    Agent(service, tmp_path, Crashes(network, 2.0)).run()
    assert {tuple(result["degraded"]) for result in service.results.values()} == {
        ("the window has no closing sentinel",)
    }


def test_a_device_that_never_stands_still_is_measured_a_bounded_number_of_times(tmp_path: Path) -> None:
    service, network = sentinel_service(12)
    bench = ScriptedBench(network, *(float(i % 2 + 1) for i in range(200)))
    summary = Agent(service, tmp_path, bench).run(window=2)
    assert summary.measured == 12
    assert 2 <= summary.repeats <= 2 + summary.windows // 4
    reasons = [result["degraded"] for result in service.results.values()]
    assert any("drift: the sentinel by" in text for texts in reasons for text in texts)


def test_two_rounds_of_an_entry_in_one_window_are_two_results(tmp_path: Path, bench: Bench) -> None:
    service = Service(models(1))
    service.todo.append({**service.todo[0], "round": 1})
    assert Agent(service, tmp_path, bench).run().measured == 2
    assert service.rounds == {("op0", 0), ("op0", 1)}


def test_results_tell_when_and_under_what_conditions_they_were_measured(tmp_path: Path) -> None:
    service, network = sentinel_service(2)
    bench = ScriptedBench(network, 2.0)
    Agent(service, tmp_path, bench).run(degraded=("load: high",), watch=lambda: ("temperature: high",))
    for result in service.results.values():
        assert datetime.fromisoformat(result["started_at"]).tzinfo is not None
        assert (result["frequency_mhz"], result["temperature_c"], result["rejected"]) == (1500.0, 61.5, 0)
        assert result["degraded"] == ["load: high", "temperature: high"]


def test_the_service_takes_results_as_they_are_sent(tmp_path: Path) -> None:
    from bespoke.service.schemas import ReportRequest

    service, network = sentinel_service(3)
    Agent(service, tmp_path, ScriptedBench(network, 2.0)).run(degraded=("load: high",))
    body = {"results": list(service.results.values())}
    assert len(ReportRequest.model_validate_json(json.dumps(body)).results) == 3


def test_results_that_wait_for_another_device_are_left_alone(tmp_path: Path, bench: Bench) -> None:
    other = Spool(tmp_path / "results" / "dev_other")
    other.keep("lease_1", [{"entry_id": "op0", "round": 0}])
    service = Service(models(2))
    Agent(service, tmp_path, bench).run()
    assert sorted(service.results) == ["op0", "op1"]
    assert list(other.waiting()) == [("lease_1", [{"entry_id": "op0", "round": 0}])]
