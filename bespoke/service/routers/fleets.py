"""Fleets: several devices and their limits in, the few architectures that serve them all out."""

from __future__ import annotations

from fastapi import APIRouter, Response

from bespoke.service import answers, schemas
from bespoke.service.dependencies import Running, SearchKey
from bespoke.service.fleets import answer_fleet
from bespoke.service.problems import responses

router = APIRouter(prefix="/v1/fleets", tags=["searches"], responses=responses(401, 403, 404, 422))


@router.post("", status_code=201, responses=responses(400, 409, 413, 503))
def create_fleet(
    _key: SearchKey, body: schemas.FleetRequest, service: Running, response: Response
) -> schemas.Fleet:
    """Find the best architecture for a whole fleet, or the best few that cover it.

    Each member gets a subnet of its own to download, in the precision of its device. ``by_subnets``
    tells what fewer architectures would cost.
    """
    row = answer_fleet(service.place, body)
    for subnet_id in dict.fromkeys(member["subnet"] for member in row.answer["members"]):
        service.models.ask(subnet_id)
    response.headers["Location"] = f"/v1/fleets/{row.id}"
    return answers.fleet(row, service.place.store)


@router.get("/{fleet_id}")
def get_fleet(_key: SearchKey, fleet_id: schemas.ApiName, service: Running) -> schemas.Fleet:
    """What was answered for a fleet."""
    return answers.fleet(service.place.store.fleet(fleet_id), service.place.store)
