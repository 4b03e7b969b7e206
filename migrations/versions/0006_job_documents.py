"""documents of a job, and its label

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    """Add the columns; the release before this one never looks at them."""
    op.add_column("job", sa.Column("request", sa.Text(), nullable=True))
    op.add_column("job", sa.Column("outcome", sa.Text(), nullable=True))
    op.add_column("job", sa.Column("label", sa.String(length=200), nullable=True))


def downgrade() -> None:
    """Drop the columns."""
    with op.batch_alter_table("job") as table:
        table.drop_column("label")
        table.drop_column("outcome")
        table.drop_column("request")
