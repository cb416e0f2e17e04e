"""Jobs: the only place where the status of work lives."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from bespoke.service.orm import Campaign, Job
from bespoke.service.store.database import Database, changed, found, new_id

__all__ = ["Jobs", "end_job", "new_job"]

UNFINISHED, FINISHED = ("queued", "running"), ("succeeded", "failed", "cancelled")


class Jobs(Database):
    """Jobs and how they went."""

    def add_job(self, kind: str, arguments: dict[str, Any]) -> Job:
        """Keep a job that is to run."""
        job = new_job(kind, arguments, self._now())
        with self._write() as session:
            session.add(job)
        return job

    def job(self, job_id: str) -> Job:
        """A job.

        Raises:
            NotFound: There is no such job.
        """
        with self._read() as session:
            return found(session.get(Job, job_id), "job", job_id)

    def unfinished_jobs(self, kind: str) -> list[Job]:
        """Jobs of a kind that are queued or running, oldest first."""
        query = sa.select(Job).where(Job.kind == kind, Job.state.in_(UNFINISHED)).order_by(Job.created_at)
        with self._read() as session:
            return list(session.scalars(query))

    def failed_jobs(self, kind: str, within_s: float) -> list[Job]:
        """Jobs of a kind that failed less than this long ago."""
        after = self._now() - timedelta(seconds=within_s)
        query = sa.select(Job).where(Job.kind == kind, Job.state == "failed", Job.finished_at > after)
        with self._read() as session:
            return list(session.scalars(query))

    def stale_jobs(self, older_s: float) -> list[Job]:
        """Jobs that have not ended, though they were made a while ago, oldest first."""
        before = self._now() - timedelta(seconds=older_s)
        query = (
            sa.select(Job).where(Job.state.in_(UNFINISHED), Job.created_at < before).order_by(Job.created_at)
        )
        with self._read() as session:
            return list(session.scalars(query))

    def start_job(self, job_id: str, worker_id: str) -> bool:
        """Say that a worker runs a job now; False where the job has ended."""
        with self._write() as session:
            job = found(session.get(Job, job_id, with_for_update=True), "job", job_id)
            if job.state in FINISHED:
                return False
            job.state, job.worker_id, job.started_at = "running", worker_id, job.started_at or self._now()
            return True

    def progress_job(self, job_id: str, progress: float) -> None:
        """Say how far a job is, from 0 to 1."""
        with self._write() as session:
            session.execute(
                sa.update(Job).where(Job.id == job_id, Job.state == "running").values(progress=progress)
            )

    def succeed_job(self, job_id: str, result: dict[str, Any]) -> None:
        """Say that a job is done; nothing happens to one that has ended."""
        with self._write() as session:
            end_job(session, self._now(), job_id, state="succeeded", progress=1.0, result=result)

    def fail_job(self, job_id: str, error: dict[str, Any]) -> None:
        """Say that a job failed, and with it the campaign that waits for it."""
        with self._write() as session:
            if end_job(session, self._now(), job_id, state="failed", error=error):
                session.execute(
                    sa.update(Campaign)
                    .where(
                        Campaign.job_id == job_id, Campaign.state.in_(("preparing", "measuring", "fitting"))
                    )
                    .values(state="failed", error=error["detail"], finished_at=self._now())
                )

    def cancel_job(self, job_id: str) -> None:
        """Say that a job is not wanted any more; nothing happens to one that has ended."""
        with self._write() as session:
            end_job(session, self._now(), job_id, state="cancelled")

    def cancelled(self, job_id: str) -> bool:
        """Whether a job was cancelled."""
        with self._read() as session:
            return session.scalar(sa.select(Job.state).where(Job.id == job_id)) == "cancelled"


def new_job(kind: str, arguments: dict[str, Any], now: datetime) -> Job:
    """A job that is to run, not kept yet."""
    return Job(id=new_id("job"), kind=kind, arguments=arguments, state="queued", progress=0.0, created_at=now)


def end_job(session: Session, now: datetime, job_id: str, **values: Any) -> bool:
    """End a job unless it has ended; whether it changed."""
    change = (
        sa.update(Job).where(Job.id == job_id, Job.state.in_(UNFINISHED)).values(finished_at=now, **values)
    )
    return changed(session.execute(change))
