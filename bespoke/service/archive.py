"""Archives as the service keeps them: every generation in the store, the newest ones decoded in memory.

Each supernet has one archive for each latency table that serves a device, and one without a device.
An answer names the digest of the generation that it was looked up in, or that its search began with, so
that it can be repeated.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

from bespoke.search.archive import Archive, begin_from, begin_with, look_up
from bespoke.search.problem import Problem, SearchResult
from bespoke.search.restriction import RestrictedSpace
from bespoke.service.store import ArchiveKey, Store

__all__ = ["Archives", "key_of"]

KEPT = 64
FRESH_S = 1.0
"""How long the newest generation is taken to be the newest without asking the database."""

MISSED_S = 10.0
"""How often a missing archive is seen to, however many requests miss it."""


class Archives:
    """Archives, opened once and kept. Safe to use from several threads."""

    def __init__(self, store: Store) -> None:
        """Read them from a store."""
        self._store = store
        self._opened: OrderedDict[tuple[ArchiveKey, int], Archive] = OrderedDict()
        self._newest: OrderedDict[ArchiveKey, tuple[float, Archive | None]] = OrderedDict()
        self._missed: dict[tuple[str, str | None], float] = {}
        self._lock, self._opening, self._turn = threading.Lock(), threading.Lock(), threading.Lock()

    def find(
        self, key: ArchiveKey, problem: Problem, digest: str | None = None
    ) -> tuple[SearchResult, str] | None:
        """Answer a plain question out of an archive.

        Args:
            key: What the problem's supernet, table and predictor are.
            problem: Plain where it asks for the most accurate architecture of the whole space within
                limits on one device, or on none.
            digest: Of the generation to look into; None for the newest one.

        Returns:
            The answer and the archive's digest; None where the question is to be searched.

        Raises:
            NotFound: There is no generation with this digest.
        """
        if not _is_plain(problem):
            return None
        archive = self._newest_of(key, problem) if digest is None else self._named(key, digest, problem)
        if archive is None:
            return None
        with self._turn:  # look-ups at once would only take the interpreter from one another
            found = look_up(problem, archive)
        return None if found is None else (found, archive.digest)

    def begin(
        self, key: ArchiveKey, unlimited: Problem, problem: Problem, digest: str | None = None
    ) -> tuple[Problem, str] | None:
        """Let the search for any question begin with what an archive knows, and would answer.

        Args:
            key: What the problem's supernet, table of the main device and predictor are.
            unlimited: The question for anything on that device, or on none: what the archive is of.
            problem: The question.
            digest: Of the generation to begin with; None for the newest one.

        Returns:
            The question with its head start, and the archive's digest; None where there is none yet.

        Raises:
            NotFound: There is no generation with this digest.
        """
        archive = self._newest_of(key, unlimited) if digest is None else self._named(key, digest, unlimited)
        if archive is None:
            return None
        begun = begin_from(problem, archive)
        if _is_plain(problem) and (found := look_up(problem, archive)) is not None:
            begun = begin_with(begun, found.best)
        return begun, archive.digest

    def missed(self, supernet: str, device_id: str | None) -> bool:
        """Note that a request found no archive; whether it is time to see to it that there is one."""
        with self._lock:
            now, last = time.monotonic(), self._missed.get((supernet, device_id), -MISSED_S)
            if now - last < MISSED_S:
                return False
            self._missed[supernet, device_id] = now
            return True

    def _named(self, key: ArchiveKey, digest: str, problem: Problem) -> Archive:
        with self._lock:
            for (known, _), archive in self._opened.items():
                if known == key and archive.digest == digest:
                    return archive
        return self._open(key, self._store.archive_named(key, digest).generation, problem)

    def _newest_of(self, key: ArchiveKey, problem: Problem) -> Archive | None:
        now = time.monotonic()
        with self._lock:
            asked_at, archive = self._newest.get(key, (-FRESH_S, None))
            if now - asked_at < FRESH_S:
                return archive
            if archive is not None:  # others go on with this one while a newer one is opened
                self._newest[key] = now, archive
        known = self._store.newest_archive(key)
        archive = None if known is None else self._open(key, known[0], problem)
        with self._lock:
            self._newest[key] = now, archive
            while len(self._newest) > KEPT:
                self._newest.popitem(last=False)
        return archive

    def _open(self, key: ArchiveKey, generation: int, problem: Problem) -> Archive:
        with self._opening:
            archive = self._opened.get((key, generation))
            if archive is None:
                members = self._store.archive(key, generation).members
                archive = Archive.from_bytes(problem, members)
            with self._lock:
                self._opened[key, generation] = archive
                self._opened.move_to_end((key, generation))
                while len(self._opened) > KEPT:
                    self._opened.popitem(last=False)
            return archive


def key_of(supernet_digest: str, table_revision: str | None, predictor_revision: str) -> ArchiveKey:
    """What an archive follows from; without a table it is the one without a device."""
    return ArchiveKey(supernet_digest, table_revision or "", predictor_revision)


def _is_plain(problem: Problem) -> bool:
    whole = not problem.devices and not isinstance(problem.space, RestrictedSpace)
    return whole and problem.minimise is None and problem.min_top1 is None and not problem.alternatives
