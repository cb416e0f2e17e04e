"""Searches on several devices, with alternatives and fronts; fleets; subnets in INT8."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
TEXT = sa.String(length=255)


def upgrade() -> None:
    op.add_column("subnets", sa.Column("precision", TEXT, nullable=False, server_default="fp32"))
    op.add_column("subnets", sa.Column("tables", sa.JSON(), nullable=True))
    op.add_column("searches", sa.Column("answer", sa.JSON(), nullable=True))
    op.create_table(
        "fleets",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("answer", sa.JSON(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fleets")),
    )


def downgrade() -> None:
    op.drop_table("fleets")
    op.drop_column("searches", "answer")
    op.drop_column("subnets", "tables")
    op.drop_column("subnets", "precision")
