"""A database, SQLite or PostgreSQL: its sessions, and what being away looks like."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    DisconnectionError,
    InterfaceError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry, NullPool, PoolResetState
from sqlmodel import Session

from genie.errors import DatabaseDown, SettingsError

CONNECT_TIMEOUT_S = 3
POOL_WAIT_S = 5.0
RESTED_S = 1.0
RETRY_AFTER_S = 2.0

_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA busy_timeout = 5000",
)
_BEGIN = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "BEGIN"}
"""What begins a transaction that may write: no driver of ours begins by itself."""

_SQLITE_OUTAGES = ("locked", "busy", "unable to open", "disk i/o", "full", "readonly")


class Database:
    """A database by URL: ``sqlite:////path`` or ``postgresql://user@host/name``.

    Nothing is connected until the first session. Every session raises `DatabaseDown`
    when the database cannot be reached, and works again when it is back.
    """

    def __init__(self, url: str) -> None:
        self.url = _checked(url)
        self._engine = _engine(self.url)
        self._writing = self._engine.execution_options(genie_begin=_BEGIN[self.dialect])

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return self._engine.dialect.name

    @contextmanager
    def session(self) -> Iterator[Session]:
        """One transaction that may write: commits at the end, rolls back on an error.

        On SQLite it takes the write lock at once: a transaction that reads first and
        writes later would fail instead of wait.
        """
        with _translated(), Session(self._writing, expire_on_commit=False) as session:
            yield session
            session.commit()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that only reads; on SQLite it waits for no writer."""
        with _translated(), Session(self._engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection with a transaction, where a session's own work would count."""
        with _translated(), self._writing.begin() as connection:
            yield connection

    @contextmanager
    def single(self) -> Iterator[Connection]:
        """A connection each statement of which commits by itself, in one round trip.

        On SQLite, where there is nothing to save, one transaction.
        """
        if self.dialect == "sqlite":
            with self.connection() as connection:
                yield connection
            return
        with _translated(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """A connection of its own to change the schema on, closed with its locks.

        On SQLite all is one transaction; on PostgreSQL nothing is begun, for an index
        can only be built beside other work where there is no transaction.
        """
        if self.dialect == "sqlite":
            with self.connection() as connection:
                yield connection
            return
        engine = create_engine(self.url, poolclass=NullPool)
        with _translated(), engine.connect() as connection:
            yield connection

    @contextmanager
    def cursor(self) -> Iterator[psycopg.Cursor[Any]]:
        """A cursor of psycopg, each statement of which commits by itself."""
        with _translated():
            pooled = self._engine.raw_connection()
            raw: psycopg.Connection[Any] = pooled.dbapi_connection  # type: ignore[assignment]  # ours is psycopg
            try:
                # kept as long as its connection: making one is a seventh of a row
                if "cursor" not in pooled.info:
                    pooled.info["cursor"] = raw.cursor()
                yield pooled.info["cursor"]
            except psycopg.Error as error:
                if raw.closed:
                    pooled.invalidate(error)
                raise
            finally:
                pooled.close()

    def ping(self) -> None:
        """Ask the database for nothing; raises `DatabaseDown`."""
        with self.reading() as session:
            session.connection().execute(text("SELECT 1"))

    def dispose(self) -> None:
        """Close every idle connection."""
        self._engine.dispose()


def _checked(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise SettingsError(
            "GENIE_DATABASE_URL is not a database URL; use sqlite:////path/genie.db or "
            "postgresql://user:password@host/name"
        ) from error
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise SettingsError(
            f"GENIE_DATABASE_URL starts with {backend}; use sqlite or postgresql"
        )
    if parsed.database in (None, "", ":memory:"):
        raise SettingsError(
            "GENIE_DATABASE_URL names no file; use sqlite:////path/genie.db"
        )
    return parsed


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        engine = create_engine(
            url, json_serializer=_dumps, json_deserializer=msgspec.json.decode
        )
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin)
        return engine
    engine = create_engine(
        url,
        pool_size=10,
        max_overflow=10,
        pool_timeout=POOL_WAIT_S,
        pool_reset_on_return=None,  # `_reset` does, where there is something to undo
        json_serializer=_dumps,
        json_deserializer=msgspec.json.decode,
        # a host that vanished is noticed in seconds, not in the kernel's 15 minutes
        connect_args={
            "autocommit": True,  # what only reads, or is one statement, begins nothing
            "connect_timeout": CONNECT_TIMEOUT_S,
            "tcp_user_timeout": 10_000,
        },
    )
    event.listen(engine, "begin", _begin)
    event.listen(engine, "reset", _reset)
    event.listen(engine, "checkin", _note_use)
    event.listen(engine, "checkout", _check_rested)
    return engine


def _reset(raw: Any, _entry: ConnectionPoolEntry, _state: PoolResetState) -> None:
    if raw.info.transaction_status != TransactionStatus.IDLE:
        raw.rollback()


def _note_use(_raw: object, entry: ConnectionPoolEntry) -> None:
    entry.info["used_at"] = time.monotonic()


def _check_rested(raw: Any, entry: ConnectionPoolEntry, _proxy: object) -> None:
    """Ask a connection that has rested whether it still lives, before it is used.

    One used a moment ago is not asked: that would be a third of a small request's time.
    """
    if time.monotonic() - entry.info.get("used_at", time.monotonic()) < RESTED_S:
        return
    try:
        raw.execute("SELECT 1")
    except psycopg.Error as error:
        raise DisconnectionError("it died while it rested") from error


def _dumps(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _prepare_sqlite(raw: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    raw.isolation_level = None  # the driver begins nothing; _begin does
    for pragma in _PRAGMAS:
        raw.execute(pragma)


def _begin(connection: Connection) -> None:
    """Begin what may write. What only reads begins on SQLite alone, for one view."""
    reads = "BEGIN" if connection.dialect.name == "sqlite" else None
    begin = connection.get_execution_options().get("genie_begin", reads)
    if begin is not None:
        connection.exec_driver_sql(begin)


@contextmanager
def _translated() -> Iterator[None]:
    """Turn "the database is away" into `DatabaseDown`; other errors are ours."""
    try:
        yield
    except PoolTimeout as error:
        raise DatabaseDown(
            "the database has no free connection; try again shortly",
            retry_after_s=RETRY_AFTER_S,
        ) from error
    except DBAPIError as error:
        if not _is_outage(error):
            raise
        raise _down() from error
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise _down() from error


def _down() -> DatabaseDown:
    return DatabaseDown(
        "the database cannot be reached; start it, or check GENIE_DATABASE_URL",
        retry_after_s=RETRY_AFTER_S,
    )


def _is_outage(error: DBAPIError) -> bool:
    if isinstance(error.orig, sqlite3.Error):
        message = str(error.orig).lower()
        return any(word in message for word in _SQLITE_OUTAGES)
    return error.connection_invalidated or isinstance(
        error, OperationalError | InterfaceError
    )
