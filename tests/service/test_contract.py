"""The API does what its OpenAPI description says, whatever comes in."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from bespoke.client import Client
from bespoke.service.app import create_app
from bespoke.service.auth import create_key
from bespoke.service.settings import Settings
from tests.service.agents import PROFILE

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
]
PATIENCE_S = 240


@dataclass(frozen=True)
class Contract:
    """A service that listens on loopback: its description, a key for everything, and what it knows."""

    schema: Any
    headers: dict[str, str]
    known: dict[str, str]

    def about(self, case: Any) -> Any:
        """The same request about things that are there."""
        case.path_parameters |= {k: v for k, v in self.known.items() if k in case.path_parameters}
        if isinstance(case.body, dict) and "supernet" in case.body:
            case.body["supernet"] = self.known["name"]
        return case


@pytest.fixture(scope="module")
def contract(
    postgresql: Callable[[], str], tmp_path_factory: pytest.TempPathFactory, random_zoo: Path
) -> Iterator[Contract]:
    var = tmp_path_factory.mktemp("var")
    app = create_app(Settings(var=var, database_url=postgresql(), zoo=random_zoo, port=0, events_s=0.2))
    config = uvicorn.Config(app, port=0, log_level="warning")
    socket = config.bind_socket()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    store, address = app.state.service.place.store, f"http://127.0.0.1:{socket.getsockname()[1]}"
    key = create_key(store, ["search", "device:admin", "agent"]).text
    client = Client(address, key)
    wait_until(lambda: httpx.get(f"{address}/readyz").status_code == 200)
    device = client.create_device("simulated", PROFILE)
    campaign = client.create_campaign(device["id"], "tiny", "quick")
    wait_until(lambda: client.lease(device["id"], "one", 1) is not None)
    lease = client.lease(device["id"], "two", 2)
    search = client.search("tiny", {"macs": 1e7})
    known = {
        "name": "tiny",
        "device_id": device["id"],
        "campaign_id": campaign["id"],
        "lease_id": lease["lease_id"] if lease else "",
        "sha256": lease["entries"][0]["sha256"] if lease else "",
        "search_id": search["id"],
        "subnet_id": search["subnet"]["id"],
        "job_id": campaign["job_id"],
        "revision": "0" * 64,
    }
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    yield Contract(schema, {"Authorization": f"Bearer {key}"}, known)
    server.should_exit = True
    thread.join()
    shutil.rmtree(var)


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


def operations() -> list[tuple[str, str]]:
    """(method, path) of every operation; the description needs no running service."""
    paths = create_app(Settings()).openapi()["paths"]
    return [(method, path) for path, methods in paths.items() for method in methods]


@pytest.mark.parametrize(("method", "path"), operations())
def test_an_operation_keeps_its_contract(contract: Contract, method: str, path: str) -> None:
    operation = contract.schema[path][method]
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)

    @settings(
        max_examples=12,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        case=st.one_of([operation.as_strategy(generation_mode=mode) for mode in modes]), real=st.booleans()
    )
    def keeps(case: Any, real: bool) -> None:
        generated_well = case.meta.generation.mode == GenerationMode.POSITIVE
        case = contract.about(case) if real and generated_well else case
        case.call_and_validate(headers=contract.headers, checks=CHECKS)

    keeps()


def test_the_description_is_openapi_3_1_and_tells_of_problems(contract: Contract) -> None:
    raw = contract.schema.raw_schema
    assert raw["openapi"].startswith("3.1")
    assert "Problem" in raw["components"]["schemas"]
    for path, operations in raw["paths"].items():
        for operation in operations.values():
            assert operation["summary"]
            assert operation["description"], path
            if path not in ("/healthz", "/readyz"):
                assert "application/problem+json" in operation["responses"]["401"]["content"]
                assert operation["security"] == [{"key": []}]
