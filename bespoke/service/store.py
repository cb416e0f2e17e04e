"""The store: every query of the service, on SQLite and PostgreSQL alike.

Rows leave as detached ``orm`` objects: read them, never write to them. A method that changes
something is one transaction.
"""

from __future__ import annotations

import json
import secrets
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast

import numpy as np
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as insert_postgresql
from sqlalchemy.dialects.sqlite import insert as insert_sqlite
from sqlalchemy.engine import CursorResult, Engine
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from bespoke.service.orm import (
    ApiKey,
    ArtifactRow,
    Base,
    Campaign,
    CampaignEntry,
    Device,
    Job,
    Lease,
    Measurement,
    Search,
    StoredSubnet,
    StoredTable,
    SubnetModel,
    Worker,
)
from bespoke.supernet.errors import Conflict, InvalidInput, LeaseLost, NotFound

__all__ = ["EntryModel", "LeasedEntry", "MeasuredEntry", "Reported", "Store", "new_id", "read_table"]

T = TypeVar("T")

FINISHED = ("succeeded", "failed", "cancelled")
INSERTED_AT_ONCE = 500


@dataclass(frozen=True)
class EntryModel:
    """The artifact of one entry of a profiling plan."""

    entry_id: str
    kind: str
    sha256: str


@dataclass(frozen=True)
class LeasedEntry:
    """One measurement to do: an entry in a round, and the model to measure."""

    entry_id: str
    kind: str
    round: int
    sha256: str
    size: int


@dataclass(frozen=True)
class MeasuredEntry:
    """One measurement as an agent reports it: samples and cold start in milliseconds."""

    entry_id: str
    round: int
    samples_ms: Sequence[float]
    cold_ms: float | None
    error: str | None


@dataclass(frozen=True)
class Reported:
    """What a report changed: how many results were new, and the job that the last one made."""

    accepted: int
    duplicates: int
    campaign: Campaign
    job: Job | None


def new_id(kind: str) -> str:
    """A random identifier whose prefix says what it names, e.g. ``dev_8f0c...``."""
    return f"{kind}_{secrets.token_hex(8)}"


