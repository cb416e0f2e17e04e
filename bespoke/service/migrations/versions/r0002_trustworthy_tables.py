"""Tables without a campaign, checks, agents' standing in campaigns, and artifacts that can be pruned."""

from __future__ import annotations

import json
import zlib

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ACTIVE = sa.text("state IN ('preparing', 'measuring', 'fitting')")
TIME = sa.DateTime(timezone=True)
TEXT = sa.String(length=255)

INDICES = (
    ("campaign_entries", "sha256"),
    ("subnet_models", "sha256"),
    ("subnets", "table_revision"),
    ("searches", "subnet_id"),
)


def upgrade() -> None:
    # Columns are added one by one, never by copying a table: SQLite would drop the old one, and its
    # children with it.
    op.add_column("campaigns", sa.Column("purpose", TEXT, nullable=False, server_default="table"))
    op.add_column("campaigns", sa.Column("use_base", sa.Boolean(), nullable=False, server_default=sa.true()))
    op.add_column("campaigns", sa.Column("base_table", TEXT, nullable=True))
    op.add_column("campaigns", sa.Column("result", sa.JSON(), nullable=True))
    op.add_column("leases", sa.Column("ended_at", TIME, nullable=True))
    op.add_column("measurements", sa.Column("conditions", sa.JSON(), nullable=True))
    op.add_column("artifacts", sa.Column("touched_at", TIME, nullable=True))
    op.add_column("artifacts", sa.Column("pruned_at", TIME, nullable=True))
    op.drop_index("one_active_campaign", table_name="campaigns")
    _one_active(["device_id", "supernet", "purpose"])
    for table, column in INDICES:
        op.create_index(op.f(f"ix_{table}_{column}"), table, [column], unique=False)
    op.create_table(
        "campaign_agents",
        sa.Column("campaign_id", TEXT, nullable=False),
        sa.Column("agent", TEXT, nullable=False),
        sa.Column("refused", sa.Integer(), nullable=False),
        sa.Column("degraded", sa.JSON(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("quarantined_until", TIME, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["campaign_id"], ["campaigns.id"], name=op.f("fk_campaign_agents_campaign_id")
        ),
        sa.PrimaryKeyConstraint("campaign_id", "agent", name=op.f("pk_campaign_agents")),
    )
    op.create_table(
        "table_revisions",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("device_id", TEXT, nullable=False),
        sa.Column("supernet", TEXT, nullable=False),
        sa.Column("revision", TEXT, nullable=False),
        sa.Column("source", TEXT, nullable=False),
        sa.Column("provisional", sa.Boolean(), nullable=False),
        sa.Column("quality", sa.JSON(), nullable=True),
        sa.Column("stale", sa.JSON(), nullable=True),
        sa.Column("campaign_id", TEXT, nullable=True),
        sa.Column("table", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("checked_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["campaign_id"], ["campaigns.id"], name=op.f("fk_table_revisions_campaign_id")
        ),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"], name=op.f("fk_table_revisions_device_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_table_revisions")),
        sa.UniqueConstraint("campaign_id", name=op.f("uq_table_revisions_campaign_id")),
        sa.UniqueConstraint(
            "device_id", "supernet", "revision", name=op.f("uq_table_revisions_device_id_supernet_revision")
        ),
    )
    for column in ("device_id", "revision"):
        op.create_index(op.f(f"ix_table_revisions_{column}"), "table_revisions", [column], unique=False)
    _move_tables()
    op.drop_table("latency_tables")


def _move_tables() -> None:
    connection = op.get_bind()
    old = sa.table(
        "latency_tables",
        *map(sa.column, ("campaign_id", "revision", "device_id", "supernet", "table", "created_at")),
    )
    new = sa.Table("table_revisions", sa.MetaData(), autoload_with=connection)
    states = sa.table("campaigns", sa.column("id"), sa.column("state"))
    served = (
        sa.select(old)
        .join(states, states.c.id == old.c.campaign_id)
        .where(states.c.state == "succeeded")
        .order_by(old.c.created_at)
    )
    kept: set[tuple[str, str, str]] = set()
    for row in connection.execute(served).mappings().all():
        key = (row["device_id"], row["supernet"], row["revision"])
        if key in kept:
            continue
        kept.add(key)
        quality = json.loads(zlib.decompress(row["table"])).get("quality")
        moved = {name: value for name, value in row.items() if name != "created_at"}
        # The time is copied inside the database: SQLite keeps it as text, PostgreSQL as an instant.
        when = sa.select(old.c.created_at).where(old.c.campaign_id == row["campaign_id"]).scalar_subquery()
        connection.execute(
            sa.insert(new).values(
                **moved,
                id=f"tbl_{row['campaign_id'].removeprefix('cmp_')}",
                source="ops",
                provisional=False,
                quality=quality,
                created_at=when,
            )
        )


def downgrade() -> None:
    op.create_table(
        "latency_tables",
        sa.Column("campaign_id", TEXT, nullable=False),
        sa.Column("revision", TEXT, nullable=False),
        sa.Column("device_id", TEXT, nullable=False),
        sa.Column("supernet", TEXT, nullable=False),
        sa.Column("table", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["campaign_id"], ["campaigns.id"], name=op.f("fk_latency_tables_campaign_id")
        ),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"], name=op.f("fk_latency_tables_device_id")),
        sa.PrimaryKeyConstraint("campaign_id", name=op.f("pk_latency_tables")),
    )
    for column in ("device_id", "revision"):
        op.create_index(op.f(f"ix_latency_tables_{column}"), "latency_tables", [column], unique=False)
    columns = 'campaign_id, revision, device_id, supernet, "table", created_at'
    op.execute(
        f"INSERT INTO latency_tables ({columns}) SELECT {columns} FROM table_revisions "
        "WHERE campaign_id IS NOT NULL"
    )
    op.drop_table("table_revisions")
    op.drop_table("campaign_agents")
    for table, column in INDICES:
        op.drop_index(op.f(f"ix_{table}_{column}"), table_name=table)
    # Of a device and a supernet only one active campaign may be left, so checks go first.
    op.execute("UPDATE campaigns SET state = 'cancelled' WHERE purpose = 'check' AND state <> 'succeeded'")
    op.drop_index("one_active_campaign", table_name="campaigns")
    _one_active(["device_id", "supernet"])
    dropped = {
        "artifacts": ("pruned_at", "touched_at"),
        "measurements": ("conditions",),
        "leases": ("ended_at",),
        "campaigns": ("result", "base_table", "use_base", "purpose"),
    }
    for table, names in dropped.items():
        for name in names:
            op.drop_column(table, name)


def _one_active(columns: list[str]) -> None:
    op.create_index(
        "one_active_campaign",
        "campaigns",
        columns,
        unique=True,
        sqlite_where=ACTIVE,
        postgresql_where=ACTIVE,
    )
