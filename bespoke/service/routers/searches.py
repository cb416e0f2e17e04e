"""Searches: a budget in, the subnet that fits out."""

from __future__ import annotations

from fastapi import APIRouter, Response

from bespoke.service import answers, schemas
from bespoke.service.archiving import start_build
from bespoke.service.dependencies import Running, SearchKey, Service
from bespoke.service.improving import improved_by
from bespoke.service.orm import Search, StoredSubnet
from bespoke.service.problems import responses
from bespoke.service.replaying import replay
from bespoke.service.searching import answer
from bespoke.service.verification import require, start

router = APIRouter(prefix="/v1/searches", tags=["searches"], responses=responses(401, 403, 404, 422))


@router.post(
    "",
    status_code=201,
    response_model=schemas.Search,
    responses={
        202: {"model": schemas.Search, "description": "Found; it is being verified."},
        **responses(400, 409, 413, 503),
    },
)
def create_search(_key: SearchKey, body: schemas.SearchRequest, service: Running) -> Response:
    """Find the subnet with the best predicted top-1 within the limits.

    Most plain requests are looked up in an archive; one that was answered before is given its answer
    again. Its model is being made when this answers. With ``verify`` the answer is a 202, and its
    ``verified`` tells how the measuring goes; read the search again for more.

    Limits that nothing meets are a 422 ``budget-infeasible`` with the feasible ranges, the nearest
    architecture, and what to relax.
    """
    require(service.place, body)
    search, subnet = answer(service.place, body)
    service.models.ask(subnet.id)
    if search.archive is None and service.place.archives.missed(body.supernet, body.device):
        start_build(service.place, service.engine, body.supernet, body.device)
    if body.verify is not None:
        start(service.place, service.engine, search.id, body.verify)
    # Written here, in one go: this is the one answer that is asked for a hundred times a second.
    text = answers.search(search, subnet, service.place.store).model_dump_json()
    headers = {"Location": f"/v1/searches/{search.id}"}
    return Response(text, 202 if body.verify else 201, headers, "application/json")


@router.get("/{search_id}")
def get_search(_key: SearchKey, search_id: schemas.ApiName, service: Running) -> schemas.Search:
    """A search and its answer, by how much it was beaten since, and how its verification goes."""
    return _told(service, *service.place.store.search(search_id))


@router.post("/{search_id}/replay", responses=responses(409))
def replay_search(_key: SearchKey, search_id: schemas.ApiName, service: Running) -> schemas.Search:
    """Search again with exactly the revisions of then: the same answer, byte for byte.

    Where that cannot be, a 409 ``replay-differs`` names what has changed.
    """
    return _told(service, *replay(service.place, search_id))


def _told(service: Service, search: Search, subnet: StoredSubnet) -> schemas.Search:
    better = improved_by(service.place, search, subnet)
    return answers.search(search, subnet, service.place.store, better)
