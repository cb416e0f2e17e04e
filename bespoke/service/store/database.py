"""How the rooms of the store open transactions, and what all of them need."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as insert_postgresql
from sqlalchemy.dialects.sqlite import insert as insert_sqlite
from sqlalchemy.engine import Connection, CursorResult, Engine
from sqlalchemy.orm import Session

from bespoke.service.orm import Base
from bespoke.service.store.recent import Recent
from bespoke.supernet.errors import NotFound

__all__ = ["Database", "changed", "found", "insert", "insert_all", "new_id", "table_of"]

T = TypeVar("T")


class Database:
    """An opened database and a clock, which every room of the store shares."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Keep an opened database.

        Args:
            engine: From ``orm.open_database``.
            clock: The time, with its zone.
        """
        self.engine = engine
        self._looker = engine.execution_options(single=True)
        self._writer = engine.execution_options(writes=True)
        # SQLite has one writer, and whoever finds another one at work sleeps before it asks again: within
        # a process, waiting in a row is quicker.
        alone = engine.dialect.name == "sqlite"
        self._turn: AbstractContextManager[object] = threading.Lock() if alone else nullcontext()
        self._recent = Recent()
        self._now = clock

    @contextmanager
    def _read(self) -> Iterator[Session]:
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def _look(self) -> Iterator[Connection]:
        """A connection for one query, where every request asks: a session costs more than such a query."""
        with self._looker.connect() as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[Session]:
        try:
            with self._turn, Session(self._writer, expire_on_commit=False) as session, session.begin():
                yield session
        finally:
            self._recent.forget()

    @contextmanager
    def _append(self) -> Iterator[Connection]:
        """A connection to add rows with, from which nothing follows that is remembered."""
        with self._turn, self._writer.begin() as connection:
            yield connection

    def check(self) -> None:
        """Raise where the database does not answer."""
        with self._read() as session:
            session.execute(sa.text("SELECT 1"))


def new_id(kind: str) -> str:
    """A random identifier whose prefix says what it names, e.g. ``dev_8f0c...``."""
    return f"{kind}_{secrets.token_hex(8)}"


def insert(session: Session, model: type[Base], **values: Any) -> bool:
    """Insert a row unless it is there; whether it is new."""
    adding = _adding(session.get_bind().dialect.name, model).values(**values)
    return session.execute(adding.returning(*table_of(model).primary_key)).first() is not None


def insert_all(session: Session | Connection, model: type[Base], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, which all have the same columns, unless they are there."""
    if rows:
        connection = session.connection() if isinstance(session, Session) else session
        connection.execute(_adding(connection.dialect.name, model), [dict(row) for row in rows])


@lru_cache(maxsize=64)
def _adding(dialect: str, model: type[Base]) -> sa.Insert:
    """Adds rows unless they are there, made once."""
    table = table_of(model)
    if dialect == "postgresql":
        return insert_postgresql(table).on_conflict_do_nothing()
    return insert_sqlite(table).on_conflict_do_nothing()


def table_of(model: type[Base]) -> sa.Table:
    """The table of a model, for queries whose rows need no session."""
    return cast(sa.Table, model.__table__)


def found(row: T | None, kind: str, name: str) -> T:
    """A row that must be there.

    Raises:
        NotFound: It is not.
    """
    if row is None:
        raise NotFound(kind, name)
    return row


def changed(result: Any) -> bool:
    """Whether a statement changed a row."""
    return isinstance(result, CursorResult) and result.rowcount > 0
