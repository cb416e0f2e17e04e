"""The tables, and how a database is opened. Queries are in ``store`` only."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Dialect, Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

__all__ = [
    "ApiKey",
    "ArchiveRow",
    "ArtifactRow",
    "Base",
    "Campaign",
    "CampaignAgent",
    "CampaignEntry",
    "Dataset",
    "DatasetShard",
    "DatasetSubnet",
    "Device",
    "Fleet",
    "Job",
    "Lease",
    "Measurement",
    "Search",
    "StoredSubnet",
    "StoredTable",
    "SubnetModel",
    "Verification",
    "Worker",
    "open_database",
]

BUSY_TIMEOUT_MS = 20_000
_ACTIVE = sa.text("state IN ('preparing', 'measuring', 'fitting')")

# Plain JSON, not PostgreSQL's JSONB: the order of an architecture's fields is kept.
# None is SQL's NULL.
Json = sa.JSON(none_as_null=True)


class UtcTime(TypeDecorator[datetime]):
    """An instant with its time zone; SQLite has none, so UTC is put back when reading."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store in UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Read in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """The metadata of all tables, with predictable names of constraints."""

    metadata = sa.MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it from the class
        datetime: UtcTime,
        dict[str, Any]: Json,
        list[str]: Json,
        list[Any]: Json,
        str: sa.String(255),
        bytes: sa.LargeBinary,
    }


class ApiKey(Base):
    """A key, as its prefix and the hash of its secret."""

    __tablename__ = "api_keys"

    prefix: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    secret_sha256: Mapped[str]
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class Device(Base):
    """A device with the profile that keys its tables; ``seen_at``: when its agent last asked for work."""

    __tablename__ = "devices"
    __table_args__ = (sa.UniqueConstraint("name", "profile_digest"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    profile: Mapped[dict[str, Any]]
    profile_digest: Mapped[str]
    seen_at: Mapped[datetime | None]
    created_at: Mapped[datetime]


class Campaign(Base):
    """A stored run of a profiling plan.

    ``purpose`` is ``table`` (it makes a revision), ``check`` (it compares sentinels with
    ``base_table``, and ``result`` says how) or ``verify`` (it measures what a search found with
    ``base_table``, as they are shipped). A ``table`` campaign has as ``base_table`` the revision
    whose ops it took as known, unless ``use_base`` is off or there was none.
    """

    __tablename__ = "campaigns"
    __table_args__ = (
        sa.Index(
            "one_active_campaign",
            "device_id",
            "supernet",
            "purpose",
            unique=True,
            sqlite_where=_ACTIVE,
            postgresql_where=_ACTIVE,
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    device_id: Mapped[str] = mapped_column(sa.ForeignKey("devices.id"), index=True)
    supernet: Mapped[str]
    purpose: Mapped[str]
    effort: Mapped[str]
    use_base: Mapped[bool]
    base_table: Mapped[str | None]
    state: Mapped[str]
    plan: Mapped[dict[str, Any] | None]
    job_id: Mapped[str]
    total: Mapped[int]
    done: Mapped[int]
    table_revision: Mapped[str | None]
    result: Mapped[dict[str, Any] | None]
    error: Mapped[str | None] = mapped_column(sa.Text)
    created_at: Mapped[datetime]
    measuring_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class CampaignEntry(Base):
    """One model of a campaign's plan, as an artifact."""

    __tablename__ = "campaign_entries"

    campaign_id: Mapped[str] = mapped_column(sa.ForeignKey("campaigns.id"), primary_key=True)
    entry_id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    sha256: Mapped[str] = mapped_column(sa.ForeignKey("artifacts.sha256"), index=True)


class CampaignAgent(Base):
    """An agent's standing in a campaign.

    ``refused`` counts the reports in a row that were refused as absurd; ``degraded`` holds the
    reasons that the agent itself gave for measuring under bad conditions.
    """

    __tablename__ = "campaign_agents"

    campaign_id: Mapped[str] = mapped_column(sa.ForeignKey("campaigns.id"), primary_key=True)
    agent: Mapped[str] = mapped_column(primary_key=True)
    refused: Mapped[int]
    degraded: Mapped[list[str]]
    reason: Mapped[str | None] = mapped_column(sa.Text)
    quarantined_until: Mapped[datetime | None]
    created_at: Mapped[datetime]


