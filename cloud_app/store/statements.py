"""Two statements SQLModel has no portable word for."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import CursorResult
from sqlalchemy.sql.dml import Insert, UpdateBase
from sqlmodel import Session

from cloud_app.tables import Table


def insert_once(session: Session, table: type[Table], **values: Any) -> bool:
    """Insert a row unless a unique constraint already holds one; True when inserted.

    A concurrent insert of the same row is waited for, so False means it is there.
    """
    return insert_new(session, table, [values]) == 1


def insert_new(
    session: Session, table: type[Table], rows: Sequence[Mapping[str, Any]]
) -> int:
    """Insert the rows no unique constraint holds yet, in one statement; how many."""
    dialect = session.get_bind().dialect.name
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    statement: Insert = insert(table).values(list(rows)).on_conflict_do_nothing()
    return changed(session, statement)


def changed(session: Session, statement: UpdateBase) -> int:
    """Run an insert, update or delete; how many rows it changed.

    The rows in the session are not looked at: nothing of the store reads a row object
    after changing it.
    """
    counted = statement.execution_options(preserve_rowcount=True)  # inserts too
    result = session.connection().execute(counted)
    assert isinstance(result, CursorResult)  # noqa: S101  # what DML always gives
    return result.rowcount
