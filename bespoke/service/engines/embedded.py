"""The embedded engine: submits to a runtime in this very process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bespoke.service.engines.distributed import DistributedEngine
from bespoke.service.engines.protocol import JobEngine, Workflows
from bespoke.service.engines.runtime import Runtime
from bespoke.service.orm import Job
from bespoke.service.settings import Settings
from bespoke.service.store import Store

__all__ = ["EmbeddedEngine"]


class EmbeddedEngine:
    """A ``JobEngine`` that needs no worker beside it, on SQLite or PostgreSQL."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        workflows: Workflows,
        chores: Sequence[Callable[[JobEngine], None]] = (),
    ) -> None:
        """Prepare the engine; see ``Runtime``."""
        self._door = DistributedEngine(settings.database, store)
        self._runtime = Runtime(settings, store, self._door, workflows, chores)

    def start(self) -> None:
        """See ``JobEngine``."""
        self._door.start()
        self._runtime.start()

    def stop(self) -> None:
        """See ``JobEngine``."""
        self._runtime.stop()
        self._door.stop()

    def submit(self, job: Job) -> None:
        """See ``JobEngine``."""
        self._door.submit(job)

    def cancel(self, job_id: str) -> None:
        """See ``JobEngine``."""
        self._door.cancel(job_id)

    def rescue(self, job: Job) -> None:
        """See ``JobEngine``."""
        self._door.rescue(job)
