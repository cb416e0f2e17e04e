"""Data sets of accuracy predictors, with their shards and subnets."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
TEXT = sa.String(length=255)


def upgrade() -> None:
    op.create_table(
        "datasets",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("supernet", TEXT, nullable=False),
        sa.Column("supernet_digest", TEXT, nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("job_id", TEXT, nullable=False),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_datasets")),
    )
    op.create_index(op.f("ix_datasets_supernet"), "datasets", ["supernet"], unique=False)
    op.create_table(
        "dataset_shards",
        sa.Column("dataset_id", TEXT, nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("job_id", TEXT, nullable=False),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name=op.f("fk_dataset_shards_dataset_id")),
        sa.PrimaryKeyConstraint("dataset_id", "round", "number", name=op.f("pk_dataset_shards")),
    )
    op.create_table(
        "dataset_subnets",
        sa.Column("dataset_id", TEXT, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("shard", sa.Integer(), nullable=False),
        sa.Column("architecture", sa.JSON(), nullable=False),
        sa.Column("top1", sa.Double(), nullable=True),
        sa.Column("smooth", sa.Double(), nullable=True),
        sa.Column("images", sa.Integer(), nullable=True),
        sa.Column("measured_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name=op.f("fk_dataset_subnets_dataset_id")),
        sa.PrimaryKeyConstraint("dataset_id", "position", name=op.f("pk_dataset_subnets")),
    )


def downgrade() -> None:
    op.drop_table("dataset_subnets")
    op.drop_table("dataset_shards")
    op.drop_index(op.f("ix_datasets_supernet"), table_name="datasets")
    op.drop_table("datasets")
