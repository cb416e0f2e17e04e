"""Subnets: what a search found, as figures and as a model."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from bespoke.service import answers, orm, schemas
from bespoke.service.dependencies import Running, SearchKey, Service
from bespoke.service.files import FILE_RESPONSES, file_response
from bespoke.service.models import class_names, input_of
from bespoke.service.problems import responses
from bespoke.supernet.errors import StatisticsMissing
from bespoke.supernet.onnx import OPSET, read_metadata

router = APIRouter(prefix="/v1/subnets", tags=["subnets"], responses=responses(401, 403, 404, 422))

DynamicBatch = Annotated[bool, Query(description="Leave the batch dimension open; otherwise it is 1.")]


@router.get("/{subnet_id}")
def subnet(_key: SearchKey, subnet_id: schemas.ApiName, service: Running) -> schemas.Subnet:
    """A subnet."""
    return answers.subnet(service.place.store.subnet(subnet_id))


@router.get(
    "/{subnet_id}/model.onnx", response_class=Response, responses={**FILE_RESPONSES, **responses(409, 503)}
)
def model(
    _key: SearchKey,
    subnet_id: schemas.ApiName,
    request: Request,
    service: Running,
    dynamic_batch: DynamicBatch = False,
) -> Response:
    """A subnet as ONNX with its weights. Input ``image``, output ``logits``."""
    row = service.place.store.subnet(subnet_id)
    made = _made(service, row, dynamic_batch)
    return file_response(request, service.place.artifacts, made, f"{row.supernet}-{row.id}.onnx")


@router.get("/{subnet_id}/manifest", responses=responses(409, 503))
def manifest(
    _key: SearchKey, subnet_id: schemas.ApiName, service: Running, dynamic_batch: DynamicBatch = False
) -> schemas.Manifest:
    """What a model file is, and what it was made of."""
    row = service.place.store.subnet(subnet_id)
    entry = service.place.catalogue.entry(row.supernet)
    made = _made(service, row, dynamic_batch)
    about = answers.subnet(row)
    expects = input_of(row.architecture["resolution"])
    if dynamic_batch:
        expects["shape"] = ["batch", *expects["shape"][1:]]
    return schemas.Manifest(
        file=f"{row.supernet}-{row.id}.onnx",
        sha256=made.sha256,
        size=made.size,
        opset=OPSET,
        input=schemas.Input(**expects),
        output="logits",
        classes=entry.space.classes,
        class_names=class_names(entry),
        architecture=row.architecture,
        supernet=row.supernet,
        revisions=about.revisions,
        predicted=about.predicted,
        precision=about.precision,
        activation_ranges=_ranges(service, made) if about.precision == "int8" else None,
        statistics=row.statistics,
        device_id=row.device_id,
    )


def _ranges(service: Service, made: orm.ArtifactRow) -> Any:
    """Where a model says that the ranges of its INT8 activations come from."""
    model = b"".join(service.place.artifacts.read(made.sha256))
    return read_metadata(model)["activation_ranges"]


def _made(service: Service, row: orm.StoredSubnet, dynamic_batch: bool) -> orm.ArtifactRow:
    """The model of a subnet: the one that was made, or else waited for.

    Raises:
        NotFound: Its supernet is gone, and it was not made before.
        StatisticsMissing: It cannot be cut out.
        Conflict: Its supernet is another one by now, and it was not made before.
    """
    made = service.place.store.model(row.id, dynamic_batch)
    if made is not None:
        return made
    since = f"subnet {row.id!r} was found, whose model was not made before: search again"
    entry = service.place.catalogue.unchanged(row.supernet, row.supernet_digest, since)
    if not entry.has_statistics:
        raise StatisticsMissing(
            f"supernet {row.supernet!r} has no BN statistics table, so no subnet can be cut out of it: "
            f"make one with `bespoke zoo calibrate {row.supernet} --images FOLDER`"
        )
    return service.models.wait(row.id, dynamic_batch, service.place.settings.model_wait_s)
