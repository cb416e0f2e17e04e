"""Jobs."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AwareDatetime

from bespoke.service.schemas.common import Outgoing

JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class Job(Outgoing):
    """The run of a task."""

    id: str
    kind: str
    state: JobState
    progress: float
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    created_at: AwareDatetime
    started_at: AwareDatetime | None
    finished_at: AwareDatetime | None
