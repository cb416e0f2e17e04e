"""The first tables: keys, devices, campaigns, leases, tables, searches, subnets, artifacts, jobs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("prefix", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("secret_sha256", sa.String(length=255), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("prefix", name=op.f("pk_api_keys")),
    )
    op.create_table(
        "artifacts",
        sa.Column("sha256", sa.String(length=255), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("media_type", sa.String(length=255), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_artifacts")),
    )
    op.create_table(
        "devices",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("profile", sa.JSON(), nullable=False),
        sa.Column("profile_digest", sa.String(length=255), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_devices")),
        sa.UniqueConstraint("name", "profile_digest", name=op.f("uq_devices_name_profile_digest")),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("kind", sa.String(length=255), nullable=False),
        sa.Column("arguments", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=255), nullable=False),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("worker_id", sa.String(length=255), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    op.create_index(op.f("ix_jobs_state"), "jobs", ["state"], unique=False)
    op.create_table(
        "workers",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )
    op.create_table(
        "campaigns",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("device_id", sa.String(length=255), nullable=False),
        sa.Column("supernet", sa.String(length=255), nullable=False),
        sa.Column("effort", sa.String(length=255), nullable=False),
        sa.Column("state", sa.String(length=255), nullable=False),
        sa.Column("plan", sa.JSON(), nullable=True),
        sa.Column("job_id", sa.String(length=255), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("table_revision", sa.String(length=255), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("measuring_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"], name=op.f("fk_campaigns_device_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_campaigns")),
    )
    op.create_index(op.f("ix_campaigns_device_id"), "campaigns", ["device_id"], unique=False)
    op.create_index(
        "one_active_campaign",
        "campaigns",
        ["device_id", "supernet"],
        unique=True,
        sqlite_where=sa.text("state IN ('preparing', 'measuring', 'fitting')"),
        postgresql_where=sa.text("state IN ('preparing', 'measuring', 'fitting')"),
    )
    op.create_table(
        "subnets",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("supernet", sa.String(length=255), nullable=False),
        sa.Column("architecture", sa.JSON(), nullable=False),
        sa.Column("predicted", sa.JSON(), nullable=False),
        sa.Column("device_id", sa.String(length=255), nullable=True),
        sa.Column("statistics", sa.String(length=255), nullable=False),
        sa.Column("table_revision", sa.String(length=255), nullable=True),
        sa.Column("predictor_revision", sa.String(length=255), nullable=False),
        sa.Column("supernet_digest", sa.String(length=255), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"], name=op.f("fk_subnets_device_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subnets")),
    )
    op.create_table(
        "campaign_entries",
        sa.Column("campaign_id", sa.String(length=255), nullable=False),
        sa.Column("entry_id", sa.String(length=255), nullable=False),
        sa.Column("kind", sa.String(length=255), nullable=False),
        sa.Column("sha256", sa.String(length=255), nullable=False),
        sa.ForeignKeyConstraint(
            ["campaign_id"], ["campaigns.id"], name=op.f("fk_campaign_entries_campaign_id")
        ),
        sa.ForeignKeyConstraint(["sha256"], ["artifacts.sha256"], name=op.f("fk_campaign_entries_sha256")),
        sa.PrimaryKeyConstraint("campaign_id", "entry_id", name=op.f("pk_campaign_entries")),
    )
    op.create_table(
        "latency_tables",
        sa.Column("campaign_id", sa.String(length=255), nullable=False),
        sa.Column("revision", sa.String(length=255), nullable=False),
        sa.Column("device_id", sa.String(length=255), nullable=False),
        sa.Column("supernet", sa.String(length=255), nullable=False),
        sa.Column("table", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["campaign_id"], ["campaigns.id"], name=op.f("fk_latency_tables_campaign_id")
        ),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"], name=op.f("fk_latency_tables_device_id")),
        sa.PrimaryKeyConstraint("campaign_id", name=op.f("pk_latency_tables")),
    )
    op.create_index(op.f("ix_latency_tables_device_id"), "latency_tables", ["device_id"], unique=False)
    op.create_index(op.f("ix_latency_tables_revision"), "latency_tables", ["revision"], unique=False)
    op.create_table(
        "leases",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("campaign_id", sa.String(length=255), nullable=False),
        sa.Column("agent", sa.String(length=255), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_leases_campaign_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_leases")),
    )
    op.create_index(op.f("ix_leases_campaign_id"), "leases", ["campaign_id"], unique=False)
    op.create_table(
        "searches",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("subnet_id", sa.String(length=255), nullable=False),
        sa.Column("evaluations", sa.Integer(), nullable=False),
        sa.Column("generations", sa.Integer(), nullable=False),
        sa.Column("duration_s", sa.Double(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["subnet_id"], ["subnets.id"], name=op.f("fk_searches_subnet_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_searches")),
    )
    op.create_table(
        "subnet_models",
        sa.Column("subnet_id", sa.String(length=255), nullable=False),
        sa.Column("dynamic_batch", sa.Boolean(), nullable=False),
        sa.Column("sha256", sa.String(length=255), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["sha256"], ["artifacts.sha256"], name=op.f("fk_subnet_models_sha256")),
        sa.ForeignKeyConstraint(["subnet_id"], ["subnets.id"], name=op.f("fk_subnet_models_subnet_id")),
        sa.PrimaryKeyConstraint("subnet_id", "dynamic_batch", name=op.f("pk_subnet_models")),
    )
    op.create_table(
        "measurements",
        sa.Column("campaign_id", sa.String(length=255), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("entry_id", sa.String(length=255), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("lease_id", sa.String(length=255), nullable=True),
        sa.Column("samples", sa.LargeBinary(), nullable=True),
        sa.Column("cold_ms", sa.Double(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("reported_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["campaign_id", "entry_id"],
            ["campaign_entries.campaign_id", "campaign_entries.entry_id"],
            name=op.f("fk_measurements_campaign_id_entry_id"),
        ),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_measurements_campaign_id")),
        sa.ForeignKeyConstraint(["lease_id"], ["leases.id"], name=op.f("fk_measurements_lease_id")),
        sa.PrimaryKeyConstraint("campaign_id", "position", name=op.f("pk_measurements")),
        sa.UniqueConstraint(
            "campaign_id", "entry_id", "round", name=op.f("uq_measurements_campaign_id_entry_id_round")
        ),
    )
    op.create_index(op.f("ix_measurements_lease_id"), "measurements", ["lease_id"], unique=False)


def downgrade() -> None:

    op.drop_index(op.f("ix_measurements_lease_id"), table_name="measurements")
    op.drop_table("measurements")
    op.drop_table("subnet_models")
    op.drop_table("searches")
    op.drop_index(op.f("ix_leases_campaign_id"), table_name="leases")
    op.drop_table("leases")
    op.drop_index(op.f("ix_latency_tables_revision"), table_name="latency_tables")
    op.drop_index(op.f("ix_latency_tables_device_id"), table_name="latency_tables")
    op.drop_table("latency_tables")
    op.drop_table("campaign_entries")
    op.drop_table("subnets")
    op.drop_index(
        "one_active_campaign",
        table_name="campaigns",
        sqlite_where=sa.text("state IN ('preparing', 'measuring', 'fitting')"),
        postgresql_where=sa.text("state IN ('preparing', 'measuring', 'fitting')"),
    )
    op.drop_index(op.f("ix_campaigns_device_id"), table_name="campaigns")
    op.drop_table("campaigns")
    op.drop_table("workers")
    op.drop_index(op.f("ix_jobs_state"), table_name="jobs")
    op.drop_table("jobs")
    op.drop_table("devices")
    op.drop_table("artifacts")
    op.drop_table("api_keys")
