"""what workers say of their engines

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    """Add the column; the release before this one never looks at it."""
    op.add_column("worker", sa.Column("engine_facts", sa.JSON(), nullable=True))


def downgrade() -> None:
    """Drop the column."""
    with op.batch_alter_table("worker") as table:
        table.drop_column("engine_facts")
