"""The database's schema: can this release serve on it, and bringing it up to date.

A release only adds to the schema (docs/releases.md), so a process of the release before
goes on serving after the upgrade, and may start again.
"""

import time
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

import migrations
from cloud_app.store.database import Database
from cloud_app.store.tables import Table
from genie.errors import SettingsError

LOCK_EVERY_S = 0.2
"""How often a second upgrade asks whether the first has ended."""

_UPGRADE_LOCK = 0x67656E6965  # any number, the same in every release: "genie"


def check(db: Database) -> None:
    """Raise `SettingsError` unless this release can serve on the schema.

    It can on its own, and on one of a later release that still holds all it uses.
    """
    found, needed = current(db), newest()
    if found == needed:
        return
    if _is_known(found):
        raise SettingsError(
            f"database schema is at {found or 'nothing'}, this release needs {needed}; "
            "run `genie db upgrade`"
        )
    if unmet := _unmet(db):
        raise SettingsError(
            f"database schema is at {found}, this release needs {needed}, and "
            f"{', '.join(unmet)}; start a newer release"
        )


def fitness(db: Database) -> str:
    """How a schema on which this release can serve relates to it, for people."""
    if current(db) == newest():
        return ", as this release needs"
    return f", of a later release; this one needs {newest()} and can serve"


def _unmet(db: Database) -> list[str]:
    """What keeps this release from reading and writing the tables as they are."""
    with db.reading() as session:
        tables = inspect(session.connection()).get_multi_columns()
    found = {name: {c["name"]: c for c in tables[_, name]} for _, name in tables}
    unmet = []
    for name, table in sorted(Table.metadata.tables.items()):
        there, ours = found.get(name, {}), [c.name for c in table.columns]
        unmet += [f"{name}.{gone} is gone" for gone in ours if gone not in there]
        unmet += [
            f"{name}.{column['name']} must be filled"
            for column in there.values()
            if column["name"] not in ours
            and not column["nullable"]
            and column["default"] is None
        ]
    return unmet


def upgrade(db: Database, revision: str = "head") -> None:
    """Bring the schema to ``revision``; two at once wait for each other.

    What a later release made stays as it is; raises `SettingsError` if this release
    cannot serve on it.
    """
    with db.migrating() as connection:
        _lock(connection)
        if _is_known(current(db)):
            command.upgrade(config(connection), revision)
        else:
            check(db)


def downgrade(db: Database, revision: str) -> None:
    """Take the schema back to ``revision``; ``base`` drops every table.

    Raises `SettingsError` for a schema of a later release.
    """
    with db.migrating() as connection:
        _lock(connection)
        if not _is_known(found := current(db)):
            raise SettingsError(
                f"database schema is at {found}, which this release does not know; "
                "use the release that made it"
            )
        command.downgrade(config(connection), revision)


def current(db: Database) -> str | None:
    """The revision the database is at, None when it is empty."""
    with db.reading() as session:
        context = MigrationContext.configure(session.connection())
        return context.get_current_revision()


@cache
def newest() -> str | None:
    """The revision this release needs."""
    return ScriptDirectory.from_config(config()).get_current_head()


def _is_known(revision: str | None) -> bool:
    return revision is None or revision in _known()


@cache
def _known() -> frozenset[str]:
    """Every revision this release has a migration to."""
    scripts = ScriptDirectory.from_config(config())
    return frozenset(script.revision for script in scripts.walk_revisions())


def config(connection: Connection | None = None) -> Config:
    """Alembic's settings; the scripts lie in the installed ``migrations`` package."""
    made = Config()
    folder = Path(migrations.__file__).parent
    made.set_main_option("script_location", str(folder).replace("%", "%%"))
    made.attributes["connection"] = connection
    return made


def _lock(connection: Connection) -> None:
    """Be the only one that changes the schema for as long as the connection lives."""
    if connection.dialect.name == "sqlite":
        return  # its transaction already is the only writer
    statement = text("SELECT pg_try_advisory_lock(:key)").bindparams(key=_UPGRADE_LOCK)
    # Asked, not waited for: an index that is built beside other work waits for every
    # statement that began before it, and so would wait for us.
    while not connection.execute(statement).scalar():
        connection.rollback()
        time.sleep(LOCK_EVERY_S)
    connection.commit()
