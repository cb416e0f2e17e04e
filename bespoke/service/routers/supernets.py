"""Supernets: what can be cut to measure."""

from __future__ import annotations

from fastapi import APIRouter

from bespoke.service import schemas
from bespoke.service.dependencies import ReadKey, Running
from bespoke.service.problems import responses

router = APIRouter(prefix="/v1/supernets", tags=["supernets"], responses=responses(401, 403, 422))


@router.get("")
def supernets(_key: ReadKey, service: Running) -> schemas.Supernets:
    """All supernets that can be read."""
    items = [
        schemas.SupernetSummary(
            name=entry.name,
            digest=entry.digest,
            classes=entry.space.classes,
            resolutions=list(entry.space.dimensions[-1].choices),
            summary=str(entry.card.get("summary", "")),
        )
        for entry in service.place.catalogue.entries()
    ]
    return schemas.Supernets(items=items)


@router.get("/{name}", responses=responses(404))
def supernet(_key: ReadKey, name: schemas.ApiName, service: Running) -> schemas.Supernet:
    """A supernet: its space, its card, and what is feasible on each profiled device."""
    catalogue = service.place.catalogue
    entry = catalogue.entry(name)
    return schemas.Supernet(
        name=entry.name,
        digest=entry.digest,
        space=entry.space.to_json(),
        card=entry.card,
        ranges=catalogue.ranges(name),
        feasible=catalogue.device_ranges(name),
    )
