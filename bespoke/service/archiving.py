"""Archiving: how the archives grow.

The first generation is built by a job as soon as a table or a predictor is there; further ones in
idle time, one after another, until they find next to nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from bespoke.search.archive import Archive, gain, grow, merge
from bespoke.search.problem import Problem
from bespoke.service.archive import key_of
from bespoke.service.engines.protocol import JobEngine
from bespoke.service.store import ArchiveKey
from bespoke.service.workplace import Workplace
from bespoke.supernet.architecture import encode, read_architecture
from bespoke.supernet.errors import FileInvalid, NotFound, Unavailable

__all__ = ["build_missing", "grow_archive", "refine", "start_build"]

logger = logging.getLogger(__name__)

MOST_GENERATIONS = 16
LEAST_GAIN = 1e-4
"""A generation that nowhere gains more top-1 than this settles its archive."""

IDLE_S = 30.0
"""Time without a search after which a service counts as idle."""

MOST_SEARCHED = 500
FIRST_WAIT_S, LONGEST_WAIT_S = 60.0, 3600.0
"""After a build that failed; twice as long each time that the same one fails again, and from the start
once nobody asked for it that long. Another revision of what it follows from is another build."""

FIRST_NICENESS, NICENESS = 5, 15
"""The first generation is waited for; the others take only the time that nobody else wants."""


def start_build(place: Workplace, engine: JobEngine, supernet: str, device_id: str | None) -> bool:
    """Have the archive of a device's table for a supernet built, unless it is there or being built.

    One that failed is not built again at once: see ``FIRST_WAIT_S``.

    Args:
        place: The workplace.
        engine: Runs the job.
        supernet: The supernet.
        device_id: The device; None for the archive without one.

    Returns:
        Whether a job was started.
    """
    if not place.settings.archives:
        return False
    key = _serving_key(place, supernet, device_id)
    if key is None or place.store.newest_archive(key) is not None:
        return False
    return _start(place, engine, _Generation(supernet, device_id, key, 0))


def build_missing(place: Workplace, engine: JobEngine) -> None:
    """Chore: where nobody asks for anything, have every archive built that can be and is not there.

    Whoever misses one has it built at once: see ``start_build``.
    """
    if not place.settings.archives or _busy(place, datetime.now(UTC) - timedelta(seconds=IDLE_S)):
        return
    for supernet, device_id in _all(place):
        if start_build(place, engine, supernet, device_id):
            logger.info("the archive of %s for device %s is being built", supernet, device_id)


def refine(place: Workplace, engine: JobEngine) -> None:
    """Chore: where nobody asks for anything, have the archive that grew least grow by a generation."""
    if not place.settings.archives or _busy(place, datetime.now(UTC) - timedelta(seconds=IDLE_S)):
        return
    growing: list[_Generation] = []
    for supernet, device_id in _all(place):
        key = _serving_key(place, supernet, device_id)
        newest = place.store.newest_archive(key) if key else None
        if key and newest and not newest[1] and newest[0] + 1 < MOST_GENERATIONS:
            wanted = _Generation(supernet, device_id, key, newest[0] + 1)
            growing += [wanted] if _attempt(place, wanted) else []
    if growing:
        _start(place, engine, min(growing, key=lambda one: one.number))


def grow_archive(place: Workplace, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Task: add a generation to an archive; a further one is given up as soon as a request comes.

    Runs in a child of its own, whose priority it lowers.
    """
    supernet, device_id = arguments["supernet"], arguments["device_id"]
    table = place.catalogue.table(device_id, supernet) if device_id else None
    entry, predictor = place.catalogue.entry(supernet), place.catalogue.predictor(supernet)
    posed = Problem(
        entry.space,
        predictor,
        latency=place.catalogue.pricer(supernet, table) if table else None,
        precision=table.profile.model_precision if table else "fp32",
    )
    key = key_of(entry.digest, table.revision if table else None, predictor.revision)
    newest, began = place.store.newest_archive(key), datetime.now(UTC)
    os.nice(NICENESS if newest else FIRST_NICENESS)
    if newest is None:
        first = grow(posed)
        assert first is not None  # nothing stops it
        return _keep(place, key, first)
    before = Archive.from_bytes(posed, place.store.archive(key, newest[0]).members)
    grown = grow(posed, _with_searched(place, key, posed, before), lambda: _busy(place, began))
    if grown is None:
        return {"generation": before.generation, "members": len(before), "given_up": True}
    if gain(before, grown) <= LEAST_GAIN:
        place.store.settle_archive(key)
        return {"generation": before.generation, "members": len(before), "settled": True}
    return _keep(place, key, grown)


