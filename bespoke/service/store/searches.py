"""Searches, the subnets that they found, and the files of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from bespoke.service.orm import ArtifactRow, Fleet, Search, StoredSubnet, SubnetModel
from bespoke.service.store.database import Database, found, insert, insert_all, new_id, table_of

__all__ = ["Searches"]

Row = Mapping[str, Any]

_MADE_AT = sa.select(table_of(StoredSubnet).c.created_at).where(StoredSubnet.id == sa.bindparam("subnet_id"))
_ANSWER, _SUBNET = table_of(Search).c, table_of(StoredSubnet).c
_ADD_SEARCH = sa.insert(table_of(Search))
_ANSWERED = (
    sa.select(*_ANSWER, *_SUBNET)
    .where(_ANSWER.request_digest == sa.bindparam("request_digest"), _SUBNET.id == _ANSWER.subnet_id)
    .order_by(_ANSWER.created_at, _ANSWER.id)
    .limit(1)
)


class Searches(Database):
    """Searches, fleets and subnets."""

    def add_search(
        self,
        request: dict[str, Any],
        subnets: Sequence[Row],
        answer: dict[str, Any],
        evaluations: int,
        generations: int,
        duration_s: float,
        request_digest: str | None = None,
    ) -> tuple[Search, StoredSubnet]:
        """Keep a search with its answer; a subnet that was found before is the same subnet.

        Args:
            request: The request, seed and effort filled in.
            subnets: Columns of ``StoredSubnet`` but ``created_at``: of the answer first.
            answer: What else was answered, and what a replay needs.
            evaluations: Architectures that were priced.
            generations: Generations that were run.
            duration_s: How long it took.
            request_digest: Over the request and the revisions of its answer.
        """
        now, first = self._now(), subnets[0]
        columns = {
            "id": new_id("srch"),
            "request": request,
            "subnet_id": first["id"],
            "answer": answer,
            "evaluations": evaluations,
            "generations": generations,
            "duration_s": duration_s,
            "request_digest": request_digest,
            "archive": (answer.get("origin") or {}).get("archive"),
            "created_at": now,
        }
        with self._append() as connection:
            _add_subnets(connection, subnets, now)
            connection.execute(_ADD_SEARCH, columns)
            made_at = connection.execute(_MADE_AT, {"subnet_id": first["id"]}).scalar_one()
        return Search(**columns), StoredSubnet(**first, created_at=made_at)

    def add_subnets(self, subnets: Sequence[Row]) -> None:
        """Keep subnets that no search answered with; those that are there stay as they are."""
        with self._append() as connection:
            _add_subnets(connection, subnets, self._now())

    def answered(self, request_digest: str) -> tuple[Search, StoredSubnet] | None:
        """The first search that answered a request, by its digest; None where it was not asked before."""
        return self._recent.once(("answered", request_digest), lambda: self._first_answer(request_digest))

    def _first_answer(self, request_digest: str) -> tuple[Search, StoredSubnet] | None:
        with self._look() as connection:
            row = connection.execute(_ANSWERED, {"request_digest": request_digest}).first()
        if row is None:
            return None
        search = {column.name: row[i] for i, column in enumerate(_ANSWER)}
        subnet = {column.name: row[len(search) + i] for i, column in enumerate(_SUBNET)}
        return Search(**search), StoredSubnet(**subnet)

    def search(self, search_id: str) -> tuple[Search, StoredSubnet]:
        """A search and the subnet that it found.

        Raises:
            NotFound: There is no such search.
        """
        with self._read() as session:
            search = found(session.get(Search, search_id), "search", search_id)
            return search, session.get_one(StoredSubnet, search.subnet_id)

    def add_fleet(self, request: dict[str, Any], subnets: Sequence[Row], answer: dict[str, Any]) -> Fleet:
        """Keep what was answered for a fleet.

        Args:
            request: The request, seed and effort filled in.
            subnets: Columns of ``StoredSubnet`` but ``created_at``.
            answer: Which subnet serves whom, and at what cost.
        """
        now = self._now()
        fleet = Fleet(id=new_id("flt"), request=request, answer=answer, created_at=now)
        with self._write() as session:
            _add_subnets(session, subnets, now)
            session.add(fleet)
        return fleet

    def fleet(self, fleet_id: str) -> Fleet:
        """What was answered for a fleet.

        Raises:
            NotFound: There is no such fleet.
        """
        with self._read() as session:
            return found(session.get(Fleet, fleet_id), "fleet", fleet_id)

    def subnet(self, subnet_id: str) -> StoredSubnet:
        """A subnet.

        Raises:
            NotFound: There is no such subnet.
        """
        with self._read() as session:
            return found(session.get(StoredSubnet, subnet_id), "subnet", subnet_id)

    def subnets(self, subnet_ids: Sequence[str]) -> dict[str, StoredSubnet]:
        """Subnets by their ids."""
        if not subnet_ids:
            return {}
        with self._read() as session:
            rows = session.scalars(sa.select(StoredSubnet).where(StoredSubnet.id.in_(set(subnet_ids))))
            return {row.id: row for row in rows}

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
            insert(session, ArtifactRow, sha256=sha256, size=size, media_type=media_type, created_at=now)
            insert(
                session,
                SubnetModel,
                subnet_id=subnet_id,
                dynamic_batch=dynamic_batch,
                sha256=sha256,
                created_at=now,
            )


def _add_subnets(session: Session | Connection, subnets: Sequence[Row], now: datetime) -> None:
    # In one order everywhere: two transactions that add the same ones must not wait for each other.
    rows = [{**subnet, "created_at": now} for subnet in sorted(subnets, key=lambda one: one["id"])]
    insert_all(session, StoredSubnet, rows)
