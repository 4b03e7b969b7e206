"""Statements SQLModel has no portable word for, and the shortest way to one row."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.engine import CursorResult
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.dml import Insert, UpdateBase
from sqlmodel import Session

from cloud_app.store.database import Database
from cloud_app.store.tables import Table
from genie.contracts import codec
from genie.contracts.base import Contract


def insert_once(session: Session, table: type[Table], **values: Any) -> bool:
    """Insert a row unless a unique constraint already holds one; True when inserted.

    A concurrent insert of the same row is waited for, so False means it is there.
    """
    return insert_new(session, table, [values]) == 1


def insert_new(
    session: Session, table: type[Table], rows: Sequence[Mapping[str, Any]]
) -> int:
    """Insert the rows no unique constraint holds yet, in one statement; how many."""
    if len(rows) == 1:
        return int(insert_row(session.connection(), table, rows[0]))
    dialect = session.get_bind().dialect.name
    statement = _inserts[dialect](table).values(list(rows)).on_conflict_do_nothing()
    return changed(session, statement)


def insert_row(
    connection: Connection, table: type[Table], values: Mapping[str, Any]
) -> bool:
    """`insert_once` without a session, whose own work would count."""
    statement = _once(connection.dialect.name, table, tuple(values))
    given = {f"new_{name}": value for name, value in values.items()}
    return connection.execute(statement, given).rowcount == 1


def insert_alone(db: Database, table: type[Table], values: Mapping[str, Any]) -> bool:
    """`insert_row` as the one statement of its transaction.

    On PostgreSQL it goes to psycopg without SQLAlchemy's work on every statement, which
    is half of what a row costs, for the request somebody waits for.
    """
    if db.dialect == "sqlite":
        with db.connection() as connection:
            return insert_row(connection, table, values)
    text, names = _text(table, tuple(values))
    given = [_plain(values[name]) for name in names]
    with db.cursor() as cursor:
        return cursor.execute(text, given, prepare=True).rowcount == 1


def _plain(value: object) -> str | None:
    """A value as the text PostgreSQL reads; contracts and the like as their JSON."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Contract):
        return codec.encode(value).decode()
    return msgspec.json.encode(value).decode()


_inserts: Mapping[str, Callable[[type[Table]], Any]] = {
    "postgresql": postgresql.insert,
    "sqlite": sqlite.insert,
}


@cache
def _once(dialect: str, table: type[Table], names: tuple[str, ...]) -> Insert:
    """The insert of one row; made once, for making it takes longer than running it."""
    values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in names}
    statement: Insert = _inserts[dialect](table).values(values).on_conflict_do_nothing()
    return statement.execution_options(preserve_rowcount=True)


@cache
def _text(table: type[Table], names: tuple[str, ...]) -> tuple[bytes, list[str]]:
    """The same insert as SQL with psycopg's places, and what belongs into each."""
    dialect = psycopg.dialect(paramstyle="format")  # type: ignore[no-untyped-call]  # SQLAlchemy's gap
    compiled = _once("postgresql", table, names).compile(dialect=dialect)
    assert isinstance(compiled, SQLCompiler)  # noqa: S101  # what DML always gives
    places = [name.removeprefix("new_") for name in compiled.positiontup or ()]
    return str(compiled).encode(), places


def changed(session: Session, statement: UpdateBase) -> int:
    """Run an insert, update or delete; how many rows it changed.

    The rows in the session are not looked at: nothing of the store reads a row object
    after changing it.
    """
    counted = statement.execution_options(preserve_rowcount=True)  # inserts too
    result = session.connection().execute(counted)
    assert isinstance(result, CursorResult)  # noqa: S101  # what DML always gives
    return result.rowcount
