"""Archives, answers that were looked up, and verifications of answers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
TEXT = sa.String(length=255)


def upgrade() -> None:
    op.add_column("searches", sa.Column("request_digest", TEXT, nullable=True))
    op.add_column("searches", sa.Column("archive", TEXT, nullable=True))
    op.add_column("devices", sa.Column("seen_at", TIME, nullable=True))
    op.create_index(op.f("ix_searches_request_digest"), "searches", ["request_digest"], unique=False)
    op.create_table(
        "archives",
        sa.Column("supernet_digest", TEXT, nullable=False),
        sa.Column("table_revision", TEXT, nullable=False),
        sa.Column("predictor_revision", TEXT, nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("digest", TEXT, nullable=False),
        sa.Column("settled", sa.Boolean(), nullable=False),
        sa.Column("members", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint(
            "supernet_digest",
            "table_revision",
            "predictor_revision",
            "generation",
            name=op.f("pk_archives"),
        ),
    )
    op.create_table(
        "verifications",
        sa.Column("search_id", TEXT, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("job_id", TEXT, nullable=False),
        sa.Column("rounds", sa.JSON(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["search_id"], ["searches.id"], name=op.f("fk_verifications_search_id")),
        sa.PrimaryKeyConstraint("search_id", name=op.f("pk_verifications")),
    )


def downgrade() -> None:
    op.drop_table("verifications")
    op.drop_table("archives")
    op.drop_index(op.f("ix_searches_request_digest"), table_name="searches")
    for column in ("archive", "request_digest"):
        op.drop_column("searches", column)
    op.drop_column("devices", "seen_at")
    # Older releases know no campaigns that verify.
    op.execute("UPDATE campaigns SET state = 'cancelled' WHERE purpose = 'verify' AND state <> 'succeeded'")
