"""Artifacts: the models that agents measure, by their digest."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from bespoke.service.dependencies import AgentKey, Running
from bespoke.service.files import FILE_RESPONSES, file_response
from bespoke.service.problems import responses

router = APIRouter(prefix="/v1/artifacts", tags=["artifacts"], responses=responses(401, 403, 404, 422))


@router.get("/{sha256}", response_class=Response, responses=FILE_RESPONSES)
def artifact(
    _key: AgentKey,
    sha256: Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")],
    request: Request,
    service: Running,
) -> Response:
    """A stored file."""
    return file_response(request, service.place.artifacts, service.place.store.artifact(sha256))
