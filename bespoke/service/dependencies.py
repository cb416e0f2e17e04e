"""What handlers ask for in their signatures: the running service, and a key with its rights."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool

from bespoke.service.auth import authenticate, authorise, recognise
from bespoke.service.engines.protocol import JobEngine
from bespoke.service.models import ModelMaker
from bespoke.service.orm import ApiKey
from bespoke.service.workplace import Workplace
from bespoke.supernet.errors import Unauthorized

__all__ = ["AdminKey", "AgentKey", "EnrolKey", "ReadKey", "Running", "SearchKey", "Service"]

bearer = HTTPBearer(
    auto_error=False, scheme_name="key", description="A key that `bespoke keys create` printed: `bsp_...`."
)


@dataclass(frozen=True)
class Service:
    """The running service: its workplace, its job engine, and who makes its models."""

    place: Workplace
    engine: JobEngine
    models: ModelMaker


async def running(request: Request) -> Service:
    """The service that the app started; without a thread of its own, since it only looks."""
    service: Service = request.app.state.service
    return service


Running = Annotated[Service, Depends(running)]


def require(*scopes: str) -> Callable[..., Awaitable[ApiKey]]:
    """A dependency that lets in keys with one of these scopes."""

    async def check(
        service: Running, came: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]
    ) -> ApiKey:
        if came is None:
            raise Unauthorized("no key came: send `Authorization: Bearer bsp_...` (`bespoke keys create`)")
        store, text = service.place.store, came.credentials
        key = recognise(store, text)
        if key is None:  # a thread costs more than to recognise a key that came a moment ago
            key = await run_in_threadpool(authenticate, store, text)
        authorise(key, scopes)
        return key

    return check


ReadKey = Annotated[ApiKey, Depends(require("search", "device:admin"))]
SearchKey = Annotated[ApiKey, Depends(require("search"))]
AdminKey = Annotated[ApiKey, Depends(require("device:admin"))]
AgentKey = Annotated[ApiKey, Depends(require("agent"))]
EnrolKey = Annotated[ApiKey, Depends(require("agent", "device:admin"))]
