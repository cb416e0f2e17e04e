"""Data sets: the subnets that an accuracy predictor is fitted on, and who measures them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from bespoke.service.orm import Dataset, DatasetShard, DatasetSubnet, Job
from bespoke.service.store.database import Database, found, insert_all, new_id
from bespoke.service.store.jobs import FINISHED, new_job

__all__ = ["Datasets", "ShardState"]

# Any number that nothing else locks, beside the name of a supernet.
_LOCK = 8321_0002


@dataclass(frozen=True)
class ShardState:
    """How far a shard of a round is.

    Attributes:
        round: The round, 0 for what follows from the seed.
        number: Which of the round's shards, from 0.
        job: Of whoever measures it, or measured it last.
        done: Subnets that were measured.
        total: Subnets that it has.
    """

    round: int
    number: int
    job: Job
    done: int
    total: int

    @property
    def over(self) -> bool:
        """Whether nobody works on it any more."""
        return self.job.state in FINISHED


class Datasets(Database):
    """Data sets, row by row: what was measured is never lost, whoever measures the rest."""

    def start_dataset(
        self, supernet: str, digest: str, request: dict[str, Any]
    ) -> tuple[Dataset, Job | None]:
        """Start a data set, or go on with the one that measures the same.

        Args:
            supernet: The supernet.
            digest: Of its files.
            request: What is asked for; ``shards`` and ``fit`` do not change what is measured.

        Returns:
            The data set, and the job to submit; None where nothing is left to do.
        """
        now = self._now()
        newest = (
            sa.select(Dataset)
            .where(Dataset.supernet == supernet, Dataset.supernet_digest == digest)
            .order_by(Dataset.created_at.desc(), Dataset.id)
            .with_for_update()
        )
        with self._write() as session:
            _one_at_a_time(session, supernet)
            rows = session.scalars(newest).all()
            row = next((one for one in rows if _measures(one.request) == _measures(request)), None)
            if row is None:
                row = Dataset(id=new_id("ds"), supernet=supernet, supernet_digest=digest, created_at=now)
                session.add(row)
            else:
                before = found(session.get(Job, row.job_id, with_for_update=True), "job", row.job_id)
                if before.state not in FINISHED:
                    return row, before
                if before.state == "succeeded" and (row.result or not request["fit"]):
                    return row, None
            job = new_job("collect-dataset", {"dataset_id": row.id}, now)
            session.add(job)
            row.request, row.job_id = request, job.id
        return row, job

    def dataset(self, dataset_id: str) -> Dataset:
        """A data set.

        Raises:
            NotFound: There is no such data set.
        """
        with self._read() as session:
            return found(session.get(Dataset, dataset_id), "data set", dataset_id)

    def datasets(self, supernet: str) -> list[Dataset]:
        """A supernet's data sets, newest first."""
        query = (
            sa.select(Dataset)
            .where(Dataset.supernet == supernet)
            .order_by(Dataset.created_at.desc(), Dataset.id)
        )
        with self._read() as session:
            return list(session.scalars(query))

    def add_round(
        self, dataset_id: str, number: int, shards: int, architectures: Sequence[dict[str, Any]]
    ) -> None:
        """Keep what a round is to measure, dealt out to its shards; nothing happens to one that is there.

        Args:
            dataset_id: The data set.
            number: The round; those before it are there.
            shards: How many workers share it out.
            architectures: As JSON, in the order in which they were chosen.
        """
        subnets = sa.select(sa.func.count()).select_from(DatasetSubnet)
        own = DatasetSubnet.dataset_id == dataset_id
        with self._write() as session:
            # One at a time: the second one finds the round that the first one kept.
            found(session.get(Dataset, dataset_id, with_for_update=True), "data set", dataset_id)
            if session.scalar(subnets.where(own, DatasetSubnet.round == number)):
                return
            start = session.scalar(subnets.where(own)) or 0
            rows = [
                {
                    "dataset_id": dataset_id,
                    "position": start + place,
                    "round": number,
                    "shard": place % shards,
                    "architecture": architecture,
                }
                for place, architecture in enumerate(architectures)
            ]
            insert_all(session, DatasetSubnet, rows)

    def open_shards(self, dataset_id: str, number: int, job_id: str) -> list[Job]:
        """Have each shard of a round measured that has something left and nobody at work.

        Args:
            dataset_id: The data set.
            number: The round.
            job_id: The data set's job, in whose name this is done.

        Returns:
            The jobs to submit: also those that are there already, of which nobody knows whether they
            were submitted. None where the data set's job has ended, or is another one by now.
        """
        left = (
            sa.select(DatasetSubnet.shard)
            .where(
                DatasetSubnet.dataset_id == dataset_id,
                DatasetSubnet.round == number,
                DatasetSubnet.measured_at.is_(None),
            )
            .distinct()
            .order_by(DatasetSubnet.shard)
        )
        jobs = []
        with self._write() as session:
            row = found(session.get(Dataset, dataset_id, with_for_update=True), "data set", dataset_id)
            own = found(session.get(Job, job_id, with_for_update=True), "job", job_id)
            if row.job_id != job_id or own.state in FINISHED:
                return []
            for shard in session.scalars(left).all():
                kept = session.get(DatasetShard, (dataset_id, number, shard))
                job = session.get(Job, kept.job_id) if kept else None
                if job is None or job.state in FINISHED:
                    arguments = {"dataset_id": dataset_id, "round": number, "shard": shard}
                    job = new_job("measure-shard", arguments, self._now())
                    session.add(job)
                    session.merge(
                        DatasetShard(dataset_id=dataset_id, round=number, number=shard, job_id=job.id)
                    )
                jobs.append(job)
        return jobs

    def shards(self, dataset_id: str) -> list[ShardState]:
        """How far each shard is that was opened, round by round."""
        measured = sa.func.count(DatasetSubnet.measured_at)
        query = (
            sa.select(DatasetShard.round, DatasetShard.number, Job, measured, sa.func.count())
            .join(Job, Job.id == DatasetShard.job_id)
            .join(
                DatasetSubnet,
                sa.and_(
                    DatasetSubnet.dataset_id == DatasetShard.dataset_id,
                    DatasetSubnet.round == DatasetShard.round,
                    DatasetSubnet.shard == DatasetShard.number,
                ),
            )
            .where(DatasetShard.dataset_id == dataset_id)
            .group_by(DatasetShard.round, DatasetShard.number, Job.id)
            .order_by(DatasetShard.round, DatasetShard.number)
        )
        with self._read() as session:
            return [ShardState(*row) for row in session.execute(query)]

    def dataset_subnets(self, dataset_id: str) -> list[DatasetSubnet]:
        """All subnets of a data set so far, measured or not, in their order."""
        query = (
            sa.select(DatasetSubnet)
            .where(DatasetSubnet.dataset_id == dataset_id)
            .order_by(DatasetSubnet.position)
        )
        with self._read() as session:
            return list(session.scalars(query))

    def measured_alike(self, dataset_id: str, images: int) -> list[DatasetSubnet]:
        """What other data sets measured of the same supernet in the same way.

        Args:
            dataset_id: The data set.
            images: On how many images, every view of one counted: of others the folder was another one.
        """
        with self._read() as session:
            own = found(session.get(Dataset, dataset_id), "data set", dataset_id)
            others = sa.select(Dataset).where(
                Dataset.supernet == own.supernet,
                Dataset.supernet_digest == own.supernet_digest,
                Dataset.id != dataset_id,
            )
            way = _way(own.request)
            alike = [row.id for row in session.scalars(others) if _way(row.request) == way]
            measured = sa.select(DatasetSubnet).where(
                DatasetSubnet.dataset_id.in_(alike),
                DatasetSubnet.images == images,
                DatasetSubnet.measured_at.is_not(None),
            )
            return list(session.scalars(measured))

    def keep_measured(
        self, dataset_id: str, position: int, top1: float, smooth: float | None, images: int
    ) -> None:
        """Keep what was measured of a subnet; measured again it takes the other's place.

        Args:
            dataset_id: The data set.
            position: Of the subnet.
            top1: In [0, 1].
            smooth: Top-1 with soft edges.
            images: On how many images.
        """
        with self._write() as session:
            session.execute(
                sa.update(DatasetSubnet)
                .where(DatasetSubnet.dataset_id == dataset_id, DatasetSubnet.position == position)
                .values(top1=top1, smooth=smooth, images=images, measured_at=self._now())
            )

    def finish_dataset(self, dataset_id: str, result: dict[str, Any]) -> None:
        """Keep what was fitted on a data set; idempotent."""
        with self._write() as session:
            row = session.get(Dataset, dataset_id, with_for_update=True)
            found(row, "data set", dataset_id).result = result


def _one_at_a_time(session: Session, supernet: str) -> None:
    """Wait until nobody else starts a data set of a supernet; where there is no row, none can be locked."""
    if session.get_bind().dialect.name == "postgresql":  # SQLite has one writer anyway
        session.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK, sa.func.hashtext(supernet))))


def _measures(request: dict[str, Any]) -> dict[str, Any]:
    """Of a request, what decides which subnets are measured, and how."""
    return {name: value for name, value in request.items() if name not in ("shards", "fit")}


def _way(request: dict[str, Any]) -> tuple[Any, ...]:
    """Of a request, what decides how a subnet is measured."""
    return request["seed"], request["views"], request["side"]
