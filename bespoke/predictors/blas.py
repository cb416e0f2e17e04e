"""One thread for small matrix products, such as a search's.

Threads would spin longer than work, and a product that is split between them may have other last bits.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

from threadpoolctl import ThreadpoolController


def one_thread() -> AbstractContextManager[object]:
    """Hold the BLAS behind numpy to one thread for a block; the last of several blocks at once gives it back.

    With two threads on a busy machine of two cores a search took six times the CPU.
    """
    return _hold()


class _Hold:
    """Entered by every block that holds the BLAS to one thread, of whatever thread."""

    def __init__(self) -> None:
        self._controller = ThreadpoolController().select(user_api="blas")
        self._lock, self._blocks = threading.Lock(), 0
        self._limit: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._blocks:
                self._limit = self._controller.limit(limits=1)
            self._blocks += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._blocks -= 1
            if not self._blocks:
                self._limit.restore_original_limits()


@lru_cache(maxsize=1)
def _hold() -> _Hold:
    # Looking up the loaded libraries takes milliseconds, so it is done once a process.
    return _Hold()