class Lease(Base):
    """Measurements that an agent has taken on for a while; ``ended_at`` once all of them are handed in."""

    __tablename__ = "leases"

    id: Mapped[str] = mapped_column(primary_key=True)
    campaign_id: Mapped[str] = mapped_column(sa.ForeignKey("campaigns.id"), index=True)
    agent: Mapped[str]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class Measurement(Base):
    """One entry in one round: to do, leased, or done with its raw samples.

    ``samples`` are float64 milliseconds, little-endian, compressed with zlib; ``conditions`` are what
    the agent told of the device meanwhile.
    """

    __tablename__ = "measurements"
    __table_args__ = (
        sa.UniqueConstraint("campaign_id", "entry_id", "round"),
        sa.ForeignKeyConstraint(
            ["campaign_id", "entry_id"], ["campaign_entries.campaign_id", "campaign_entries.entry_id"]
        ),
    )

    campaign_id: Mapped[str] = mapped_column(sa.ForeignKey("campaigns.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    entry_id: Mapped[str]
    round: Mapped[int]
    lease_id: Mapped[str | None] = mapped_column(sa.ForeignKey("leases.id"), index=True)
    samples: Mapped[bytes | None]
    cold_ms: Mapped[float | None]
    error: Mapped[str | None] = mapped_column(sa.Text)
    conditions: Mapped[dict[str, Any] | None]
    reported_at: Mapped[datetime | None]


class StoredTable(Base):
    """One immutable revision of a latency table, as compressed JSON.

    The device's current table for a supernet is the newest one that is not provisional, or where all
    are, the newest. ``stale`` says why its device is not as it was; only a check changes it.
    """

    __tablename__ = "table_revisions"
    __table_args__ = (sa.UniqueConstraint("device_id", "supernet", "revision"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    device_id: Mapped[str] = mapped_column(sa.ForeignKey("devices.id"), index=True)
    supernet: Mapped[str]
    revision: Mapped[str] = mapped_column(index=True)
    source: Mapped[str]
    provisional: Mapped[bool]
    quality: Mapped[dict[str, Any] | None]
    stale: Mapped[dict[str, Any] | None]
    campaign_id: Mapped[str | None] = mapped_column(sa.ForeignKey("campaigns.id"), unique=True)
    table: Mapped[bytes]
    created_at: Mapped[datetime]
    checked_at: Mapped[datetime | None]


class StoredSubnet(Base):
    """A subnet as it was answered: an architecture with what was predicted, and from what.

    ``device_id`` and ``table_revision`` are the main device's; ``tables`` has the revisions of further
    ones by their ids.
    """

    __tablename__ = "subnets"

    id: Mapped[str] = mapped_column(primary_key=True)
    supernet: Mapped[str]
    architecture: Mapped[dict[str, Any]]
    predicted: Mapped[dict[str, Any]]
    device_id: Mapped[str | None] = mapped_column(sa.ForeignKey("devices.id"))
    statistics: Mapped[str]
    precision: Mapped[str]
    table_revision: Mapped[str | None] = mapped_column(index=True)
    tables: Mapped[dict[str, Any] | None]
    predictor_revision: Mapped[str]
    supernet_digest: Mapped[str]
    created_at: Mapped[datetime]


class SubnetModel(Base):
    """The ONNX file of a subnet."""

    __tablename__ = "subnet_models"

    subnet_id: Mapped[str] = mapped_column(sa.ForeignKey("subnets.id"), primary_key=True)
    dynamic_batch: Mapped[bool] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(sa.ForeignKey("artifacts.sha256"), index=True)
    created_at: Mapped[datetime]


class Search(Base):
    """A search, with all that is needed to ask it again.

    ``request_digest`` is over the request and all revisions behind its answer; ``archive`` is the digest of
    the archive that it was looked up in, None where it was searched.
    """

    __tablename__ = "searches"

    id: Mapped[str] = mapped_column(primary_key=True)
    request: Mapped[dict[str, Any]]
    subnet_id: Mapped[str] = mapped_column(sa.ForeignKey("subnets.id"), index=True)
    answer: Mapped[dict[str, Any] | None]
    evaluations: Mapped[int]
    generations: Mapped[int]
    duration_s: Mapped[float]
    request_digest: Mapped[str | None] = mapped_column(index=True)
    archive: Mapped[str | None]
    created_at: Mapped[datetime]


class ArchiveRow(Base):
    """One generation of the front that is kept for a supernet, a latency table and a predictor.

    ``table_revision`` is empty for the front without a device; the archive is ``settled`` once a further
    generation has found next to nothing.
    """

    __tablename__ = "archives"

    supernet_digest: Mapped[str] = mapped_column(primary_key=True)
    table_revision: Mapped[str] = mapped_column(primary_key=True)
    predictor_revision: Mapped[str] = mapped_column(primary_key=True)
    generation: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str]
    settled: Mapped[bool]
    members: Mapped[bytes]
    created_at: Mapped[datetime]


class Verification(Base):
    """What a search was verified by: its job says how far it is, ``rounds`` what was found on the way."""

    __tablename__ = "verifications"

    search_id: Mapped[str] = mapped_column(sa.ForeignKey("searches.id"), primary_key=True)
    kind: Mapped[str]
    job_id: Mapped[str]
    rounds: Mapped[list[Any]]
    result: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]


class Fleet(Base):
    """What was answered for several devices at once."""

    __tablename__ = "fleets"

    id: Mapped[str] = mapped_column(primary_key=True)
    request: Mapped[dict[str, Any]]
    answer: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class Dataset(Base):
    """Subnets to measure for an accuracy predictor: its job says how that goes.

    ``request`` has what was asked for, whole; ``result`` tells of the predictor once one was fitted.
    """

    __tablename__ = "datasets"

    id: Mapped[str] = mapped_column(primary_key=True)
    supernet: Mapped[str] = mapped_column(index=True)
    supernet_digest: Mapped[str]
    request: Mapped[dict[str, Any]]
    job_id: Mapped[str]
    result: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]


class DatasetShard(Base):
    """What one worker measures of one round of a data set: the newest job of it says how that goes."""

    __tablename__ = "dataset_shards"

    dataset_id: Mapped[str] = mapped_column(sa.ForeignKey("datasets.id"), primary_key=True)
    round: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[str]


class DatasetSubnet(Base):
    """One subnet of a data set: to be measured, or measured once ``measured_at`` is set.

    Positions are in the order in which the subnets were chosen; round 0 follows from the seed alone.
    """

    __tablename__ = "dataset_subnets"

    dataset_id: Mapped[str] = mapped_column(sa.ForeignKey("datasets.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    round: Mapped[int]
    shard: Mapped[int]
    architecture: Mapped[dict[str, Any]]
    top1: Mapped[float | None]
    smooth: Mapped[float | None]
    images: Mapped[int | None]
    measured_at: Mapped[datetime | None]


class ArtifactRow(Base):
    """A file in the artifact store; only its digest is left of it once ``pruned_at`` is set."""

    __tablename__ = "artifacts"

    sha256: Mapped[str] = mapped_column(primary_key=True)
    size: Mapped[int]
    media_type: Mapped[str]
    created_at: Mapped[datetime]
    touched_at: Mapped[datetime | None]
    pruned_at: Mapped[datetime | None]


class Job(Base):
    """The stored run of one task: the only place where its status lives."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    arguments: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(index=True)
    progress: Mapped[float]
    result: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    worker_id: Mapped[str | None]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Worker(Base):
    """A process that runs jobs, and when it last said that it lives."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]


def open_database(url: str) -> Engine:
    """Open SQLite or PostgreSQL; the folder of a SQLite file is made when missing."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return sa.create_engine(parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True)
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(parsed)
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    # The driver must not open transactions by itself: ``_begin_sqlite`` does, and says which kind.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout = {BUSY_TIMEOUT_MS}",
        "journal_mode = WAL",
        "synchronous = NORMAL",
        "foreign_keys = ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that begins as a reader and then writes fails at once when another writer came
    # between, whatever the busy timeout; so writers take their lock first.
    options = connection.get_execution_options()
    if not options.get("single", False):  # a query alone needs no transaction
        connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("writes", False) else "BEGIN")
