"""Jobs: how far the work behind a campaign or a model is."""

from __future__ import annotations

from fastapi import APIRouter

from bespoke.service import schemas
from bespoke.service.dependencies import ReadKey, Running
from bespoke.service.problems import responses

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], responses=responses(401, 403, 404, 422))


@router.get("/{job_id}")
def job(_key: ReadKey, job_id: schemas.ApiName, service: Running) -> schemas.Job:
    """A job; once it has ended it has either a result or an error."""
    return schemas.Job.model_validate(service.place.store.job(job_id))
