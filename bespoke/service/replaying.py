"""Replaying a search: the same request on the same revisions, and whether it comes to the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bespoke import __version__
from bespoke.service.orm import Search, StoredSubnet
from bespoke.service.questions import Ground, ground, problem
from bespoke.service.schemas import SearchRequest
from bespoke.service.searching import Found, answer_json, begun, look_up, solve
from bespoke.service.workplace import Workplace
from bespoke.supernet.errors import NotFound, ReplayDiffers, Unavailable

__all__ = ["replay"]

Json = dict[str, Any]
KEPT = ("subnet", "limits", "alternatives", "front")
"""Of a stored answer: what a replay must give again."""


def replay(place: Workplace, search_id: str) -> tuple[Search, StoredSubnet]:
    """Search again with exactly the revisions that a search was answered from.

    Returns:
        The stored search and its subnet, which the replay came to again.

    Raises:
        NotFound: There is no such search.
        ReplayDiffers: Something that decides the answer is gone or another one, or the answer is.
    """
    row, subnet = place.store.search(search_id)
    request = SearchRequest.model_validate(row.request)
    base = _ground(place, row, subnet, request)
    found = _found_again(place, row, base, request)
    again, _ = answer_json(base, request.device, found)
    before = _before(row, again)
    if again != before:
        changed = [_change(name, before[name], again[name]) for name in before if again[name] != before[name]]
        was = (row.answer or {}).get("version")
        if was != __version__:
            changed.insert(0, _change("version", was, __version__))
        raise ReplayDiffers(search_id, changed)
    return row, subnet


def _found_again(place: Workplace, row: Search, base: Ground, request: SearchRequest) -> Found:
    """The answer, looked up in the very archive that gave it, or searched from where its search began."""
    posed, archive = problem(place, base, request), row.archive
    head_start = ((row.answer or {}).get("origin") or {}).get("head_start")
    try:
        if head_start is not None:
            return solve(*begun(place, base, posed, head_start), request)
        if archive is None:
            return solve(posed, None, request)
        found = look_up(place, base, posed, request, archive)
    except NotFound as error:
        raise ReplayDiffers(row.id, [_change("archive", archive or head_start, None)]) from error
    if found is None:
        raise ReplayDiffers(row.id, [_change("subnet", row.subnet_id, None)])
    return found


def _ground(place: Workplace, row: Search, subnet: StoredSubnet, request: SearchRequest) -> Ground:
    """What a search was answered from, as long as all of it is there."""
    tables = (row.answer or {}).get("tables") or _main_table(subnet)
    try:
        base = ground(place, request, tables)
    except NotFound as error:
        raise ReplayDiffers(row.id, [_change(error.kind, error.name, None)]) from error
    except Unavailable as error:
        raise ReplayDiffers(row.id, [_change("predictor", subnet.predictor_revision, None)]) from error
    pairs = {
        "supernet": (subnet.supernet_digest, base.entry.digest),
        "predictor": (subnet.predictor_revision, base.predictor.revision),
    }
    changed = [_change(name, was, now) for name, (was, now) in pairs.items() if was != now]
    if changed:
        raise ReplayDiffers(row.id, changed)
    return base


def _main_table(subnet: StoredSubnet) -> dict[str, str]:
    """Revisions by device, of searches of before several devices could be asked for."""
    return {subnet.device_id: subnet.table_revision} if subnet.device_id and subnet.table_revision else {}


def _before(row: Search, again: Mapping[str, Any]) -> Json:
    """What was answered, of the parts that the service kept at that time."""
    kept = {"subnet": row.subnet_id, **(row.answer or {})}
    return {name: kept.get(name, again[name]) for name in KEPT}


def _change(what: str, was: Any, now: Any) -> Json:
    return {"what": what, "was": was, "now": now}
