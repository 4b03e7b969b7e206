"""Statements SQLModel has no portable word for, and records from rows and back."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, delete, inspect, update
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

R = TypeVar("R")


def record(kind: type[R], row: Any, **made: Any) -> R:
    """A record of a row: all but what is ``made`` are columns of the same names."""
    names: Mapping[str, Any] = kind.__dataclass_fields__  # type: ignore[attr-defined]  # records are dataclasses
    same = {name: getattr(row, name) for name in names if name not in made}
    return kind(**same, **made)


def columns_of(table: type[Table], record: Any) -> dict[str, Any]:
    """The other way round: what a record holds under the names of a table's columns."""
    names = inspect(table).columns.keys()
    return {name: getattr(record, name) for name in names if hasattr(record, name)}


def insert_once(session: Session, table: type[Table], **values: Any) -> bool:
    """Insert a row unless a unique constraint already holds one; True when inserted.

    A concurrent insert of the same row is waited for, so False means it is there.
    """
    return insert_new(session.connection(), table, [values]) == 1


def insert_new(
    connection: Connection, table: type[Table], rows: Sequence[Mapping[str, Any]]
) -> int:
    """Insert the rows no unique constraint holds yet; how many."""
    return connection.execute(_once(connection.dialect.name, table), rows).rowcount


def insert_alone(db: Database, table: type[Table], values: Mapping[str, Any]) -> bool:
    """`insert_once` as the one statement of its transaction.

    On PostgreSQL it goes to psycopg without SQLAlchemy's work on every statement, which
    is half of what a row costs, for the request somebody waits for.
    """
    if db.dialect == "sqlite":
        with db.connection() as connection:
            return insert_new(connection, table, [values]) == 1
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
def _once(dialect: str, table: type[Table]) -> Insert:
    statement: Insert = _inserts[dialect](table).on_conflict_do_nothing()
    return statement.execution_options(preserve_rowcount=True)


@cache
def _text(table: type[Table], names: tuple[str, ...]) -> tuple[bytes, Sequence[str]]:
    """The same insert as SQL with psycopg's places, and what belongs into each."""
    dialect = psycopg.dialect(paramstyle="format")  # type: ignore[no-untyped-call]  # SQLAlchemy's gap
    statement = _once("postgresql", table)
    compiled = statement.compile(dialect=dialect, column_keys=names)
    assert isinstance(compiled, SQLCompiler)  # noqa: S101  # what DML always gives
    return str(compiled).encode(), compiled.positiontup or ()


Condition = Any
"""A comparison of columns; to SQLModel's types it is a bool, to SQLAlchemy's not."""


def update_rows(
    session: Session, table: type[Table], *which: Condition, **values: Any
) -> int:
    """Set columns of the rows for which all of ``which`` holds; how many they are."""
    return changed(session, update(table).where(*which).values(**values))


def delete_rows(session: Session, table: type[Table], *which: Condition) -> int:
    """Delete the rows for which all of ``which`` holds; how many they were."""
    return changed(session, delete(table).where(*which))


def changed(session: Session, statement: UpdateBase) -> int:
    """Run an insert, update or delete; how many rows it changed.

    The rows in the session are not looked at: nothing of the store reads a row object
    after changing it.
    """
    counted = statement.execution_options(preserve_rowcount=True)  # inserts too
    result = session.connection().execute(counted)
    assert isinstance(result, CursorResult)  # noqa: S101  # what DML always gives
    return result.rowcount
