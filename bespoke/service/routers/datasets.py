"""Data sets: measure subnets of a supernet, and fit its accuracy predictor on them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from bespoke.predictors.dataset import dataset_text
from bespoke.service import answers, datasets, schemas
from bespoke.service.dependencies import AdminKey, ReadKey, Running
from bespoke.service.problems import responses

router = APIRouter(
    prefix="/v1/supernets/{name}/datasets", tags=["data sets"], responses=responses(401, 403, 404, 422)
)

LINES = "application/jsonl"
_LINES: dict[str, Any] = {LINES: {"schema": {"type": "string"}}}


@router.post("", status_code=202, responses=responses(400, 409, 413))
def collect_dataset(
    _key: AdminKey,
    name: schemas.ApiName,
    body: schemas.DatasetRequest,
    service: Running,
    response: Response,
) -> schemas.Dataset:
    """Measure subnets on held-out training images, and fit the supernet's accuracy predictor on them.

    Each round is cut into shards, which any workers take. The same subnets asked for again give the data
    set that there is, and what it lacks is done: what was measured stays, also where it failed or was
    cancelled.
    """
    row = datasets.start(service.place, service.engine, name, body.model_dump())
    response.headers["Location"] = answers.dataset_href(row)
    return answers.dataset(row, service.place.store)


@router.get("")
def list_datasets(_key: ReadKey, name: schemas.ApiName, service: Running) -> schemas.Datasets:
    """The supernet's data sets, newest first."""
    store = service.place.store
    service.place.catalogue.entry(name)
    return schemas.Datasets(items=[answers.dataset(row, store) for row in store.datasets(name)])


@router.get("/{dataset_id}")
def dataset(
    _key: ReadKey, name: schemas.ApiName, dataset_id: schemas.ApiName, service: Running
) -> schemas.Dataset:
    """A data set, the progress of its shards, and in the end what was fitted."""
    return answers.dataset(datasets.named(service.place, name, dataset_id), service.place.store)


@router.get(
    "/{dataset_id}/accuracy.jsonl",
    response_class=Response,
    responses={200: {"description": "The measured subnets.", "content": _LINES}, **responses(409)},
)
def dataset_lines(
    _key: ReadKey, name: schemas.ApiName, dataset_id: schemas.ApiName, service: Running
) -> Response:
    """What was measured so far, one subnet a line, as `bespoke zoo fit --dataset` reads it."""
    row = datasets.named(service.place, name, dataset_id)
    return Response(dataset_text(datasets.measured_so_far(service.place, row)), media_type=LINES)


@router.post("/{dataset_id}/cancel")
def cancel_dataset(
    _key: AdminKey, name: schemas.ApiName, dataset_id: schemas.ApiName, service: Running
) -> schemas.Dataset:
    """Stop a data set; what was measured is kept. A second time changes nothing."""
    row = datasets.named(service.place, name, dataset_id)
    datasets.cancel(service.place, service.engine, row)
    return answers.dataset(row, service.place.store)
