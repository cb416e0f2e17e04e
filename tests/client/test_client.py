"""The client against a transport in the same process."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from bespoke.client import ApiError, Client
from bespoke.supernet.errors import InvalidInput, Unavailable

Handler = Callable[[httpx.Request], httpx.Response]


def client(handler: Handler, pauses: list[float] | None = None, attempts: int = 4) -> Client:
    sleep = (lambda _: None) if pauses is None else pauses.append
    return Client(
        "http://test", "bsp_ab_cd", transport=httpx.MockTransport(handler), attempts=attempts, sleep=sleep
    )


def answers(*statuses: int | Exception) -> tuple[Handler, list[httpx.Request]]:
    """A handler that gives these statuses, or raises these errors, one after another."""
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        now = statuses[min(len(seen), len(statuses)) - 1]
        if isinstance(now, Exception):
            raise now
        return httpx.Response(now, json={"status": now})

    return handle, seen


def test_a_call_carries_the_key_and_its_body() -> None:
    handle, seen = answers(201)
    answer = client(handle).search("ofa", {"latency_ms": 20.0}, device="d1", seed=3)
    assert answer == {"status": 201}
    assert seen[0].headers["Authorization"] == "Bearer bsp_ab_cd"
    assert (seen[0].method, seen[0].url.path) == ("POST", "/v1/searches")
    assert json.loads(seen[0].content) == {
        "supernet": "ofa", "constraints": {"latency_ms": 20.0}, "device": "d1", "seed": 3,
    }  # fmt: skip


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_get_is_retried_when_a_gateway_fails(status: int) -> None:
    pauses: list[float] = []
    handle, seen = answers(status, status, 200)
    assert client(handle, pauses).healthz() == {"status": 200}
    assert len(seen) == 3
    assert 0 < pauses[0] < pauses[1] * 2 and len(pauses) == 2


def test_a_get_is_retried_when_the_connection_breaks() -> None:
    handle, seen = answers(httpx.ReadError("gone"), 200)
    assert client(handle).job("j") == {"status": 200}
    assert len(seen) == 2


def test_an_idempotent_report_is_retried() -> None:
    handle, seen = answers(httpx.ReadTimeout("slow"), 503, 200)
    assert client(handle).report("l", []) == {"status": 200}
    assert len(seen) == 3


def test_a_search_that_may_have_arrived_is_not_sent_twice() -> None:
    handle, seen = answers(httpx.ReadTimeout("slow"), 201)
    with pytest.raises(Unavailable, match="POST /v1/searches"):
        client(handle).search("ofa", {})
    assert len(seen) == 1


def test_a_search_that_never_left_is_sent_again() -> None:
    handle, seen = answers(httpx.ConnectError("refused"), 201)
    assert client(handle).search("ofa", {}) == {"status": 201}
    assert len(seen) == 2


def test_it_gives_up_after_the_last_attempt() -> None:
    handle, seen = answers(httpx.ConnectError("refused"))
    with pytest.raises(Unavailable, match="did not answer"):
        client(handle, attempts=3).healthz()
    assert len(seen) == 3
    handle, _ = answers(503)
    with pytest.raises(ApiError) as raised:
        client(handle, attempts=2).healthz()
    assert raised.value.status == 503


def test_a_problem_document_becomes_an_api_error() -> None:
    problem = {
        "type": "https://bespoke.dev/problems/budget-infeasible",
        "title": "Budget infeasible",
        "detail": "no architecture meets it",
        "relax": {"latency_ms": 9.9},
    }
    with pytest.raises(ApiError, match="422 Budget infeasible: no architecture") as raised:
        client(lambda _: httpx.Response(422, json=problem)).search("ofa", {"latency_ms": 1.0})
    assert raised.value.slug == "budget-infeasible"
    assert raised.value.problem["relax"] == {"latency_ms": 9.9}


def test_an_error_without_a_problem_document_keeps_its_text() -> None:
    with pytest.raises(ApiError, match="400 Bad Request: nginx says no"):
        client(lambda _: httpx.Response(400, text="\r\nnginx\r\nsays no")).devices()
    moved = httpx.Response(301, text="<html>", headers={"Location": "https://test/v1/devices"})
    with pytest.raises(ApiError, match="moved to https://test/v1/devices: give"):
        client(lambda _: moved).devices()


def test_an_answer_that_is_no_json_is_named() -> None:
    with pytest.raises(Unavailable, match="without JSON"):
        client(lambda _: httpx.Response(200, text="<html>")).devices()


def test_no_work_is_none() -> None:
    assert client(lambda _: httpx.Response(204)).lease("d", "a", 8) is None


def test_an_artifact_with_other_bytes_is_refused() -> None:
    digest = hashlib.sha256(b"right").hexdigest()
    assert client(lambda _: httpx.Response(200, content=b"right")).artifact(digest) == b"right"
    with pytest.raises(Unavailable, match="sha256"):
        client(lambda _: httpx.Response(200, content=b"wrong")).artifact(digest)


def test_an_artifact_arrives_as_a_file_whole_or_not_at_all(tmp_path: Path) -> None:
    content, path = b"right" * 100_000, tmp_path / "new" / "file"
    answers = [httpx.Response(503), httpx.Response(200, content=content)]
    client(lambda _: answers.pop(0)).download_artifact(hashlib.sha256(content).hexdigest(), path)
    assert path.read_bytes() == content
    for answer in (httpx.Response(200, content=b"wrong"), httpx.Response(404, json={"title": "Not found"})):
        with pytest.raises((Unavailable, ApiError), match=r"sha256|Not found"):
            client(lambda _, answer=answer: answer).download_artifact("ab" * 32, tmp_path / "none")
    assert [file.name for file in tmp_path.iterdir()] == ["new"]


def test_a_model_is_checked_against_its_etag(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"onnx").hexdigest()
    asked: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(200, content=b"onnx", headers={"ETag": f'"{digest}"'})

    target = tmp_path / "new" / "model.onnx"
    assert client(handle).download_model("s", target, dynamic_batch=True) == digest
    assert target.read_bytes() == b"onnx"
    assert asked == ["http://test/v1/subnets/s/model.onnx?dynamic_batch=true"]


def test_a_broken_download_leaves_no_file(tmp_path: Path) -> None:
    broken = client(lambda _: httpx.Response(200, content=b"onn", headers={"ETag": '"abc"'}))
    with pytest.raises(Unavailable, match="expected abc"):
        broken.download_model("s", tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_events_are_followed_over_a_broken_stream_to_their_end() -> None:
    streams = [
        'event: progress\ndata: {"done": 1}\n\n: ping\n\n',
        'event: progress\ndata: {"done": 2}\n\nevent: done\ndata: {"done": 3}\n\n',
    ]
    pauses: list[float] = []
    asked: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, text=streams[len(asked) - 1])

    told = list(client(handle, pauses).campaign_events("d", "c"))
    assert told == [{"done": 1}, {"done": 2}, {"done": 3}]
    assert [request.url.path for request in asked] == ["/v1/devices/d/campaigns/c/events"] * 2
    assert asked[0].headers["Authorization"] == "Bearer bsp_ab_cd"
    assert len(pauses) == 1


def test_events_that_are_refused_are_an_api_error_and_a_dead_service_is_given_up() -> None:
    with pytest.raises(ApiError, match="nobody"):
        list(client(lambda _: httpx.Response(404, json={"title": "nobody"})).campaign_events("d", "c"))
    handle, seen = answers(httpx.ConnectError("refused"))
    with pytest.raises(Unavailable, match="broke"):
        list(client(handle, attempts=2).campaign_events("d", "c"))
    assert len(seen) == 3


def test_events_are_waited_for_while_a_gateway_fails_and_not_for_ever() -> None:
    streams = [httpx.Response(503), httpx.Response(200, text='event: done\ndata: {"done": 3}\n\n')]
    assert list(client(lambda _: streams.pop(0)).campaign_events("d", "c")) == [{"done": 3}]
    with pytest.raises(ApiError, match="503"):
        list(client(lambda _: httpx.Response(503), attempts=2).campaign_events("d", "c"))
    handle, seen = answers(*[200] * 3, OSError("asked too often"))
    with pytest.raises(Unavailable, match="closed without an event"):
        list(client(handle, attempts=2).campaign_events("d", "c"))
    assert len(seen) == 3


def test_a_campaign_says_what_is_to_be_measured_only_where_it_was_told() -> None:
    handle, seen = answers(202)
    client(handle).create_campaign("d", "ofa", "quick")
    client(handle).create_campaign("d", "ofa", "quick", base=False, remeasure=True)
    assert json.loads(seen[0].content) == {"supernet": "ofa", "effort": "quick"}
    assert json.loads(seen[1].content) == {
        "supernet": "ofa", "effort": "quick", "base": False, "remeasure": True,
    }  # fmt: skip


def test_names_cannot_leave_their_path_segment() -> None:
    handle, seen = answers(200)
    client(handle).device("../jobs/1")
    assert seen[0].url.raw_path == b"/v1/devices/..%2Fjobs%2F1"


@pytest.mark.parametrize("name", ["", ".", "..", "\udcff"])
def test_a_name_that_no_path_segment_can_say_is_refused(name: str) -> None:
    handle, seen = answers(200)
    with pytest.raises(InvalidInput, match="id or name: got"):
        client(handle).campaign("d", name)
    assert not seen


@pytest.mark.parametrize("key", ["bsp_ab_cd\n", "bsp_ab_cd\r", "bsp_ab cd", "bsp_ab_\x00", "bsp_äb_cd"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(InvalidInput, match="API key") as raised:
        Client("http://test", key)
    assert "ab" not in str(raised.value)


@pytest.mark.parametrize(
    "address", ["", "127.0.0.1:8321", "localhost:8321", "ftp://x", "http://", "http://a..b"]
)
def test_what_is_no_address_is_told_at_once(address: str) -> None:
    with pytest.raises(InvalidInput, match="server: got"):
        Client(address)


def test_what_json_cannot_say_is_refused() -> None:
    handle, seen = answers(200)
    for supernet, limit in (("ofa", float("nan")), ("\udcff", 1.0)):
        with pytest.raises(InvalidInput, match="JSON cannot say"):
            client(handle).search(supernet, {"macs": limit})
    assert not seen


def test_a_given_http_client_is_used_and_left_open() -> None:
    with httpx.Client(base_url="http://given", transport=httpx.MockTransport(answers(200)[0])) as http:
        with Client(http=http) as mine:
            assert mine.readyz() == {"status": 200}
        assert not http.is_closed
