"""Pinning the agent to as many cores as the runtime has threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def pinned(threads: int) -> Iterator[tuple[int, ...]]:
    """Keep the calling thread, and threads that it starts, on the last allowed cores.

    The first core is the one that serves most interrupts. Where the system cannot pin, or fewer
    cores are allowed, nothing happens.

    Args:
        threads: How many cores.

    Yields:
        The cores, ascending; empty where nothing was pinned.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield ()
        return
    allowed = os.sched_getaffinity(0)
    cores = tuple(sorted(allowed)[-threads:])
    if len(cores) < threads:
        yield ()
        return
    os.sched_setaffinity(0, cores)
    try:
        yield cores
    finally:
        os.sched_setaffinity(0, allowed)
