"""One thread for the products of a search: they are small, and threads would spin longer than work."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import lru_cache

from threadpoolctl import ThreadpoolController


def one_thread() -> AbstractContextManager[object]:
    """Hold the BLAS behind numpy to one thread for a block, and give it back after.

    Two searches at once may give back each other's threads early: that costs time, and changes no
    result. With two threads on a busy machine of two cores a search took six times the CPU.
    """
    limit: AbstractContextManager[object] = _controller().limit(limits=1, user_api="blas")
    return limit


@lru_cache(maxsize=1)
def _controller() -> ThreadpoolController:
    # Looking up the loaded libraries takes milliseconds, so it is done once a process.
    return ThreadpoolController()
