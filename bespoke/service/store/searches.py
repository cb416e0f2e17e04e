"""Searches, the subnets that they found, and the files of these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from bespoke.service.orm import ArtifactRow, Search, StoredSubnet, SubnetModel
from bespoke.service.store.database import Database, found, insert, new_id

__all__ = ["Searches"]


class Searches(Database):
    """Searches and subnets."""

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
            insert(session, StoredSubnet, **subnet, created_at=now)
            session.add(search)
            return search, session.get_one(StoredSubnet, subnet["id"])

    def search(self, search_id: str) -> tuple[Search, StoredSubnet]:
        """A search and the subnet that it found.

        Raises:
            NotFound: There is no such search.
        """
        with self._read() as session:
            search = found(session.get(Search, search_id), "search", search_id)
            return search, session.get_one(StoredSubnet, search.subnet_id)

    def subnet(self, subnet_id: str) -> StoredSubnet:
        """A subnet.

        Raises:
            NotFound: There is no such subnet.
        """
        with self._read() as session:
            return found(session.get(StoredSubnet, subnet_id), "subnet", subnet_id)

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
