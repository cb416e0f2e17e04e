"""API keys."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from bespoke.service.orm import ApiKey
from bespoke.service.store.database import Database, table_of
from bespoke.supernet.errors import NotFound

__all__ = ["Keys"]

_KEY = sa.select(table_of(ApiKey)).where(ApiKey.prefix == sa.bindparam("prefix"))


class Keys(Database):
    """API keys, by their prefix."""

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
        """A key by its prefix, revoked or not; what another process changed is seen ``FRESH_S`` later."""
        return self._recent.once(("key", prefix), lambda: self._key(prefix))

    def recent_key(self, prefix: str) -> ApiKey | None:
        """What ``key`` gives, where that needs no query; else None."""
        key: ApiKey | None = self._recent.known(("key", prefix))
        return key

    def _key(self, prefix: str) -> ApiKey | None:
        with self._look() as connection:
            row = connection.execute(_KEY, {"prefix": prefix}).first()
            return None if row is None else ApiKey(**row._mapping)

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
