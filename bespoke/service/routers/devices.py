"""Devices: enrol them, and read their latency tables."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from bespoke.latency_tables import DeviceProfile
from bespoke.service import answers, schemas
from bespoke.service.dependencies import EnrolKey, ReadKey, Running
from bespoke.service.problems import responses

router = APIRouter(prefix="/v1/devices", tags=["devices"], responses=responses(401, 403, 422))


@router.post(
    "",
    status_code=201,
    responses={200: {"model": schemas.Device, "description": "It was there already."}, **responses(400, 413)},
)
def create_device(
    _key: EnrolKey, body: schemas.DeviceRequest, service: Running, response: Response
) -> schemas.Device:
    """Enrol a device; the same name and profile again is the same device."""
    profile = DeviceProfile.from_json(body.profile.model_dump())
    device, new = service.place.store.add_device(body.name, body.profile.model_dump(), profile.digest)
    response.status_code = 201 if new else 200
    response.headers["Location"] = f"/v1/devices/{device.id}"
    return answers.device(device, service.place.store)


@router.get("")
def devices(_key: ReadKey, service: Running) -> schemas.Devices:
    """All devices, oldest first."""
    store = service.place.store
    return schemas.Devices(items=[answers.device(device, store) for device in store.devices()])


@router.get("/{device_id}", responses=responses(404))
def device(_key: ReadKey, device_id: schemas.ApiName, service: Running) -> schemas.Device:
    """A device."""
    return answers.device(service.place.store.device(device_id), service.place.store)


@router.get("/{device_id}/latency-table", responses=responses(404, 409))
def latency_table(
    _key: ReadKey, device_id: schemas.ApiName, supernet: schemas.SupernetName, service: Running
) -> dict[str, Any]:
    """The table that serves this device for a supernet: its JSON, its revision, and whether it is stale.

    The newest revision serves; a provisional one only where there is no other.
    """
    service.place.store.device(device_id)
    service.place.catalogue.entry(supernet)
    row = service.place.catalogue.serving(device_id, supernet)
    return answers.table_content(row, service.place.catalogue.read(row).to_json(), current=True)
