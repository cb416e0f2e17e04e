"""Everything that can be set, read from the environment with the prefix ``BESPOKE_``."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from bespoke.supernet.errors import InvalidInput

__all__ = ["Settings"]

DATABASES = ("sqlite", "postgresql", "postgres")
EXPECTED = "sqlite:///FILE or postgresql://USER@HOST/NAME"


class Settings(BaseSettings):
    """How one process of the service is set up; ``BESPOKE_PORT=9000`` sets ``port``.

    A variable that is empty counts as one that is not there.

    Attributes:
        var: Folder of the database and the artifacts, made when missing.
        database_url: SQLAlchemy URL of SQLite or PostgreSQL; empty for SQLite in ``var``.
        artifacts_url: A local folder or ``s3://bucket/prefix``; empty for a folder in ``var``.
        s3_endpoint: Address of an S3 server that is not Amazon's; plain http is allowed for it.
        s3_region: Region of the bucket.
        s3_key_id: Access key id; empty for the environment's own.
        s3_secret: Secret of the access key.
        zoo: Folder of the supernets; empty for the bundled ones.
        data: An image folder, or a folder of some: on whose validation images accuracy is verified.
        host: Address to listen on.
        port: Port to listen on.
        max_body_bytes: Largest body of a request.
        embedded_worker: Whether the API process runs the jobs and holds the warm supernet.
        worker_id: Name of this worker, which no other living one may have; a worker that restarts under
            its name resumes its jobs at once.
        worker_jobs: Jobs that one worker runs at a time.
        heartbeat_s: How often a worker says that it lives, and looks for jobs of dead ones.
        worker_dead_s: Silence after which a worker counts as dead.
        lease_ttl_s: How long a lease lasts after it was given or its heartbeat came.
        max_lease_entries: Most measurements of one lease.
        entries_per_step: ONNX files that one step of a campaign's preparation writes.
        check_hours: Hours after which a worker checks a device's table by its sentinels; 0 for never.
        archives: Whether workers keep archives, out of which plain searches are answered.
        quarantine_s: How long an agent that is not to be trusted gets no work of a campaign.
        chores_s: How often a worker looks for checks that are due and models that nobody needs.
        artifact_grace_s: How long models are kept at least that no campaign and no subnet needs.
        events_poll_s: How often a stream of events looks for news.
        events_s: Length of such a stream; clients connect again.
        model_wait_s: How long a request waits for a model that is being made.
        child_threads: Threads of the heavy work in a child process.

    Raises:
        InvalidInput: A value is none that the setting can have.
    """

    model_config = SettingsConfigDict(
        env_prefix="BESPOKE_", env_ignore_empty=True, extra="ignore", frozen=True
    )

    var: Path = Path("var")
    database_url: str = ""
    artifacts_url: str = ""
    s3_endpoint: str = ""
    s3_region: str = "us-east-1"
    s3_key_id: str = ""
    s3_secret: SecretStr = SecretStr("")
    zoo: Path | None = None
    data: Path | None = None
    host: str = "127.0.0.1"
    port: int = Field(default=8321, ge=0, le=65535)
    max_body_bytes: int = Field(default=8 * 2**20, ge=1024)
    embedded_worker: bool = True
    worker_id: str = ""
    worker_jobs: int = Field(default=1, ge=1)
    heartbeat_s: float = Field(default=5.0, gt=0)
    worker_dead_s: float = Field(default=30.0, gt=0)
    lease_ttl_s: float = Field(default=60.0, gt=0)
    max_lease_entries: int = Field(default=64, ge=1)
    entries_per_step: int = Field(default=32, ge=1)
    check_hours: float = Field(default=0.0, ge=0)
    archives: bool = True
    quarantine_s: float = Field(default=600.0, gt=0)
    chores_s: float = Field(default=60.0, gt=0)
    artifact_grace_s: float = Field(default=600.0, ge=0)
    events_poll_s: float = Field(default=1.0, gt=0)
    events_s: float = Field(default=600.0, gt=0)
    model_wait_s: float = Field(default=20.0, gt=0)
    child_threads: int = Field(default=1, ge=1)

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            raise InvalidInput("; ".join(_told(str(one["loc"][0]), one) for one in error.errors())) from None

    @field_validator("database_url")
    @classmethod
    def _opens(cls, url: str) -> str:
        """A database that is known; what came may hold a password, so only its kind is told."""
        if not url:
            return url
        try:
            parsed = sa.make_url(url)
        except sa.exc.ArgumentError:
            raise ValueError(f"got no URL, expected {EXPECTED}") from None
        kind = parsed.get_backend_name()
        if kind not in DATABASES:
            raise ValueError(f"got {kind}://, expected {EXPECTED}")
        if kind == "sqlite" and parsed.database in (None, "", ":memory:"):
            raise ValueError(
                f"got sqlite:// without a file, which no two processes share; expected {EXPECTED}"
            )
        return url

    def to_json(self) -> dict[str, Any]:
        """All of it, the secret included, for a child process: ``Settings(**...)`` reads it."""
        return self.model_dump(mode="json") | {"s3_secret": self.s3_secret.get_secret_value()}

    @property
    def database(self) -> str:
        """The SQLAlchemy URL in force."""
        return self.database_url or f"sqlite:///{self.var.absolute() / 'bespoke.sqlite'}"

    @property
    def artifacts(self) -> str:
        """The artifact folder or address in force."""
        return self.artifacts_url or str(self.var.absolute() / "artifacts")

    @property
    def worker(self) -> str:
        """The worker's name in force: the embedded one keeps its name over restarts.

        On a database server its host is part of it: APIs on several hosts may share one, and two that
        are called the same would run each other's jobs.
        """
        if self.worker_id:
            return self.worker_id
        if not self.embedded_worker:
            return f"{socket.gethostname()}-{os.getpid()}"
        return "embedded" if self.database.startswith("sqlite") else f"{socket.gethostname()}-embedded"


def _told(name: str, error: ErrorDetails) -> str:
    """What is wrong with a setting, for whoever set it."""
    message = error["msg"].removeprefix("Value error, ")
    got = "" if error["type"] == "value_error" else f"got {error['input']!r}: "
    return f"setting {name} (BESPOKE_{name.upper()}): {got}{message}"
