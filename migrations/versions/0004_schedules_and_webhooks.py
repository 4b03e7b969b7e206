"""schedules, webhooks, attempts and how long texts are kept

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    """Add tables and columns; the release before this one never looks at them."""
    _schedule()
    _schedule_run()
    _webhook_delivery()
    _job_attempt()
    op.add_column("org", sa.Column("retain_h", sa.Integer(), nullable=True))
    op.add_column("job", sa.Column("retain_h", sa.Integer(), nullable=True))
    op.add_column("job", sa.Column("retry_of", sa.String(length=26), nullable=True))
    op.add_column(
        "job", sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True)
    )
    op.create_index("ix_job_retain_h_finished_at", "job", ["retain_h", "finished_at"])


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_job_retain_h_finished_at", "job")
    with op.batch_alter_table("job") as table:
        for column in ("retain_h", "retry_of", "delivered_at"):
            table.drop_column(column)
    with op.batch_alter_table("org") as table:
        table.drop_column("retain_h")
    for name in ("job_attempt", "webhook_delivery", "schedule_run", "schedule"):
        op.drop_table(name)


def _schedule() -> None:
    op.create_table(
        "schedule",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("org_id", sa.String(length=26), nullable=False),
        sa.Column("key_id", sa.String(length=26), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("cron", sa.String(), nullable=False),
        sa.Column("timezone", sa.String(), nullable=False),
        sa.Column("request", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("webhook", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("overlap", sa.String(), nullable=False),
        sa.Column("catch_up", sa.String(), nullable=False),
        sa.Column("jitter_s", sa.Float(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("trouble", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["org_id"], ["org.id"], name=op.f("fk_schedule_org_id_org")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schedule")),
        sa.UniqueConstraint("org_id", "name", name=op.f("uq_schedule_org_id_name")),
    )
    op.create_index("ix_schedule_due_at", "schedule", ["due_at"])


def _schedule_run() -> None:
    op.create_table(
        "schedule_run",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("schedule_id", sa.String(length=26), nullable=False),
        sa.Column("fire_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("trigger", sa.String(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("job_id", sa.String(length=26), nullable=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "state IN ('started', 'queued', 'skipped', 'refused')",
            name=op.f("ck_schedule_run_state"),
        ),
        sa.ForeignKeyConstraint(
            ["schedule_id"],
            ["schedule.id"],
            name=op.f("fk_schedule_run_schedule_id_schedule"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schedule_run")),
        sa.UniqueConstraint(
            "schedule_id", "fire_at", name=op.f("uq_schedule_run_schedule_id_fire_at")
        ),
    )
    op.create_index(
        "ix_schedule_run_schedule_id_id", "schedule_run", ["schedule_id", "id"]
    )


def _webhook_delivery() -> None:
    op.create_table(
        "webhook_delivery",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("org_id", sa.String(length=26), nullable=False),
        sa.Column("job_id", sa.String(length=26), nullable=True),
        sa.Column("event", sa.String(), nullable=True),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "state IN ('waiting', 'pending', 'delivered', 'failed')",
            name=op.f("ck_webhook_delivery_state"),
        ),
        sa.ForeignKeyConstraint(
            ["org_id"], ["org.id"], name=op.f("fk_webhook_delivery_org_id_org")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_delivery")),
    )
    for columns in (["state", "next_at"], ["org_id", "id"], ["job_id"]):
        name = f"ix_webhook_delivery_{'_'.join(columns)}"
        op.create_index(name, "webhook_delivery", columns)


def _job_attempt() -> None:
    op.create_table(
        "job_attempt",
        sa.Column("job_id", sa.String(length=26), nullable=False),
        sa.Column("attempt_id", sa.String(), nullable=False),
        sa.Column("worker_id", sa.String(), nullable=False),
        sa.Column("worker", sa.String(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "attempt_id", name=op.f("pk_job_attempt")),
    )
