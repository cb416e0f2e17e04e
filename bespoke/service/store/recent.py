"""What was read a moment ago: rows that every request needs, and that seldom change."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

__all__ = ["FRESH_S", "Recent"]

FRESH_S = 0.25
"""How long a row is remembered: so late a process sees what another one changed."""

KEPT = 4096

Row = TypeVar("Row")


class Recent:
    """Rows by what was asked for. Safe to use from several threads.

    A store forgets all of them as soon as it has changed any row, so that within a process a change
    holds at once. That there is no such row is never remembered.
    """

    def __init__(self) -> None:
        """Remember nothing yet."""
        self._kept: dict[Hashable, tuple[float, Any]] = {}
        self._changes = 0
        self._lock = threading.Lock()

    def known(self, asked: Hashable) -> Any:
        """The row, where it is remembered; None where it has to be read."""
        read_at, row = self._kept.get(asked, (0.0, None))
        return row if row is not None and time.monotonic() - read_at < FRESH_S else None

    def once(self, asked: Hashable, read: Callable[[], Row | None]) -> Row | None:
        """The row, remembered or else read.

        Args:
            asked: What was asked for.
            read: Reads the row; None where there is none.
        """
        row: Row | None = self.known(asked)
        if row is not None:
            return row
        changes, read_at = self._changes, time.monotonic()
        row = read()
        with self._lock:
            # A row that was read while something changed may be that of before.
            if row is not None and changes == self._changes:
                if len(self._kept) >= KEPT:
                    self._kept.clear()
                self._kept[asked] = read_at, row
        return row

    def forget(self) -> None:
        """Read everything anew from now on."""
        with self._lock:
            self._changes += 1
            self._kept.clear()
