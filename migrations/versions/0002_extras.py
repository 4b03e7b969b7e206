"""what an answer holds besides its text

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    """Add the column; the release before this one never looks at it."""
    op.add_column("job", sa.Column("extras", sa.Text(), nullable=True))


def downgrade() -> None:
    """Drop the column."""
    with op.batch_alter_table("job") as table:
        table.drop_column("extras")
