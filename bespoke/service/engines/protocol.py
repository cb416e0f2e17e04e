"""What a job engine is, and what a workflow may rely on.

A *workflow* is a function of a ``Run``: it cuts its work into *steps* whose results are kept. After
a crash it is called again from the top, on this worker or another; steps that were done give their
kept results at once. So a workflow must be deterministic outside of its steps, and a step must be
idempotent: the one that was going on during the crash runs twice, and so does one that found the
database away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from bespoke.service.orm import Job

__all__ = ["JobEngine", "Json", "Run", "Step", "Workflow"]

Json = dict[str, Any]


class Step(Protocol):
    """Runs a step, or gives the kept result of one that is done."""

    def __call__(self, name: str, work: Callable[[], Json]) -> Json:
        """Do ``work`` once.

        Args:
            name: What it is, for the logs.
            work: The step; its result is kept as JSON.
        """
        ...


@dataclass(frozen=True)
class Run:
    """One run of a job.

    Attributes:
        job_id: The job.
        arguments: What it is to do.
        step: Runs its steps.
        stopped: Whether the job was cancelled or its worker is shutting down; long steps ask it.
        progress: Tells how far the job is, from 0 to 1.
        engine: Runs further jobs that this one wants done.
    """

    job_id: str
    arguments: Json
    step: Step
    stopped: Callable[[], bool]
    progress: Callable[[float], None]
    engine: JobEngine


Workflow = Callable[[Run], Json]
Workflows = Mapping[str, Workflow]


class JobEngine(Protocol):
    """Runs jobs to their end, over crashes of any worker. The store keeps their status."""

    def start(self) -> None:
        """Make ready; must be called before anything else."""
        ...

    def stop(self) -> None:
        """Let go of everything. Jobs that are running go on when a worker comes back."""
        ...

    def submit(self, job: Job) -> None:
        """Have a job run; a second time changes nothing."""
        ...

    def cancel(self, job_id: str) -> None:
        """Stop a job, as soon as its present step lets it."""
        ...

    def rescue(self, job: Job) -> None:
        """Have a job that its worker has left run on somewhere else."""
        ...
