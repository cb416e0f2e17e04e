"""What every request passes: its id is in its answer and in the log, also where the service fails."""

from __future__ import annotations

import io
import json
import logging

import pytest
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from bespoke.service.middleware import JsonLines, RequestLog
from tests.service.api import problem_of

MINE = {"X-Request-Id": "mine-1"}


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["path"] == "/late":
        await send({"type": "http.response.start", "status": 200, "headers": []})
    raise RuntimeError("a wire is loose")


def test_an_unexpected_error_is_answered_and_logged_under_the_id_of_its_request() -> None:
    written, logger = io.StringIO(), logging.getLogger("bespoke.requests")
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonLines())
    logger.addHandler(handler)
    try:
        http = TestClient(RequestLog(failing), headers=MINE)
        answer = http.get("/early")
        with pytest.raises(RuntimeError, match="loose"):  # an answer that has begun is cut off
            http.get("/late")
    finally:
        logger.removeHandler(handler)
    assert "loose" not in problem_of(answer, 500, "internal")["detail"]
    assert answer.headers["x-request-id"] == "mine-1"
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    errors = [line for line in lines if line["level"] == "error"]
    told = [(line["path"], line["request_id"]) for line in errors]
    assert told == [("/early", "mine-1"), ("/late", "mine-1")]
    assert all("a wire is loose" in line["exception"] for line in errors)
