"""files and batches

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: None = None
depends_on: None = None

STATES = (
    "'validating', 'failed', 'in_progress', 'finalizing', 'completed', 'expired', "
    "'cancelling', 'cancelled'"
)


def upgrade() -> None:
    """Create the tables; the release before this one never looks at them."""
    _file()
    _batch()
    _batch_chunk()


def downgrade() -> None:
    """Drop the tables, with their indexes; files stay where they lie."""
    for table in ("batch_chunk", "batch", "file"):
        op.drop_table(table)


def _file() -> None:
    op.create_table(
        "file",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("org_id", sa.String(length=26), nullable=False),
        sa.Column("key_id", sa.String(length=26), nullable=False),
        sa.Column("purpose", sa.String(length=24), nullable=False),
        sa.Column("filename", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["org_id"], ["org.id"], name=op.f("fk_file_org_id_org")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_file")),
    )
    op.create_index("ix_file_org_id_id", "file", ["org_id", "id"])
    op.create_index("ix_file_expires_at", "file", ["expires_at"])


def _batch() -> None:
    moments = (
        *("in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at"),
        *("cancelling_at", "cancelled_at", "tidied_at", "lease_until"),
    )
    numbers = (
        *("total", "completed", "failed", "prompt_tokens", "completion_tokens"),
        *("cached_tokens", "read_offset", "read_line"),
    )
    op.create_table(
        "batch",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("org_id", sa.String(length=26), nullable=False),
        sa.Column("key_id", sa.String(length=26), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("closing", sa.String(length=16), nullable=True),
        sa.Column("endpoint", sa.String(), nullable=False),
        sa.Column("window", sa.String(), nullable=False),
        sa.Column("input_file_id", sa.String(length=26), nullable=False),
        sa.Column("output_file_id", sa.String(length=26), nullable=True),
        sa.Column("error_file_id", sa.String(length=26), nullable=True),
        sa.Column("model", sa.String(), nullable=True),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in numbers),
        sa.Column("errors", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("metadata", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("chunks", sa.Integer(), nullable=False),
        sa.Column("lease", sa.String(length=26), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        *(sa.Column(name, sa.DateTime(timezone=True)) for name in moments),
        sa.Column("idempotency_key", sa.String(), nullable=True),
        sa.Column("body_sha256", sa.String(), nullable=False),
        sa.CheckConstraint(f"state IN ({STATES})", name=op.f("ck_batch_state")),
        sa.ForeignKeyConstraint(
            ["org_id"], ["org.id"], name=op.f("fk_batch_org_id_org")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batch")),
        sa.UniqueConstraint(
            "org_id", "idempotency_key", name=op.f("uq_batch_org_id_idempotency_key")
        ),
    )
    op.create_index("ix_batch_org_id_id", "batch", ["org_id", "id"])
    op.create_index("ix_batch_tidied_at_id", "batch", ["tidied_at", "id"])


def _batch_chunk() -> None:
    op.create_table(
        "batch_chunk",
        sa.Column("batch_id", sa.String(length=26), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("first_line", sa.BigInteger(), nullable=False),
        sa.Column("lines", sa.Integer(), nullable=False),
        sa.Column("tries", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("refused", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("part", sa.String(length=26), nullable=True),
        sa.Column("has_output", sa.Boolean(), nullable=False),
        sa.Column("has_errors", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["batch.id"], name=op.f("fk_batch_chunk_batch_id_batch")
        ),
        sa.PrimaryKeyConstraint("batch_id", "number", name=op.f("pk_batch_chunk")),
    )
