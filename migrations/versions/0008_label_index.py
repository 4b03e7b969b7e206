"""an index of labelled jobs, built while others work

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: None = None
depends_on: None = None

NAME = "ix_job_org_id_label_id"


def upgrade() -> None:
    """Build the index; on PostgreSQL without a lock that stops whoever writes jobs."""
    is_labelled = sa.text("label IS NOT NULL")
    columns = ["org_id", "label", "id"]
    context = op.get_context()
    if context.dialect.name == "sqlite":
        op.drop_index(NAME, "job", if_exists=True)
        op.create_index(NAME, "job", columns, sqlite_where=is_labelled)
        return
    with context.autocommit_block():
        # A build that was broken off leaves an index that nobody uses.
        op.drop_index(NAME, "job", if_exists=True, postgresql_concurrently=True)
        op.create_index(
            NAME,
            "job",
            columns,
            postgresql_where=is_labelled,
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    """Drop the index."""
    op.drop_index(NAME, "job")
