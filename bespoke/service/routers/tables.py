"""Latency tables: every revision of a device, imports, exports, plots, and provisional tables."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, Query, Request, Response

from bespoke.service import answers, exports, orm, revisions, schemas
from bespoke.service.archiving import start_build
from bespoke.service.dependencies import AdminKey, ReadKey, Running, Service
from bespoke.service.problems import responses

router = APIRouter(
    prefix="/v1/devices/{device_id}", tags=["latency tables"], responses=responses(401, 403, 404, 422)
)

Format = Annotated[
    Literal["json", "csv", "ofa"],
    Query(description="Ours; a row an op; or published Once-for-All YAML, one file a resolution, as zip."),
]
_FILES: dict[str, Any] = {
    "application/json": {"schema": {"type": "object"}},
    "text/csv": {"schema": {"type": "string"}},
    "application/zip": {"schema": {"type": "string", "format": "binary"}},
}
_PNG: dict[str, Any] = {"image/png": {"schema": {"type": "string", "format": "binary"}}}


async def _text(request: Request) -> bytes:
    """The body as it came: a key that stands twice is lost once it is parsed."""
    return await request.body()


@router.get("/latency-tables")
def latency_tables(
    _key: ReadKey,
    device_id: schemas.ApiName,
    service: Running,
    supernet: schemas.SupernetName | None = None,
) -> schemas.Tables:
    """All revisions, newest first, each with its source, its quality card, and whether it is stale."""
    store = service.place.store
    store.device(device_id)
    serving = {row.id for row in store.latest_tables(device_id)}
    rows = store.tables(device_id, supernet)
    return schemas.Tables(items=[answers.table(row, row.id in serving) for row in rows])


@router.post(
    "/latency-tables",
    status_code=201,
    responses={
        200: {"model": schemas.Table, "description": "It was there already."},
        **responses(400, 409, 413),
    },
)
def import_latency_table(
    _key: AdminKey,
    device_id: schemas.ApiName,
    supernet: schemas.SupernetName,
    body: Annotated[dict[str, Any], Body(description="A table as `latency-table` gives it.")],
    text: Annotated[bytes, Depends(_text)],
    service: Running,
    response: Response,
) -> schemas.Table:
    """Import a table in our JSON; no revision is overwritten.

    A new one serves from now on, or where it is provisional, while there is no other; one that was there
    already keeps its place among the others. It must be of this very device profile (409 otherwise), and
    hold every op of the supernet.
    """
    return _answer(service, response, *revisions.import_table(service.place, device_id, supernet, text))


@router.get(
    "/latency-tables/{revision}",
    response_class=Response,
    responses={200: {"description": "The table.", "content": _FILES}, **responses(409, 503)},
)
def latency_table_revision(
    _key: ReadKey,
    device_id: schemas.ApiName,
    revision: schemas.RevisionName,
    service: Running,
    format: Format = "json",
) -> Response:
    """One revision, in our JSON, as CSV, or as published Once-for-All YAML files."""
    row = _row(service, device_id, revision)
    table = service.place.catalogue.read(row)
    if format == "json":
        content = answers.table_content(row, table.to_json(), _serves(service, row))
        return exports.as_json(content)
    space = service.place.catalogue.entry(row.supernet).space
    return exports.as_csv(table) if format == "csv" else exports.as_official(table, space)


@router.get(
    "/latency-tables/{revision}/quality.png",
    response_class=Response,
    responses={200: {"description": "The plot.", "content": _PNG}, **responses(409, 503)},
)
def quality_plot(
    _key: ReadKey, device_id: schemas.ApiName, revision: schemas.RevisionName, service: Running
) -> Response:
    """Predicted against measured latency of the whole networks that the table was judged by."""
    row = _row(service, device_id, revision)
    return exports.quality_plot(service.place.catalogue.read(row))


@router.get("/few-shot", responses=responses(409))
def few_shot_choice(
    _key: ReadKey,
    device_id: schemas.ApiName,
    supernet: schemas.SupernetName,
    service: Running,
    count: Annotated[int, Query(ge=1, le=200, description="How many.")] = 10,
) -> schemas.FewShotChoice:
    """Which networks to measure whole on a new device, so that few of them tell the most."""
    chosen = revisions.few_shot_choice(service.place, device_id, supernet, count)
    return schemas.FewShotChoice(architectures=[architecture.to_json() for architecture in chosen])


@router.post(
    "/few-shot",
    status_code=201,
    responses={
        200: {"model": schemas.Table, "description": "It was there already."},
        **responses(400, 409, 413, 503),
    },
)
def few_shot(
    _key: AdminKey,
    device_id: schemas.ApiName,
    body: schemas.FewShotRequest,
    service: Running,
    response: Response,
) -> schemas.Table:
    """Make a provisional table of about ten measured networks and the tables of other devices.

    It serves searches at once, until a campaign's table replaces it.
    """
    made = revisions.few_shot(service.place, device_id, body.supernet, body.samples)
    return _answer(service, response, *made)


def _row(service: Service, device_id: str, revision: str) -> orm.StoredTable:
    service.place.store.device(device_id)
    return service.place.store.table(device_id, revision)


def _serves(service: Service, row: orm.StoredTable) -> bool:
    serving = service.place.store.latest_table(row.device_id, row.supernet)
    return serving is not None and serving.id == row.id


def _answer(service: Service, response: Response, row: orm.StoredTable, new: bool) -> schemas.Table:
    response.status_code = 201 if new else 200
    response.headers["Location"] = f"/v1/devices/{row.device_id}/latency-tables/{row.revision}"
    start_build(service.place, service.engine, row.supernet, row.device_id)
    return answers.table(row, _serves(service, row))
