"""The runtime: runs jobs in this process. One process has at most one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from dbos import DBOS, DBOSConfig
from sqlalchemy.exc import OperationalError

from bespoke.service.children import Stopped
from bespoke.service.engines.distributed import (
    APPLICATION,
    QUEUES,
    VERSION,
    WAITING,
    WORKFLOW,
    DistributedEngine,
    system_database,
)
from bespoke.service.engines.protocol import JobEngine, Json, Run, Workflows
from bespoke.service.settings import Settings
from bespoke.service.store import Store
from bespoke.supernet.errors import BespokeError

__all__ = ["Runtime"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

UNHURRIED_S = 1.0
"""How often a queue is looked through that nobody waits for: a look takes some milliseconds."""

STOP_S = 5.0
"""How long a step that does not ask whether to stop, and then a chore, is waited for."""

AGAIN_AFTER_S = (0.5, 2.0, 8.0)
"""After what times a step is done again that found the database away, and the end of a job is written."""


class Runtime:
    """A worker: takes jobs from the queues, says that it lives, and rescues the jobs of dead ones."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        engine: DistributedEngine,
        workflows: Workflows,
        chores: Sequence[Callable[[JobEngine], None]] = (),
    ) -> None:
        """Prepare a worker.

        Args:
            settings: Its name, and how often it does what.
            store: Keeps the status of jobs.
            engine: Rescues jobs, and runs those that others want done.
            workflows: What to run, by the kind of job.
            chores: What to do now and then beside them.
        """
        self._settings, self._store, self._engine = settings, store, engine
        self._workflows, self._chores = workflows, chores
        self._stopping = threading.Event()
        self._running: list[str] = []
        self._changed = threading.Condition()
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._housework = threading.Thread(target=self._do_chores, name="chores", daemon=True)

    def start(self) -> None:
        """Run jobs from now on; those that this worker left when it ended go on first."""
        config: DBOSConfig = {
            "name": APPLICATION,
            "system_database_url": system_database(self._settings.database),
            "application_version": VERSION,
            "executor_id": self._settings.worker,
            "log_level": "WARNING",
        }
        self._store.beat(self._settings.worker)
        DBOS(config=config)
        DBOS.workflow(name=WORKFLOW)(lambda job_id: self._enter(job_id))
        DBOS.launch()
        for name, interval_s in QUEUES.items():
            # An API process makes the models that its users wait for by itself: nobody waits for this queue.
            alone = name == "models" and self._settings.embedded_worker
            DBOS.register_queue(
                name,
                worker_concurrency=WAITING.get(name, self._settings.worker_jobs),
                polling_interval_sec=UNHURRIED_S if alone else interval_s,
                on_conflict="always_update",
            )
        self._heart.start()
        self._housework.start()

    def stop(self) -> None:
        """Stop the jobs where they are: they go on when a worker comes back."""
        self._stopping.set()
        self._heart.join()
        with self._changed:
            self._changed.wait_for(lambda: not self._running, STOP_S)
        self._housework.join(STOP_S)
        DBOS.destroy(destroy_registry=True)
        self._store.remove_worker(self._settings.worker)

    def _enter(self, job_id: str) -> None:
        """The one workflow that DBOS knows: any job, by its id."""
        with self._changed:
            self._running.append(job_id)
        try:
            self._run(job_id)
        finally:
            with self._changed:
                self._running.remove(job_id)
                self._changed.notify_all()

    def _run(self, job_id: str) -> None:
        job = self._store.job(job_id)
        if not self._store.start_job(job_id, self._settings.worker):
            return
        run = Run(
            job_id=job_id,
            arguments=job.arguments,
            step=self._step,
            stopped=lambda: self._stopping.is_set() or self._store.cancelled(job_id),
            progress=lambda fraction: self._store.progress_job(job_id, fraction),
            engine=self._engine,
        )
        try:
            result = self._workflows[job.kind](run)
        except Stopped:
            if self._stopping.is_set():
                raise  # not an Exception: DBOS leaves the workflow as it is, to be resumed
            return
        except BespokeError as error:
            logger.warning("job %s (%s) failed: %s", job_id, job.kind, error)
            end = partial(self._store.fail_job, job_id, {"detail": str(error)})
        except Exception as error:
            if self._stopping.is_set():  # the engine was taken away under the job
                raise Stopped from error
            logger.exception("job %s (%s) failed", job_id, job.kind)
            told = {"detail": "an unexpected error; the service's log has it"}
            end = partial(self._store.fail_job, job_id, told)
        else:
            end = partial(self._store.succeed_job, job_id, result)
        self._tried(end, Exception, "the end of a job was not written")

    def _step(self, name: str, work: Callable[[], Json]) -> Json:
        if self._stopping.is_set():
            raise Stopped
        told = f"step {name!r} found the database away"
        return DBOS.run_step({"name": name}, lambda: self._tried(work, OperationalError, told))

    def _tried(self, work: Callable[[], T], error: type[Exception], told: str) -> T:
        """Do what can be done twice; where it raises such an error, a few times more."""
        for again_s in AGAIN_AFTER_S:
            try:
                return work()
            except error:
                logger.exception(told)
                if self._stopping.wait(again_s):
                    raise Stopped from None
        return work()

    def _beat(self) -> None:
        while not self._stopping.wait(self._settings.heartbeat_s):
            try:
                self._store.beat(self._settings.worker)
                self._rescue()
            except Exception:
                logger.exception("heartbeat of worker %s", self._settings.worker)

    def _do_chores(self) -> None:
        """Beside the heartbeat: a chore that takes long must not make this worker look dead."""
        while not self._stopping.wait(self._settings.chores_s):
            for chore in self._chores:
                if self._stopping.is_set():
                    return
                try:
                    chore(self._engine)
                except Exception:
                    logger.exception("a chore of worker %s", self._settings.worker)

    def _rescue(self) -> None:
        """Find jobs that nobody runs: their worker is dead, or they never reached the queue."""
        # Of its own jobs those that do not run here: their end could not be written. What runs is looked at
        # before and after the jobs are read: one that begins or ends meanwhile is left alone.
        before = set(self._running)
        live = self._store.live_workers(self._settings.worker_dead_s) - {self._settings.worker}
        for job in self._store.stale_jobs(self._settings.worker_dead_s):
            if job.worker_id not in live and job.id not in before.union(self._running):
                self._engine.rescue(job)