def _keep(place: Workplace, key: ArchiveKey, archive: Archive) -> dict[str, Any]:
    place.store.add_archive(key, archive.generation, archive.digest, archive.to_bytes())
    return {"generation": archive.generation, "members": len(archive)}


def _with_searched(place: Workplace, key: ArchiveKey, posed: Problem, archive: Archive) -> Archive:
    """An archive with what requests found by searches of their own."""
    stored = place.store.searched_architectures(key, MOST_SEARCHED)
    if not stored:
        return archive
    genomes = encode(posed.space, [read_architecture(posed.space, one) for one in stored])
    return merge(posed, np.unique(genomes, axis=0), archive)


def _busy(place: Workplace, since: datetime) -> bool:
    """Whether somebody asked for something since then, or a device is being measured."""
    asked_at = place.store.last_search_at()
    return (asked_at is not None and asked_at > since) or place.store.measuring()


@dataclass(frozen=True)
class _Generation:
    """What a job is to build: a generation of the archive of a supernet, on a device or without one."""

    supernet: str
    device_id: str | None
    key: ArchiveKey
    number: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _start(place: Workplace, engine: JobEngine, wanted: _Generation) -> bool:
    """Have a generation built, unless its archive is being built, or a failed build is waited after."""
    attempt, where = _attempt(place, wanted), (wanted.supernet, wanted.device_id)
    going_on = [job.arguments for job in place.store.unfinished_jobs("grow-archive")]
    if attempt is None or any((a["supernet"], a["device_id"]) == where for a in going_on):
        return False
    engine.submit(place.store.add_job("grow-archive", {**wanted.to_json(), "attempt": attempt}))
    return True


def _attempt(place: Workplace, wanted: _Generation) -> int | None:
    """Which attempt at a generation comes next, from 1; None while a failed one is waited after."""
    failed = _failed(place, wanted, 2 * LONGEST_WAIT_S)
    if not failed:
        return 1
    # Doubled so often it is longer than the longest, and any number of attempts is a number still.
    wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(max(failed) - 1, 10))
    return None if _failed(place, wanted, wait_s) else max(failed) + 1


def _failed(place: Workplace, wanted: _Generation, within_s: float) -> list[int]:
    """The attempts at a generation that failed no longer ago than this."""
    jobs, asked = place.store.failed_jobs("grow-archive", within_s), wanted.to_json()
    return [job.arguments["attempt"] for job in jobs if {**job.arguments, **asked} == job.arguments]


def _all(place: Workplace) -> Iterator[tuple[str, str | None]]:
    """Every supernet alone, and with every device that it was profiled on."""
    devices = [(device.id, place.store.latest_tables(device.id)) for device in place.store.devices()]
    for supernet in place.catalogue.names():
        yield supernet, None
        for device_id, tables in devices:
            if any(table.supernet == supernet for table in tables):
                yield supernet, device_id


def _serving_key(place: Workplace, supernet: str, device_id: str | None) -> ArchiveKey | None:
    """The key of the archive that is needed now; None where the supernet cannot be searched there."""
    try:
        digest, predictor = place.catalogue.entry(supernet).digest, place.catalogue.predictor(supernet)
    except (NotFound, Unavailable, FileInvalid):
        return None
    row = place.store.serving_state(device_id, supernet) if device_id else None
    if device_id and row is None:
        return None
    return key_of(digest, row.revision if row else None, predictor.revision)
