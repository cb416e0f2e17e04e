"""Leases: how agents get work and hand it in."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from bespoke.service import schemas
from bespoke.service.dependencies import AgentKey, Running
from bespoke.service.problems import responses
from bespoke.service.reports import check, measured
from bespoke.supernet.errors import InvalidInput

router = APIRouter(prefix="/v1", tags=["leases"], responses=responses(401, 403, 404, 422))


@router.post(
    "/devices/{device_id}/lease",
    response_model=schemas.Lease,
    responses={204: {"description": "Nothing to do now."}, **responses(400, 413)},
)
def lease(_key: AgentKey, device_id: schemas.ApiName, body: schemas.LeaseRequest, service: Running) -> Any:
    """Take measurements on for a while; heartbeats extend it. Expired ones are given to others."""
    settings, store = service.place.settings, service.place.store
    store.device(device_id)
    store.see_device(device_id)
    wanted = min(body.entries, settings.max_lease_entries)
    given = store.lease(device_id, body.agent, wanted, settings.lease_ttl_s)
    if given is None:
        return Response(status_code=204)
    held, campaign, entries = given
    return schemas.Lease(
        lease_id=held.id,
        campaign_id=campaign.id,
        expires_at=held.expires_at,
        ttl_s=settings.lease_ttl_s,
        measure=(campaign.plan or {}).get("timing", {}),
        entries=[schemas.LeaseEntry.model_validate(entry) for entry in entries],
    )


@router.post("/leases/{lease_id}/heartbeat", responses=responses(409))
def heartbeat(_key: AgentKey, lease_id: schemas.ApiName, service: Running) -> schemas.Heartbeat:
    """Keep a lease; 409 ``lease-lost`` says that it is over, or that its campaign is."""
    held = service.place.store.extend_lease(lease_id, service.place.settings.lease_ttl_s)
    return schemas.Heartbeat(expires_at=held.expires_at)


@router.post("/leases/{lease_id}/report", responses=responses(400, 409, 413))
def report(
    _key: AgentKey, lease_id: schemas.ApiName, body: schemas.ReportRequest, service: Running
) -> schemas.Reported:
    """Hand in results, each (campaign, entry, round) once; also when the lease was lost.

    One value that cannot be true refuses the whole report with 422 ``measurement-invalid``. Three such
    reports in a row, or three sentinels in a row that are more than 25% off what the campaign's other
    agents measured, quarantine the agent: 409 ``agent-quarantined``.
    """
    store, quarantine_s = service.place.store, service.place.settings.quarantine_s
    try:
        check(service.place, store.campaign_of(lease_id), body.results)
    except InvalidInput as error:
        store.refuse_report(lease_id, str(error), quarantine_s)
        raise
    done = store.report(lease_id, [measured(result) for result in body.results], quarantine_s)
    if done.job is not None:
        service.engine.submit(done.job)
    return schemas.Reported(
        accepted=done.accepted, duplicates=done.duplicates, campaign_state=done.campaign.state
    )
