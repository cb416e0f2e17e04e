"""Campaigns: profile a device for a supernet, or check that it still is as it was profiled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from bespoke.service import answers, orm, schemas
from bespoke.service.checking import start_check
from bespoke.service.dependencies import AdminKey, ReadKey, Running
from bespoke.service.problems import responses
from bespoke.supernet.errors import NotFound

router = APIRouter(
    prefix="/v1/devices/{device_id}", tags=["campaigns"], responses=responses(401, 403, 404, 422)
)

OVER = ("succeeded", "failed", "cancelled")
MOST_LISTED = 100


def _campaign(
    _key: ReadKey, device_id: schemas.ApiName, campaign_id: schemas.ApiName, service: Running
) -> orm.Campaign:
    service.place.store.device(device_id)
    campaign = service.place.store.campaign(campaign_id)
    if campaign.device_id != device_id:
        raise NotFound("campaign", campaign_id)
    return campaign


Named = Annotated[orm.Campaign, Depends(_campaign)]


@router.post("/campaigns", status_code=202, responses=responses(400, 409, 413))
def create_campaign(
    _key: AdminKey,
    device_id: schemas.ApiName,
    body: schemas.CampaignRequest,
    service: Running,
    response: Response,
) -> schemas.Campaign:
    """Start profiling; agents of the device get work as soon as the models are written.

    Ops that the serving table measured are taken from it, unless it is stale; ``remeasure`` or
    ``base: false`` measures all of them. Whole networks and sentinels are measured each time.
    """
    store = service.place.store
    store.device(device_id)
    service.place.catalogue.entry(body.supernet)
    use_base = body.base and not body.remeasure
    campaign, job = store.add_campaign(device_id, body.supernet, body.effort, use_base=use_base)
    service.engine.submit(job)
    response.headers["Location"] = _href(campaign)
    return answers.campaign(campaign, store)


@router.post("/checks", status_code=202, responses=responses(400, 409, 413))
def create_check(
    _key: AdminKey,
    device_id: schemas.ApiName,
    body: schemas.CheckRequest,
    service: Running,
    response: Response,
) -> schemas.Campaign:
    """Have the sentinels of the device's table measured again: a small campaign.

    Where they are off by more than max(3 x the device's repeat error, 5%), the table is marked
    ``stale``; the campaign's ``check`` then lists the searches that used it, and proposes a campaign.
    A later check without drift takes the mark away.
    """
    service.place.catalogue.entry(body.supernet)
    campaign = start_check(service.place, service.engine, device_id, body.supernet)
    response.headers["Location"] = _href(campaign)
    return answers.campaign(campaign, service.place.store)


@router.get("/campaigns")
def campaigns(_key: ReadKey, device_id: schemas.ApiName, service: Running) -> schemas.Campaigns:
    """The newest 100 of the device's campaigns and checks, newest first.

    In a list the searches of a check are null: its own campaign tells them.
    """
    store = service.place.store
    store.device(device_id)
    rows = store.campaigns(device_id, MOST_LISTED)
    return schemas.Campaigns(items=[answers.campaign(row, store, listed=True) for row in rows])


@router.get("/campaigns/{campaign_id}")
def campaign(campaign: Named, service: Running) -> schemas.Campaign:
    """A campaign, its progress and its agents."""
    return answers.campaign(campaign, service.place.store)


@router.get(
    "/campaigns/{campaign_id}/events",
    response_class=EventSourceResponse,
    responses={200: {"description": "Events `progress` and at the end `done`, each with the campaign."}},
)
async def campaign_events(campaign: Named, service: Running) -> AsyncIterator[ServerSentEvent]:
    """The campaign whenever it changes, as server-sent events: ``progress``, then ``done``.

    The stream closes after a while without ``done``; event sources then connect again by themselves.
    """
    settings, store = service.place.settings, service.place.store
    until, told = time.monotonic() + settings.events_s, ""
    while True:
        # Between two looks at the database a stream holds no thread: there may be many of them.
        now = await run_in_threadpool(lambda: answers.campaign(store.campaign(campaign.id), store))
        over = now.state in OVER
        text = now.model_dump_json()
        if text != told or over:
            yield ServerSentEvent(raw_data=text, event="done" if over else "progress")
        if over or time.monotonic() >= until:
            return
        told = text
        await asyncio.sleep(settings.events_poll_s)


@router.post("/campaigns/{campaign_id}/cancel", responses=responses(409))
def cancel_campaign(_key: AdminKey, campaign: Named, service: Running) -> schemas.Campaign:
    """Stop a campaign; what was measured is kept. A second time changes nothing."""
    cancelled = service.place.store.cancel_campaign(campaign.id)
    service.engine.cancel(cancelled.job_id)
    return answers.campaign(cancelled, service.place.store)


@router.post("/campaigns/{campaign_id}/resume", status_code=202, responses=responses(409))
def resume_campaign(_key: AdminKey, campaign: Named, service: Running) -> schemas.Campaign:
    """Take up a cancelled or failed campaign: what was measured stays, what is missing is measured.

    Entries that could not be measured are tried again.
    """
    resumed, job = service.place.store.resume_campaign(campaign.id)
    service.engine.submit(job)
    return answers.campaign(resumed, service.place.store)


def _href(campaign: orm.Campaign) -> str:
    return f"/v1/devices/{campaign.device_id}/campaigns/{campaign.id}"
