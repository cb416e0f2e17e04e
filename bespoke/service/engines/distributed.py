"""The distributed engine: submits to workers that share its database (see ``runtime.py``).

DBOS Transact keeps the queue and the results of steps in a *system database*: schema ``dbos`` of
the service's own database on PostgreSQL, a file beside it on SQLite.
"""

from __future__ import annotations

import logging
from pathlib import Path

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, EnqueueOptions

from bespoke.service.orm import Job
from bespoke.service.store import Store
from bespoke.supernet.errors import Unavailable

__all__ = [
    "APPLICATION",
    "QUEUES",
    "VERSION",
    "WAITING",
    "WORKFLOW",
    "DistributedEngine",
    "queue_of",
    "system_database",
]

APPLICATION = "bespoke"
# Recovery looks for jobs of this version only; DBOS's default is a hash of the code, with which an
# upgrade would orphan every job that is under way. Raise it when a workflow's steps change.
VERSION = "1"
WORKFLOW = "bespoke.job"
# Queue to polling interval in seconds. A user waits for a model, nobody for the start of the others.
QUEUES = {
    "models": 0.1,
    "campaigns": 0.5,
    "archives": 1.0,
    "verifications": 0.5,
    "datasets": 1.0,
    "shards": 1.0,
}
# Jobs of these mostly wait for agents or for other jobs, so one worker takes many of them at once.
WAITING = {"verifications": 16, "datasets": 16}
_QUEUE_OF = {
    "materialise": "models",
    "grow-archive": "archives",
    "verify-search": "verifications",
    "collect-dataset": "datasets",
    "measure-shard": "shards",
}

logging.getLogger("dbos").setLevel(logging.WARNING)


def system_database(database_url: str) -> str:
    """Where DBOS keeps its state, for a service on this database."""
    url = sa.make_url(database_url)
    if url.get_backend_name() != "sqlite":
        return url.set(drivername="postgresql").render_as_string(hide_password=False)
    path = Path(url.database or "bespoke.sqlite").absolute()
    return f"sqlite:///{path.with_name(path.stem + '-jobs.sqlite')}"


def queue_of(kind: str) -> str:
    """The queue of a kind of job."""
    return _QUEUE_OF.get(kind, "campaigns")


class DistributedEngine:
    """A ``JobEngine`` that runs nothing itself."""

    def __init__(self, database_url: str, store: Store) -> None:
        """Share the database with the workers.

        Args:
            database_url: The service's database.
            store: Keeps the status of jobs.
        """
        self._url, self._store = system_database(database_url), store
        self._client: DBOSClient | None = None

    def start(self) -> None:
        """See ``JobEngine``; makes the system database where it is missing."""
        DBOS.migrate(self._url)
        self.connect()

    def connect(self) -> None:
        """Open a system database that is there."""
        self._client = DBOSClient(system_database_url=self._url, application_name=APPLICATION)

    def stop(self) -> None:
        """See ``JobEngine``."""
        if self._client is not None:
            self._client.destroy()
            self._client = None

    def submit(self, job: Job) -> None:
        """See ``JobEngine``: the workflow's id is the job's, so a second time changes nothing."""
        options: EnqueueOptions = {
            "workflow_name": WORKFLOW,
            "queue_name": queue_of(job.kind),
            "workflow_id": job.id,
            "app_version": VERSION,
        }
        self._opened.enqueue(options, job.id)

    def cancel(self, job_id: str) -> None:
        """See ``JobEngine``."""
        self._opened.cancel_workflow(job_id)

    def rescue(self, job: Job) -> None:
        """See ``JobEngine``: a run that is in fact alive is fenced off and stops itself."""
        known = self._opened.list_workflows(workflow_ids=[job.id], load_input=False, load_output=False)
        if not known:
            self.submit(job)
        elif known[0].status == "PENDING":
            self._opened.resume_workflow(job.id, queue_name=queue_of(job.kind))
        elif known[0].status not in ("ENQUEUED", "DELAYED"):
            self._store.fail_job(job.id, {"detail": f"the job engine ended it: {known[0].status}"})

    @property
    def _opened(self) -> DBOSClient:
        if self._client is None:
            raise Unavailable("the job engine was not started")
        return self._client
