"""The database's schema, step by step: ``upgrade`` brings any older database to today's."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy.engine import Engine

from bespoke.supernet.errors import Conflict

__all__ = ["upgrade"]

# Any number that nothing else locks: it keeps two starting processes from migrating together.
_LOCK = 8321_0001


def upgrade(engine: Engine) -> None:
    """Create the tables, or bring them to the newest revision; safe to call from many processes.

    Raises:
        Conflict: The database has a revision that this release does not know.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise Conflict(
                f"the database cannot be brought to this release: {error}. A later release has migrated it: "
                "install that one, or restore a copy of the database from before"
            ) from error
