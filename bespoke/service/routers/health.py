"""Whether the service lives, and whether it can answer. No key needed."""

from __future__ import annotations

import logging

from fastapi import APIRouter, Response

from bespoke import __version__
from bespoke.service import schemas
from bespoke.service.dependencies import Running
from bespoke.service.models import WarmModels

router = APIRouter(tags=["health"])
logger = logging.getLogger(__name__)


@router.get("/healthz")
async def healthz() -> schemas.Health:
    """Whether the process lives."""
    return schemas.Health(version=__version__)


@router.get("/readyz", responses={503: {"model": schemas.Readiness, "description": "Not yet, or no more."}})
def readyz(service: Running, response: Response) -> schemas.Readiness:
    """Whether the service can answer: database, a live worker, and the weights loaded."""
    store, settings = service.place.store, service.place.settings
    try:
        workers, database = store.live_workers(settings.worker_dead_s), True
    except Exception:
        logger.exception("the database does not answer")
        workers, database = set(), False
    models = service.models.warm if isinstance(service.models, WarmModels) else True
    ready = database and bool(workers) and models
    response.status_code = 200 if ready else 503
    return schemas.Readiness(
        status="ready" if ready else "not-ready", database=database, worker=bool(workers), models=models
    )
