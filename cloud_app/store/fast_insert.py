"""One new row in one call of libpq, for the request somebody waits for.

On its way through SQLAlchemy and psycopg a row costs five times the processor time it
costs here, and a quarter of all a request costs the web process.
"""

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec
import psycopg
from psycopg import pq
from psycopg.errors import InvalidSqlStatementName
from sqlalchemy import inspect
from sqlalchemy.dialects import postgresql

from cloud_app.store.database import Database
from cloud_app.store.statements import insert_row
from cloud_app.store.tables import Table
from genie.contracts import codec
from genie.contracts.base import Contract

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

PREPARED = "genie_prepared"

_quoted = postgresql.dialect().identifier_preparer.quote  # type: ignore[no-untyped-call]  # SQLAlchemy's gap


def insert(db: Database, table: type[Table], values: Mapping[str, Any]) -> bool:
    """Insert and commit one row; False when a unique constraint already holds one.

    Raises `DatabaseDown`. SQLite, where there is nothing to save, goes the usual way.
    """
    if db.dialect == "sqlite":
        with db.connection() as connection:
            return insert_row(connection, table, values)
    with db.pooled() as pooled:
        raw: psycopg.Connection[Any] = pooled.dbapi_connection  # type: ignore[assignment]  # ours is psycopg
        statement = _statement(table, tuple(values))
        try:
            return _run(raw, pooled.info, statement, values)
        except InvalidSqlStatementName:
            # psycopg gives up all prepared statements after a rollback, ours as well
            pooled.info.pop(PREPARED)
            return _run(raw, pooled.info, statement, values)


def _run(
    raw: psycopg.Connection[Any],
    about: dict[Any, Any],
    statement: tuple[bytes, bytes],
    values: Mapping[str, Any],
) -> bool:
    name, sql = statement
    prepared: set[bytes] = about.setdefault(PREPARED, set())
    if name not in prepared:
        _checked(raw.pgconn.prepare(name, sql), raw)
        prepared.add(name)
    encoding = raw.info.encoding
    given = [_coded(value, encoding) for value in values.values()]
    result = raw.pgconn.exec_prepared(name, given)  # type: ignore[arg-type]  # None is NULL
    return _checked(result, raw).command_tuples == 1


def _checked(result: "PGresult", raw: psycopg.Connection[Any]) -> "PGresult":
    if raw.closed:
        raise psycopg.OperationalError("the connection was lost")
    if result.status != pq.ExecStatus.COMMAND_OK:
        raise psycopg.errors.error_from_result(result, raw.info.encoding)
    return result


@cache
def _statement(table: type[Table], names: tuple[str, ...]) -> tuple[bytes, bytes]:
    """A name for the statement, and its SQL; what a column takes the server knows."""
    mapped = inspect(table)
    columns = ", ".join(_quoted(mapped.columns[name].name) for name in names)
    places = ", ".join(f"${number + 1}" for number in range(len(names)))
    into = _quoted(str(table.__tablename__))
    into += f" ({columns}) VALUES ({places})"
    sql = f"INSERT INTO {into} ON CONFLICT DO NOTHING"
    return f"genie_{abs(hash(sql)):x}".encode(), sql.encode()


def _coded(value: object, encoding: str) -> bytes | None:
    """A value as the text PostgreSQL reads; contracts and plain values as JSON."""
    if value is None:
        return None
    if isinstance(value, str):
        text = value
    elif isinstance(value, datetime):
        text = value.isoformat()
    elif isinstance(value, bool | int):
        text = str(value)
    elif isinstance(value, Contract):
        text = codec.encode(value).decode()
    else:
        text = msgspec.json.encode(value).decode()
    if "\0" in text:  # libpq would end the text there
        raise psycopg.DataError("PostgreSQL text fields cannot contain NUL bytes")
    return text.encode(encoding)
