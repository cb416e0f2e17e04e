"""Pinning the agent to as many cores as the runtime has threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def pinned(threads: int) -> Iterator[tuple[int, ...]]:
    """Keep the calling thread, and threads that it starts, on the last allowed cores.

    The first core is the one that serves most interrupts. Where the system cannot pin, or there are
    not as many cores, nothing happens.

    Args:
        threads: How many cores.

    Yields:
        The cores, ascending; empty where nothing was pinned.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield ()
        return
    allowed = os.sched_getaffinity(0)
    if not 0 < threads <= len(allowed):
        yield ()
        return
    cores = tuple(sorted(allowed)[-threads:])
    os.sched_setaffinity(0, cores)
    try:
        yield cores
    finally:
        os.sched_setaffinity(0, allowed)
