"""Chores: what a worker does now and then beside its jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from bespoke.service.archiving import build_missing, refine
from bespoke.service.checking import start_due_checks
from bespoke.service.engines.protocol import JobEngine
from bespoke.service.workplace import Workplace

__all__ = ["Chore", "chores", "prune"]

Chore = Callable[[JobEngine], None]

PRUNINGS = 10
"""Most transactions in which one chore removes models; others write in between."""


def chores(place: Workplace) -> Sequence[Chore]:
    """All chores, bound to where they work."""
    return tuple(partial(chore, place) for chore in (start_due_checks, prune, build_missing, refine))


def prune(place: Workplace, _engine: JobEngine) -> None:
    """Remove models of campaigns that are over, once nothing else needs them."""
    for _ in range(PRUNINGS):
        if not place.store.prune(place.artifacts.remove, place.settings.artifact_grace_s):
            return
