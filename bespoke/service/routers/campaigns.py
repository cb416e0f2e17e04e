"""Campaigns: profile a device for a supernet."""

from __future__ import annotations

from fastapi import APIRouter, Response

from bespoke.service import answers, orm, schemas
from bespoke.service.dependencies import AdminKey, AnyKey, Running, Service
from bespoke.service.problems import responses
from bespoke.supernet.errors import NotFound

router = APIRouter(
    prefix="/v1/devices/{device_id}/campaigns",
    tags=["campaigns"],
    responses=responses(401, 403, 404, 422),
)


@router.post("", status_code=202, responses=responses(400, 409, 413))
def create_campaign(
    _key: AdminKey,
    device_id: schemas.ApiName,
    body: schemas.CampaignRequest,
    service: Running,
    response: Response,
) -> schemas.Campaign:
    """Start profiling; agents of the device get work as soon as the models are written."""
    service.place.store.device(device_id)
    service.place.catalogue.entry(body.supernet)
    campaign, job = service.place.store.add_campaign(device_id, body.supernet, body.effort)
    service.engine.submit(job)
    response.headers["Location"] = f"/v1/devices/{device_id}/campaigns/{campaign.id}"
    return answers.campaign(campaign)


@router.get("/{campaign_id}")
def campaign(
    _key: AnyKey, device_id: schemas.ApiName, campaign_id: schemas.ApiName, service: Running
) -> schemas.Campaign:
    """A campaign and its progress."""
    return answers.campaign(_campaign(service, device_id, campaign_id))


@router.post("/{campaign_id}/cancel", responses=responses(409))
def cancel_campaign(
    _key: AdminKey, device_id: schemas.ApiName, campaign_id: schemas.ApiName, service: Running
) -> schemas.Campaign:
    """Stop a campaign; what was measured is kept. A second time changes nothing."""
    _campaign(service, device_id, campaign_id)
    campaign = service.place.store.cancel_campaign(campaign_id)
    service.engine.cancel(campaign.job_id)
    return answers.campaign(campaign)


def _campaign(service: Service, device_id: str, campaign_id: str) -> orm.Campaign:
    service.place.store.device(device_id)
    campaign = service.place.store.campaign(campaign_id)
    if campaign.device_id != device_id:
        raise NotFound("campaign", campaign_id)
    return campaign
