"""Stored rows as the JSON that goes out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import cast

from bespoke.service import orm, schemas
from bespoke.service.store import Store

__all__ = ["campaign", "device", "search", "subnet"]


def device(row: orm.Device, store: Store) -> schemas.Device:
    """A device with the revisions of its tables."""
    return schemas.Device(
        id=row.id,
        name=row.name,
        profile=row.profile,
        profiled={table.supernet: table.revision for table in store.latest_tables(row.id)},
        created_at=row.created_at,
    )


def campaign(row: orm.Campaign) -> schemas.Campaign:
    """A campaign with its progress."""
    return schemas.Campaign(
        id=row.id,
        device_id=row.device_id,
        supernet=row.supernet,
        effort=row.effort,
        state=cast(schemas.CampaignState, row.state),
        progress=schemas.Progress(
            done=row.done,
            total=row.total,
            fraction=row.done / row.total if row.total else 0.0,
            eta_s=_eta_s(row),
        ),
        job_id=row.job_id,
        table_revision=row.table_revision,
        error=row.error,
        created_at=row.created_at,
        finished_at=row.finished_at,
    )


def _eta_s(row: orm.Campaign) -> float | None:
    if row.state != "measuring" or not row.done or row.measuring_at is None:
        return None
    elapsed_s = (datetime.now(UTC) - row.measuring_at).total_seconds()
    return max(0.0, elapsed_s / row.done * (row.total - row.done))


def subnet(row: orm.StoredSubnet) -> schemas.Subnet:
    """A subnet with its links."""
    here = f"/v1/subnets/{row.id}"
    return schemas.Subnet(
        id=row.id,
        supernet=row.supernet,
        architecture=row.architecture,
        predicted=schemas.Predicted(**row.predicted),
        device_id=row.device_id,
        statistics=cast(schemas.Statistics, row.statistics),
        revisions=schemas.Revisions(
            table=row.table_revision, predictor=row.predictor_revision, supernet=row.supernet_digest
        ),
        links=schemas.Links(model=f"{here}/model.onnx", manifest=f"{here}/manifest"),
        created_at=row.created_at,
    )


def search(row: orm.Search, found: orm.StoredSubnet) -> schemas.Search:
    """A search with its subnet."""
    return schemas.Search(
        id=row.id,
        request=row.request,
        subnet=subnet(found),
        evaluations=row.evaluations,
        generations=row.generations,
        duration_s=row.duration_s,
        created_at=row.created_at,
    )
