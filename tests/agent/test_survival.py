"""The agent as a process of its own, killed without a warning, against a service over HTTP."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.agent.test_loop import Service, models

COMMAND = (sys.executable, "-m", "bespoke.cli", "agent", "--json", "--once", "--force")


class LastingService(Service):
    """Leases again what was leased and never reported, as the service does once a lease is over."""

    def __init__(self, count: int) -> None:
        super().__init__(models(count))
        self.all, self.leased = list(self.todo), list[set[str]]()

    def lease(self, body: dict[str, Any], path: str) -> httpx.Response:
        self.todo = [entry for entry in self.all if entry["entry_id"] not in self.results]
        self.leased.append({str(entry["entry_id"]) for entry in self.todo})
        return super().lease(body, path)


@contextmanager
def over_http(service: Service) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = self.rfile.read(int(self.headers.get("content-length") or 0))
            answer = service(httpx.Request(self.command, f"http://test{self.path}", content=content))
            self.send_response(answer.status_code)
            self.send_header("content-length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.skipif(not hasattr(os, "kill"), reason="there are no signals")
def test_a_killed_agent_goes_on_where_it_was(tmp_path: Path) -> None:
    service = LastingService(8)
    with over_http(service) as url:
        command = [*COMMAND, "--server", url, "--key", "bsp_a_b", "--cache", str(tmp_path)]
        agent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert agent.stdout is not None
        measured: list[str] = []
        while len(measured) < 3:
            event = json.loads(agent.stdout.readline())
            measured += [event["detail"]] if event["event"] == "measured" else []
        agent.kill()
        agent.wait()
        agent.stdout.close()
        assert service.results == {}

        again = subprocess.run(command, capture_output=True, text=True, check=True)
    events = [json.loads(line) for line in again.stdout.splitlines()]
    assert set(service.results) == {f"op{i}" for i in range(8)}
    assert service.leased[1] <= {f"op{i}" for i in range(8)} - set(measured)
    assert events[-1]["measured"] == len(service.leased[1])
    for entry_id in measured:
        assert service.results[entry_id]["samples_ms"]
        assert any("closing sentinel" in reason for reason in service.results[entry_id]["degraded"])
    assert list((tmp_path / "results").rglob("*.json")) == []
