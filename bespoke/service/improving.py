"""What the archives say of answers that were given before."""

from __future__ import annotations

from bespoke.service.archive import key_of
from bespoke.service.orm import Search, StoredSubnet
from bespoke.service.questions import ground, problem
from bespoke.service.schemas import SearchRequest
from bespoke.service.workplace import Workplace
from bespoke.supernet.errors import InvalidInput, NotFound, TableIncomplete, Unavailable

__all__ = ["improved_by"]

POINTS = 100.0
DIGITS = 4


def improved_by(place: Workplace, search: Search, found: StoredSubnet) -> float | None:
    """By how many points of top-1 the archive now beats an answer within the same limits.

    Returns:
        Points, more than 0; None where it does not, or where the answer is of no plain question, of a
        supernet or a predictor that serves no more, or of no archive.
    """
    revisions = dict(found.tables or {})
    if found.device_id is not None and found.table_revision is not None:
        revisions[found.device_id] = found.table_revision
    try:
        request = SearchRequest.model_validate(search.request)
        base = ground(place, request, revisions)
        posed = problem(place, base, request)
    except (InvalidInput, NotFound, TableIncomplete, Unavailable):
        return None
    now = base.entry.digest, found.table_revision, base.predictor.revision
    if now != (found.supernet_digest, found.table_revision, found.predictor_revision):
        return None
    answer = place.archives.find(key_of(*now), posed)
    if answer is None:
        return None
    points = round(POINTS * (answer[0].best.top1 - found.predicted["top1"]), DIGITS)
    return points if points > 0 else None
