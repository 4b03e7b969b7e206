"""attempts whose worker lost its connection and lived

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    """Add the column; the release before this one never looks at it."""
    lost_at = sa.Column("lost_at", sa.DateTime(timezone=True), nullable=True)
    op.add_column("job_attempt", lost_at)


def downgrade() -> None:
    """Drop the column."""
    with op.batch_alter_table("job_attempt") as table:
        table.drop_column("lost_at")
