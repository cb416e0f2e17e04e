"""A service of one's own on loopback: for the quickstart, the benchmarks and the end-to-end tests."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bespoke.client import Client
from bespoke.supernet.errors import BespokeError, Unavailable

START_S, STOP_S, POLL_S = 120.0, 20.0, 0.1
OWN = {
    "BESPOKE_HOST": "127.0.0.1",
    "BESPOKE_DATABASE_URL": "",
    "BESPOKE_ARTIFACTS_URL": "",
    "BESPOKE_EMBEDDED_WORKER": "true",
}
"""What the environment may say of another service, and must not say of this one."""


@dataclass(frozen=True)
class LocalService:
    """A running service.

    Attributes:
        url: Where it listens.
        environment: The environment that it runs in, for further commands on the same data.
        log: Its output.
        pid: Its process.
    """

    url: str
    environment: Mapping[str, str]
    log: Path
    pid: int

    def key(self, scopes: Sequence[str], name: str) -> str:
        """Make an API key with these scopes."""
        words = [word for scope in scopes for word in ("--scope", scope)]
        command = [*BESPOKE, "keys", "create", "--name", name, *words, "--json"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unavailable(f"could not make an API key: {done.stderr.strip()}")
        return str(json.loads(done.stdout)["key"])

    def client(self, scopes: Sequence[str], name: str = "local") -> Client:
        """A client with a key of its own."""
        return Client(self.url, self.key(scopes, name))


BESPOKE = (sys.executable, "-m", "bespoke.cli")


@contextmanager
def local_service(var: Path, settings: Mapping[str, str] | None = None) -> Iterator[LocalService]:
    """Run a service on a free port of loopback, with an embedded worker, until the block ends.

    Args:
        var: Folder of its database, artifacts and log; made when missing.
        settings: Further ``BESPOKE_...`` variables; the environment's own hold too, but for those that
            say where a service listens, what it keeps its data in, and who does its work.

    Raises:
        Unavailable: It did not become ready; the message ends with its log's last lines.
    """
    var.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    own = {**OWN, "BESPOKE_VAR": str(var), "BESPOKE_PORT": str(port)}
    environment = {**os.environ, **own, **(settings or {})}
    file = var / "service.log"
    with file.open("ab") as log:
        process = subprocess.Popen([*BESPOKE, "serve"], env=environment, stdout=log, stderr=log)
    service = LocalService(f"http://127.0.0.1:{port}", environment, file, process.pid)
    try:
        _wait_until_ready(service, process)
        yield service
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(service: LocalService, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    with Client(service.url, attempts=1) as client:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                client.readyz()
                return
            except BespokeError:
                time.sleep(POLL_S)
    tail = "\n".join(service.log.read_text(errors="replace").splitlines()[-15:])
    raise Unavailable(f"the service did not become ready at {service.url}; its log ends:\n{tail}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