class Store:
    """All that the service remembers, but for the artifacts' bytes."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Keep an opened database.

        Args:
            engine: From ``orm.open_database``.
            clock: The time, with its zone.
        """
        self.engine = engine
        self._writer = engine.execution_options(writes=True)
        self._now = clock

    @contextmanager
    def _read(self) -> Iterator[Session]:
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def _write(self) -> Iterator[Session]:
        with Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    def check(self) -> None:
        """Raise where the database does not answer."""
        with self._read() as session:
            session.execute(sa.text("SELECT 1"))

    # Keys

    def add_key(self, prefix: str, name: str, secret_sha256: str, scopes: Sequence[str]) -> ApiKey:
        """Keep a key by the hash of its secret."""
        key = ApiKey(
            prefix=prefix,
            name=name,
            secret_sha256=secret_sha256,
            scopes=list(scopes),
            created_at=self._now(),
        )
        with self._write() as session:
            session.add(key)
        return key

    def key(self, prefix: str) -> ApiKey | None:
        """A key by its prefix, revoked or not."""
        with self._read() as session:
            return session.get(ApiKey, prefix)

    def list_keys(self) -> list[ApiKey]:
        """All keys, oldest first."""
        with self._read() as session:
            return list(session.scalars(sa.select(ApiKey).order_by(ApiKey.created_at, ApiKey.prefix)))

    def revoke_key(self, prefix: str) -> ApiKey:
        """Close a key for ever; a second time changes nothing.

        Raises:
            NotFound: There is no such key.
        """
        with self._write() as session:
            key = session.get(ApiKey, prefix)
            if key is None:
                raise NotFound("key", prefix)
            key.revoked_at = key.revoked_at or self._now()
            return key

    # Devices

    def add_device(self, name: str, profile: dict[str, Any], digest: str) -> tuple[Device, bool]:
        """Keep a device; the same name and profile again is the same device.

        Returns:
            The device, and whether it is new.
        """
        with self._write() as session:
            new = self._insert(
                session,
                Device,
                id=new_id("dev"),
                name=name,
                profile=profile,
                profile_digest=digest,
                created_at=self._now(),
            )
            found = sa.select(Device).where(Device.name == name, Device.profile_digest == digest)
            return session.scalars(found).one(), new

    def device(self, device_id: str) -> Device:
        """A device.

        Raises:
            NotFound: There is no such device.
        """
        with self._read() as session:
            return _found(session.get(Device, device_id), "device", device_id)

    def devices(self) -> list[Device]:
        """All devices, oldest first."""
        with self._read() as session:
            return list(session.scalars(sa.select(Device).order_by(Device.created_at, Device.id)))

    # Latency tables

    def latest_table(self, device_id: str, supernet: str) -> StoredTable | None:
        """The table of the latest campaign that succeeded; None where there is none."""
        with self._read() as session:
            return session.scalars(_tables(device_id).where(StoredTable.supernet == supernet)).first()

    def latest_tables(self, device_id: str) -> list[StoredTable]:
        """The latest table of each supernet that the device was profiled for."""
        with self._read() as session:
            latest: dict[str, StoredTable] = {}
            for table in session.scalars(_tables(device_id)):
                latest.setdefault(table.supernet, table)
            return list(latest.values())

    def finish_campaign(self, campaign_id: str, revision: str, table: Mapping[str, Any]) -> None:
        """Keep the table that a campaign gave, and serve it from now on; idempotent."""
        with self._write() as session:
            campaign = _found(session.get(Campaign, campaign_id), "campaign", campaign_id)
            self._insert(
                session,
                StoredTable,
                campaign_id=campaign_id,
                revision=revision,
                device_id=campaign.device_id,
                supernet=campaign.supernet,
                table=zlib.compress(json.dumps(table).encode()),
                created_at=self._now(),
            )
            if campaign.state == "fitting":
                campaign.state, campaign.table_revision = "succeeded", revision
                campaign.finished_at = self._now()

    # Campaigns

    def add_campaign(self, device_id: str, supernet: str, effort: str) -> tuple[Campaign, Job]:
        """Start a campaign, with the job that prepares it.

        Raises:
            NotFound: There is no such device.
            Conflict: One is going on for the same device and supernet.
        """
        now, campaign_id = self._now(), new_id("cmp")
        job = self._job("prepare-campaign", {"campaign_id": campaign_id})
        campaign = Campaign(
            id=campaign_id,
            device_id=device_id,
            supernet=supernet,
            effort=effort,
            state="preparing",
            job_id=job.id,
            total=0,
            done=0,
            created_at=now,
        )
        try:
            with self._write() as session:
                _found(session.get(Device, device_id), "device", device_id)
                session.add_all([campaign, job])
        except IntegrityError:
            raise Conflict(
                f"device {device_id!r} is being profiled for {supernet!r} already: "
                "wait for that campaign, or cancel it"
            ) from None
        return campaign, job

    def campaign(self, campaign_id: str) -> Campaign:
        """A campaign.

        Raises:
            NotFound: There is no such campaign.
        """
        with self._read() as session:
            return _found(session.get(Campaign, campaign_id), "campaign", campaign_id)

    def set_plan(self, campaign_id: str, plan: dict[str, Any]) -> None:
        """Keep the profiling plan of a campaign; idempotent."""
        with self._write() as session:
            _found(session.get(Campaign, campaign_id), "campaign", campaign_id).plan = plan

    def add_entries(self, campaign_id: str, entries: Sequence[EntryModel]) -> None:
        """Keep the models of some entries; idempotent."""
        with self._write() as session:
            for entry in entries:
                self._insert(
                    session,
                    CampaignEntry,
                    campaign_id=campaign_id,
                    entry_id=entry.entry_id,
                    kind=entry.kind,
                    sha256=entry.sha256,
                )

    def start_measuring(self, campaign_id: str, order: Sequence[tuple[str, int]]) -> None:
        """Open a prepared campaign to agents; idempotent, and nothing happens to a cancelled one.

        Args:
            campaign_id: The campaign, with the models of all its entries.
            order: (entry id, round) of every measurement, in the order of measuring.
        """
        with self._write() as session:
            campaign = _found(
                session.get(Campaign, campaign_id, with_for_update=True), "campaign", campaign_id
            )
            if campaign.state != "preparing":
                return
            rows = [
                {"campaign_id": campaign_id, "position": position, "entry_id": entry_id, "round": round_}
                for position, (entry_id, round_) in enumerate(order)
            ]
            for start in range(0, len(rows), INSERTED_AT_ONCE):
                session.execute(sa.insert(Measurement), rows[start : start + INSERTED_AT_ONCE])
            campaign.state, campaign.total, campaign.measuring_at = "measuring", len(rows), self._now()

    def cancel_campaign(self, campaign_id: str) -> Campaign:
        """Stop a campaign and its job; what was measured is kept. A second time changes nothing.

        Raises:
            NotFound: There is no such campaign.
            Conflict: It has ended otherwise.
        """
        with self._write() as session:
            campaign = _found(
                session.get(Campaign, campaign_id, with_for_update=True), "campaign", campaign_id
            )
            if campaign.state in ("succeeded", "failed"):
                raise Conflict(f"campaign {campaign_id!r} has {campaign.state}: it cannot be cancelled")
            if campaign.state != "cancelled":
                campaign.state, campaign.finished_at = "cancelled", self._now()
                self._end_job(session, campaign.job_id, state="cancelled")
            return campaign

    def reports(self, campaign_id: str) -> list[MeasuredEntry]:
        """All that was reported for a campaign, in the order of measuring."""
        query = (
            sa.select(Measurement)
            .where(Measurement.campaign_id == campaign_id, Measurement.reported_at.is_not(None))
            .order_by(Measurement.position)
        )
        with self._read() as session:
            return [
                MeasuredEntry(row.entry_id, row.round, _unpack(row.samples), row.cold_ms, row.error)
                for row in session.scalars(query)
            ]

    # Leases

    def lease(
        self, device_id: str, agent: str, wanted: int, ttl_s: float
    ) -> tuple[Lease, Campaign, list[LeasedEntry]] | None:
        """Give measurements to an agent, oldest campaign first; None where there is nothing to do.

        Measurements of expired leases are given again.
        """
        now = self._now()
        with self._write() as session:
            open_campaigns = (
                sa.select(Campaign)
                .where(Campaign.device_id == device_id, Campaign.state == "measuring")
                .order_by(Campaign.created_at)
            )
            for campaign in session.scalars(open_campaigns):
                over = sa.select(Lease.id).where(Lease.campaign_id == campaign.id, Lease.expires_at <= now)
                free = (
                    sa.select(Measurement)
                    .where(
                        Measurement.campaign_id == campaign.id,
                        Measurement.reported_at.is_(None),
                        sa.or_(Measurement.lease_id.is_(None), Measurement.lease_id.in_(over)),
                    )
                    .order_by(Measurement.position)
                    .limit(wanted)
                    .with_for_update(skip_locked=True)
                )
                taken = list(session.scalars(free))
                if not taken:
                    continue
                lease = Lease(
                    id=new_id("lse"),
                    campaign_id=campaign.id,
                    agent=agent,
                    created_at=now,
                    expires_at=now + timedelta(seconds=ttl_s),
                )
                session.add(lease)
                session.flush()
                for measurement in taken:
                    measurement.lease_id = lease.id
                return lease, campaign, self._leased(session, campaign.id, taken)
        return None

    def _leased(self, session: Session, campaign_id: str, taken: list[Measurement]) -> list[LeasedEntry]:
        ids = {measurement.entry_id for measurement in taken}
        query = (
            sa.select(CampaignEntry, ArtifactRow.size)
            .join(ArtifactRow, ArtifactRow.sha256 == CampaignEntry.sha256)
            .where(CampaignEntry.campaign_id == campaign_id, CampaignEntry.entry_id.in_(ids))
        )
        known = {entry.entry_id: (entry, size) for entry, size in session.execute(query)}
        return [
            LeasedEntry(m.entry_id, known[m.entry_id][0].kind, m.round, known[m.entry_id][0].sha256, size)
            for m in taken
            for size in [known[m.entry_id][1]]
        ]

    def extend_lease(self, lease_id: str, ttl_s: float) -> Lease:
        """Keep a lease for another while.

        Raises:
            NotFound: There is no such lease.
            LeaseLost: It has expired, or its campaign is over.
        """
        now = self._now()
        with self._write() as session:
            lease = _found(session.get(Lease, lease_id, with_for_update=True), "lease", lease_id)
            campaign = session.get_one(Campaign, lease.campaign_id)
            if lease.expires_at <= now or campaign.state != "measuring":
                raise LeaseLost(lease_id)
            lease.expires_at = now + timedelta(seconds=ttl_s)
            return lease

    def report(self, lease_id: str, results: Sequence[MeasuredEntry]) -> Reported:
        """Keep results, each (campaign, entry, round) once; the last one starts the fit.

        A lost lease does not matter: work is never thrown away.

        Raises:
            NotFound: There is no such lease.
            InvalidInput: A result is of no measurement of the campaign.
        """
        now = self._now()
        with self._write() as session:
            lease = _found(session.get(Lease, lease_id), "lease", lease_id)
            # The lock makes reports of one campaign wait for each other, so that ``done`` is right
            # and exactly one of them sees the end.
            campaign = session.get_one(Campaign, lease.campaign_id, with_for_update=True)
            accepted = sum(self._keep(session, campaign.id, lease_id, now, r) for r in results)
            campaign.done += accepted
            job = None
            if campaign.state == "measuring" and campaign.done >= campaign.total:
                job = self._job("fit-campaign", {"campaign_id": campaign.id})
                session.add(job)
                campaign.state, campaign.job_id = "fitting", job.id
            return Reported(accepted, len(results) - accepted, campaign, job)

    def _keep(
        self, session: Session, campaign_id: str, lease_id: str, now: datetime, result: MeasuredEntry
    ) -> bool:
        here = sa.and_(
            Measurement.campaign_id == campaign_id,
            Measurement.entry_id == result.entry_id,
            Measurement.round == result.round,
        )
        change = (
            sa.update(Measurement)
            .where(here, Measurement.reported_at.is_(None))
            .values(
                samples=_pack(result.samples_ms),
                cold_ms=result.cold_ms,
                error=result.error,
                reported_at=now,
                lease_id=lease_id,
            )
        )
        if _changed(session.execute(change)):
            return True
        if session.scalar(sa.select(sa.func.count()).select_from(Measurement).where(here)) == 0:
            raise InvalidInput(
                f"entry {result.entry_id!r} in round {result.round} is no measurement of campaign "
                f"{campaign_id!r}: report what the lease names"
            )
        return False

    # Artifacts

    def add_artifact(self, sha256: str, size: int, media_type: str) -> None:
        """Remember that a file is in the artifact store; idempotent."""
        with self._write() as session:
            self._insert(
                session,
                ArtifactRow,
                sha256=sha256,
                size=size,
                media_type=media_type,
                created_at=self._now(),
            )

    def artifact(self, sha256: str) -> ArtifactRow:
        """A file of the artifact store.

        Raises:
            NotFound: There is no such file.
        """
        with self._read() as session:
            return _found(session.get(ArtifactRow, sha256), "artifact", sha256)

    # Searches and subnets

    def add_search(
        self,
        request: dict[str, Any],
        subnet: Mapping[str, Any],
        evaluations: int,
        generations: int,
        duration_s: float,
    ) -> tuple[Search, StoredSubnet]:
        """Keep a search with its answer; an answer that was given before is the same subnet.

        Args:
            request: The request, seed and effort filled in.
            subnet: Columns of ``StoredSubnet`` but ``created_at``.
            evaluations: Architectures that were priced.
            generations: Generations that were run.
            duration_s: How long it took.
        """
        now = self._now()
        search = Search(
            id=new_id("srch"),
            request=request,
            subnet_id=subnet["id"],
            evaluations=evaluations,
            generations=generations,
            duration_s=duration_s,
            created_at=now,
        )
        with self._write() as session:
            self._insert(session, StoredSubnet, **subnet, created_at=now)
            session.add(search)
            return search, session.get_one(StoredSubnet, subnet["id"])

    def search(self, search_id: str) -> tuple[Search, StoredSubnet]:
        """A search and the subnet that it found.

        Raises:
            NotFound: There is no such search.
        """
        with self._read() as session:
            search = _found(session.get(Search, search_id), "search", search_id)
            return search, session.get_one(StoredSubnet, search.subnet_id)

    def subnet(self, subnet_id: str) -> StoredSubnet:
        """A subnet.

        Raises:
            NotFound: There is no such subnet.
        """
        with self._read() as session:
            return _found(session.get(StoredSubnet, subnet_id), "subnet", subnet_id)

    def model(self, subnet_id: str, dynamic_batch: bool) -> ArtifactRow | None:
        """The ONNX file of a subnet; None where it was not made yet."""
        query = (
            sa.select(ArtifactRow)
            .join(SubnetModel, SubnetModel.sha256 == ArtifactRow.sha256)
            .where(SubnetModel.subnet_id == subnet_id, SubnetModel.dynamic_batch == dynamic_batch)
        )
        with self._read() as session:
            return session.scalars(query).first()

    def add_model(self, subnet_id: str, dynamic_batch: bool, sha256: str, size: int, media_type: str) -> None:
        """Remember the ONNX file of a subnet; idempotent."""
        now = self._now()
        with self._write() as session:
            self._insert(
                session, ArtifactRow, sha256=sha256, size=size, media_type=media_type, created_at=now
            )
            self._insert(
                session,
                SubnetModel,
                subnet_id=subnet_id,
                dynamic_batch=dynamic_batch,
                sha256=sha256,
                created_at=now,
            )

    # Jobs

    def add_job(self, kind: str, arguments: dict[str, Any]) -> Job:
        """Keep a job that is to run."""
        job = self._job(kind, arguments)
        with self._write() as session:
            session.add(job)
        return job

    def job(self, job_id: str) -> Job:
        """A job.

        Raises:
            NotFound: There is no such job.
        """
        with self._read() as session:
            return _found(session.get(Job, job_id), "job", job_id)

    def unfinished_jobs(self, kind: str) -> list[Job]:
        """Jobs of a kind that are queued or running, oldest first."""
        query = sa.select(Job).where(Job.kind == kind, Job.state.not_in(FINISHED)).order_by(Job.created_at)
        with self._read() as session:
            return list(session.scalars(query))

    def stale_jobs(self, older_s: float) -> list[Job]:
        """Jobs that have not ended, though they were made a while ago, oldest first."""
        before = self._now() - timedelta(seconds=older_s)
        query = (
            sa.select(Job).where(Job.state.not_in(FINISHED), Job.created_at < before).order_by(Job.created_at)
        )
        with self._read() as session:
            return list(session.scalars(query))

    def start_job(self, job_id: str, worker_id: str) -> bool:
        """Say that a worker runs a job now; False where the job has ended."""
        with self._write() as session:
            job = _found(session.get(Job, job_id, with_for_update=True), "job", job_id)
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
            self._end_job(session, job_id, state="succeeded", progress=1.0, result=result)

    def fail_job(self, job_id: str, error: dict[str, Any]) -> None:
        """Say that a job failed, and with it the campaign that waits for it."""
        with self._write() as session:
            if self._end_job(session, job_id, state="failed", error=error):
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
            self._end_job(session, job_id, state="cancelled")

    def cancelled(self, job_id: str) -> bool:
        """Whether a job was cancelled."""
        with self._read() as session:
            return session.scalar(sa.select(Job.state).where(Job.id == job_id)) == "cancelled"

    def _job(self, kind: str, arguments: dict[str, Any]) -> Job:
        return Job(
            id=new_id("job"),
            kind=kind,
            arguments=arguments,
            state="queued",
            progress=0.0,
            created_at=self._now(),
        )

    def _end_job(self, session: Session, job_id: str, **values: Any) -> bool:
        change = (
            sa.update(Job)
            .where(Job.id == job_id, Job.state.not_in(FINISHED))
            .values(finished_at=self._now(), **values)
        )
        return _changed(session.execute(change))

    # Workers

    def beat(self, worker_id: str) -> None:
        """Say that a worker lives."""
        now = self._now()
        with self._write() as session:
            self._insert(session, Worker, id=worker_id, started_at=now, seen_at=now)
            session.execute(sa.update(Worker).where(Worker.id == worker_id).values(seen_at=now))

    def live_workers(self, within_s: float) -> set[str]:
        """Names of the workers that were seen lately."""
        since = self._now() - timedelta(seconds=within_s)
        with self._read() as session:
            return set(session.scalars(sa.select(Worker.id).where(Worker.seen_at >= since)))

    def remove_worker(self, worker_id: str) -> None:
        """Say that a worker has gone."""
        with self._write() as session:
            session.execute(sa.delete(Worker).where(Worker.id == worker_id))

    def _insert(self, session: Session, model: type[Base], **values: Any) -> bool:
        """Insert a row unless it is there; whether it is new."""
        insert = insert_postgresql if session.get_bind().dialect.name == "postgresql" else insert_sqlite
        table = cast(sa.Table, model.__table__)
        adding = insert(table).values(**values).on_conflict_do_nothing()
        return session.execute(adding.returning(*table.primary_key)).first() is not None


def read_table(row: StoredTable) -> dict[str, Any]:
    """The JSON of a stored latency table."""
    table: dict[str, Any] = json.loads(zlib.decompress(row.table))
    return table


def _tables(device_id: str) -> sa.Select[StoredTable]:
    return (
        sa.select(StoredTable)
        .join(Campaign, Campaign.id == StoredTable.campaign_id)
        .where(StoredTable.device_id == device_id, Campaign.state == "succeeded")
        .order_by(Campaign.finished_at.desc(), Campaign.created_at.desc())
    )


def _found(row: T | None, kind: str, name: str) -> T:
    if row is None:
        raise NotFound(kind, name)
    return row


def _changed(result: Any) -> bool:
    return isinstance(result, CursorResult) and result.rowcount > 0


def _pack(samples_ms: Sequence[float]) -> bytes:
    return zlib.compress(np.asarray(samples_ms, "<f8").tobytes())


def _unpack(samples: bytes | None) -> tuple[float, ...]:
    return tuple(np.frombuffer(zlib.decompress(samples), "<f8").tolist()) if samples else ()
