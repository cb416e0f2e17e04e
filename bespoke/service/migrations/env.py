"""Run by Alembic: migrates on the connection that ``upgrade`` hands over."""

from __future__ import annotations

from alembic import context

from bespoke.service.orm import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
)
context.run_migrations()
