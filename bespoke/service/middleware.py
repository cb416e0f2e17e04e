"""What every request passes: an id in the log, and a limit on its body."""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from contextvars import ContextVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bespoke.service.problems import internal, problem, response
from bespoke.supernet.errors import BodyTooLarge

__all__ = ["BodyLimit", "JsonLines", "RequestLog"]

logger = logging.getLogger("bespoke.requests")

request_id: ContextVar[str] = ContextVar("request_id", default="")
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class BodyLimit:
    """Refuses bodies that are larger than a limit, whether or not they say how long they are."""

    def __init__(self, app: ASGIApp, limit_bytes: int) -> None:
        self._app, self._limit = app, limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body up to the limit, then hand it on."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        declared = Headers(scope=scope).get("content-length", "")
        body = None if declared.isdigit() and int(declared) > self._limit else await self._read(receive)
        if body is None:
            return await response(problem(BodyTooLarge(self._limit)))(scope, receive, send)
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        return await self._app(scope, replay, send)

    async def _read(self, receive: Receive) -> bytearray | None:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return body
            body += message.get("body", b"")
            if len(body) > self._limit:
                return None
            if not message.get("more_body", False):
                return body


class RequestLog:
    """Gives each request an id, hands it back as ``X-Request-Id``, and logs what came of it.

    An error that nobody expects is logged, and answered, under that id too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take the caller's id where it is a plain word, else make one."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        came = Headers(scope=scope).get("x-request-id", "")
        own = came if _ID.fullmatch(came) else secrets.token_hex(8)
        token, started, status, begun = request_id.set(own), time.perf_counter(), 500, False

        async def tagged(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                MutableHeaders(scope=message)["X-Request-Id"] = own
            await send(message)

        try:
            await self._app(scope, receive, tagged)
        except Exception:
            about = {"method": scope["method"], "path": scope["path"]}
            logger.exception("an unexpected error", extra=about)
            if begun:  # It is too late for another answer.
                raise
            await response(internal())(scope, receive, tagged)
        finally:
            logger.info(
                "request",
                extra={
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "duration_ms": round(1000 * (time.perf_counter() - started), 2),
                },
            )
            request_id.reset(token)


class JsonLines(logging.Formatter):
    """Log records as JSON lines, with the id of the request that they belong to."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line = {
            "at": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id.get():
            line["request_id"] = request_id.get()
        extra = {k: v for k, v in vars(record).items() if k in ("method", "path", "status", "duration_ms")}
        if record.exc_info:
            extra["exception"] = self.formatException(record.exc_info)
        return json.dumps(line | extra)
