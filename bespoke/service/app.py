"""The application: assembled here, written elsewhere. Nothing here or below imports torch."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.concurrency import run_in_threadpool

from bespoke import __version__
from bespoke.predictors.blas import one_thread
from bespoke.service import problems
from bespoke.service.chores import chores
from bespoke.service.dependencies import Service
from bespoke.service.engines.distributed import DistributedEngine
from bespoke.service.engines.embedded import EmbeddedEngine
from bespoke.service.middleware import BodyLimit, RequestLog
from bespoke.service.migrations import upgrade
from bespoke.service.models import QueuedModels, WarmModels
from bespoke.service.routers import (
    artifacts,
    campaigns,
    datasets,
    devices,
    fleets,
    health,
    jobs,
    leases,
    searches,
    subnets,
    supernets,
    tables,
)
from bespoke.service.settings import Settings
from bespoke.service.workflows import workflows
from bespoke.service.workplace import open_workplace

__all__ = ["create_app", "open_service"]

# A request is held against one after the other: what is asked for most often comes first.
ROUTERS = (
    searches,
    health,
    supernets,
    datasets,
    devices,
    tables,
    campaigns,
    leases,
    artifacts,
    fleets,
    subnets,
    jobs,
)
DESCRIPTION = """
A latency (or MACs, memory, size) budget and a device go in; the network that fits comes out, as ONNX
with its weights. Errors are `application/problem+json` (RFC 9457) with stable types. Limits,
latencies and sizes name their unit; `flops` is 2 x MACs.
"""


def create_app(settings: Settings) -> FastAPI:
    """Assemble the API; it opens its database and starts its worker when it starts to serve."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service = app.state.service = await run_in_threadpool(open_service, settings)
        try:
            # Requests hold the BLAS to one thread anyway; letting it go in between costs more than they do.
            with one_thread():
                yield
        finally:
            await run_in_threadpool(close_service, service)

    app = FastAPI(title="Bespoke", version=__version__, description=DESCRIPTION, lifespan=lifespan)
    for router in ROUTERS:
        app.include_router(router.router)
    problems.install(app)
    app.add_middleware(BodyLimit, limit_bytes=settings.max_body_bytes)
    app.add_middleware(RequestLog)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def open_service(settings: Settings) -> Service:
    """Migrate the database, then start the engine, embedded or distributed."""
    place = open_workplace(settings)
    upgrade(place.store.engine)
    if not settings.embedded_worker:
        engine = DistributedEngine(settings.database, place.store)
        engine.start()
        return Service(place, engine, QueuedModels(place.store, engine))
    models = WarmModels(settings, place.store, place.catalogue.names())
    embedded = EmbeddedEngine(settings, place.store, workflows(place, models), chores(place))
    embedded.start()
    return Service(place, embedded, models)


def close_service(service: Service) -> None:
    """Stop the engine and whatever it started; jobs go on at the next start."""
    service.engine.stop()
    if isinstance(service.models, WarmModels):
        service.models.stop()
    service.place.store.engine.dispose()


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The description of the API; problems are described once, as a component."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        components = schema.setdefault("components", {}).setdefault("schemas", {})
        components["Problem"] = problems.Problem.model_json_schema()
        app.openapi_schema = schema
    return app.openapi_schema
