"""Errors as RFC 9457 problems: one stable type for each kind, with what the error knows as members."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from bespoke.search.feasibility import infeasible_document
from bespoke.supernet.errors import (
    AgentOffline,
    AgentQuarantined,
    ApiError,
    ArchitectureInvalid,
    BespokeError,
    BodyTooLarge,
    BudgetInfeasible,
    Conflict,
    ConstraintInvalid,
    DeviceNotProfiled,
    FileInvalid,
    Forbidden,
    InvalidInput,
    LeaseLost,
    MeasurementInvalid,
    NotFound,
    Refused,
    ReplayDiffers,
    StatisticsMissing,
    TableIncomplete,
    TaskFailed,
    Unauthorized,
    Unavailable,
)

__all__ = ["MEDIA_TYPE", "Problem", "install", "internal", "problem", "response", "responses"]

MEDIA_TYPE = "application/problem+json"
TYPES = "https://bespoke.dev/problems/"
RETRY_AFTER_S = 1

logger = logging.getLogger(__name__)


class Problem(BaseModel):
    """What went wrong (RFC 9457); further members depend on the type."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="A stable URI that names the kind of problem.")
    title: str = Field(description="The kind of problem in words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What came, what was expected, and what to do.")


# The first kind that an error is of decides: (status, slug, title).
KINDS: Mapping[type[BespokeError], tuple[int, str, str]] = {
    ArchitectureInvalid: (422, "architecture-invalid", "The space has no such architecture"),
    MeasurementInvalid: (422, "measurement-invalid", "A measured value cannot be true"),
    FileInvalid: (500, "file-invalid", "A file of the service is damaged"),
    InvalidInput: (422, "request-invalid", "The request is not understood"),
    StatisticsMissing: (409, "statistics-missing", "The supernet has no BN statistics"),
    NotFound: (404, "not-found", "There is no such thing"),
    Unauthorized: (401, "unauthorized", "A valid key is needed"),
    Forbidden: (403, "forbidden", "The key lacks the scope"),
    BodyTooLarge: (413, "body-too-large", "The body is too large"),
    DeviceNotProfiled: (409, "device-not-profiled", "The device has no latency table"),
    TableIncomplete: (409, "device-not-profiled", "The device's latency table lacks ops"),
    ReplayDiffers: (409, "replay-differs", "The search does not come to its answer again"),
    LeaseLost: (409, "lease-lost", "The lease is over"),
    AgentOffline: (409, "agent-offline", "No agent of the device is online"),
    AgentQuarantined: (409, "agent-quarantined", "The agent is quarantined"),
    Conflict: (409, "conflict", "The present state does not allow it"),
    Refused: (400, "request-invalid", "The request may not be served"),
    Unavailable: (503, "unavailable", "Something that is needed is not there now"),
    TaskFailed: (500, "task-failed", "Work that was needed did not come to its end"),
    ApiError: (502, "upstream-failed", "Another service answered with an error"),
    BespokeError: (500, "internal", "The service failed"),
}
SLUGS = {404: "not-found", 405: "method-not-allowed", 416: "range-not-satisfiable"}
UNKNOWN = {
    "device": ("device-unknown", "There is no such device"),
    "supernet": ("supernet-unknown", "There is no such supernet"),
}


def problem(error: BespokeError) -> Problem:
    """The problem that an error is."""
    if isinstance(error, BudgetInfeasible):
        return Problem(**infeasible_document(error))
    status, slug, title = next(values for kind, values in KINDS.items() if isinstance(error, kind))
    if isinstance(error, NotFound) and error.kind in UNKNOWN:
        slug, title = UNKNOWN[error.kind]
    return _problem(status, slug, title, str(error), _members(error))


def internal() -> Problem:
    """The problem that an error is which nobody expects."""
    status, slug, title = KINDS[BespokeError]
    detail = "an unexpected error; the service's log has it, under this response's request id"
    return _problem(status, slug, title, detail, {})


def _members(error: BespokeError) -> dict[str, Any]:
    match error:
        case ArchitectureInvalid() | ConstraintInvalid():
            return {"field": error.field, "got": error.got, "allowed": error.allowed}
        case NotFound():
            return {"kind": error.kind, "name": error.name, "known": error.known}
        case Forbidden():
            return {"needed": error.needed, "scopes": error.scopes}
        case BodyTooLarge():
            return {"limit_bytes": error.limit_bytes}
        case DeviceNotProfiled():
            return {"device_id": error.device_id, "supernet": error.supernet}
        case TableIncomplete():
            return {"missing": error.missing}
        case ReplayDiffers():
            return {"search_id": error.search_id, "changed": error.changed}
        case LeaseLost():
            return {"lease_id": error.lease_id}
        case AgentOffline():
            return {"device_id": error.device_id, "seen_at": error.seen_at}
        case AgentQuarantined():
            return {"agent": error.agent, "reason": error.reason, "until": error.until}
        case MeasurementInvalid():
            place = {"entry_id": error.entry_id, "round": error.round, "field": error.field}
            return {**place, "got": error.got, "expected": error.expected}
        case _:
            return {}


def _problem(status: int, slug: str, title: str, detail: str, members: Mapping[str, Any]) -> Problem:
    return Problem(type=TYPES + slug, title=title, status=status, detail=detail, **members)


def response(about: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """A problem as an HTTP response."""
    extra = dict(headers or {})
    if about.status == HTTPStatus.UNAUTHORIZED:
        extra["WWW-Authenticate"] = 'Bearer realm="bespoke"'
    if about.status == HTTPStatus.SERVICE_UNAVAILABLE:
        extra["Retry-After"] = str(RETRY_AFTER_S)
    return JSONResponse(jsonable_encoder(about), about.status, extra, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer errors of an app with a problem; those that nobody expects are ``RequestLog``'s."""
    handlers: Mapping[type[Exception], Callable[[Any], Response]] = {
        BespokeError: lambda error: response(problem(error)),
        RequestValidationError: _invalid,
        HTTPException: _refused,
    }

    def handler(answer: Callable[[Any], Response]) -> Callable[[Request, Exception], Response]:
        return lambda _request, error: answer(error)

    for kind, answer in handlers.items():
        app.add_exception_handler(kind, handler(answer))


def _invalid(error: RequestValidationError) -> Response:
    found = error.errors()
    unread = any(one["type"] == "json_invalid" for one in found)
    errors = [_wrong(one) for one in found]
    detail = "; ".join(f"{one['field']}: {one['message']}" for one in errors)
    _, slug, title = KINDS[InvalidInput]
    return response(_problem(400 if unread else 422, slug, title, detail, {"errors": errors}))


def _wrong(one: Mapping[str, Any]) -> dict[str, str]:
    """Which field is wrong, and how; of a body that is no JSON its place tells a character and no field."""
    first, *rest = map(str, one["loc"])
    if one["type"] == "json_invalid":
        return {"field": first, "message": f"expected JSON: {one['ctx']['error']}, at character {rest[0]}"}
    return {"field": ".".join(rest) or first, "message": one["msg"]}


def _refused(error: HTTPException) -> Response:
    status = HTTPStatus(error.status_code)
    slug = SLUGS.get(error.status_code, "request-invalid")
    about = _problem(error.status_code, slug, status.phrase, str(error.detail), {})
    return response(about, error.headers)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems that an operation may answer with, for its description."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }
