"""The API does what its OpenAPI description says, whatever comes in."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, settings
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


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def contract(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, random_zoo: Path
) -> Iterator[Any]:
    """The description of a service that listens on loopback, with a key that opens everything."""
    url = "" if request.param == "sqlite" else request.getfixturevalue("postgresql")()
    chosen = Settings(
        var=tmp_path_factory.mktemp("var"), database_url=url, zoo=random_zoo, model_wait_s=0.5, port=0
    )
    app = create_app(chosen)
    config = uvicorn.Config(app, port=0, log_level="warning")
    socket = config.bind_socket()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.05)
    store = app.state.service.place.store
    store.add_device("simulated", PROFILE, "digest")
    key = create_key(store, ["search", "device:admin", "agent"]).text
    address = f"http://127.0.0.1:{socket.getsockname()[1]}/openapi.json"
    yield schemathesis.openapi.from_url(address), {"Authorization": f"Bearer {key}"}
    server.should_exit = True
    thread.join()


@pytest.fixture
def schema(contract: Any) -> Any:
    return contract[0]


described = schemathesis.pytest.from_fixture("schema")


@described.parametrize()
@settings(
    max_examples=12, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
def test_the_api_keeps_its_contract(contract: Any, case: Any) -> None:
    case.call_and_validate(headers=contract[1], checks=CHECKS)


def test_the_description_is_openapi_3_1_and_tells_of_problems(contract: Any) -> None:
    raw = contract[0].raw_schema
    assert raw["openapi"].startswith("3.1")
    assert "Problem" in raw["components"]["schemas"]
    for path, operations in raw["paths"].items():
        for operation in operations.values():
            assert operation["summary"]
            assert operation["description"], path
            if path not in ("/healthz", "/readyz"):
                assert "application/problem+json" in operation["responses"]["401"]["content"]
                assert operation["security"] == [{"key": []}]
