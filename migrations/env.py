"""How Alembic runs a migration: on the connection it was handed."""

from typing import Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import TypeDecorator

from cloud_app.store.tables import Table


def _render(kind: str, item: object, _autogen: AutogenContext) -> str | Literal[False]:
    """Migrations name plain types, so that they outlive the code they came from."""
    if kind == "type" and isinstance(item, TypeDecorator):
        return f"sa.{item.impl!r}"
    return False


def run() -> None:
    """Migrate the connection `cloud_app.store.schema` passed."""
    connection = context.config.attributes["connection"]
    context.configure(
        connection=connection,
        target_metadata=Table.metadata,
        render_item=_render,
        # SQLite cannot alter a table: copy it, change the copy, swap.
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
        transactional_ddl=True,
        # On PostgreSQL, where a migration may end its own to build an index.
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


run()
