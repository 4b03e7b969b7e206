"""The database's schema: is it this release's, and making it so."""

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

import migrations
from cloud_app.store.database import Database
from genie.errors import SettingsError

_UPGRADE_LOCK = 0x67656E6965  # any number, the same in every release: "genie"


def check(db: Database) -> None:
    """Raise `SettingsError` unless the schema is the one this release needs."""
    found, needed = current(db), newest()
    if found == needed:
        return
    raise SettingsError(
        f"database schema is at {found or 'nothing'}, this release needs {needed}; "
        "run `genie db upgrade`"
    )


def upgrade(db: Database, revision: str = "head") -> None:
    """Bring the schema to ``revision``; two at once wait for each other."""
    with db.connection() as connection:
        _lock(connection)
        command.upgrade(config(connection), revision)


def downgrade(db: Database, revision: str) -> None:
    """Take the schema back to ``revision``; ``base`` drops every table."""
    with db.connection() as connection:
        _lock(connection)
        command.downgrade(config(connection), revision)


def current(db: Database) -> str | None:
    """The revision the database is at, None when it is empty."""
    with db.reading() as session:
        return MigrationContext.configure(session.connection()).get_current_revision()


@cache
def newest() -> str | None:
    """The revision this release needs."""
    return ScriptDirectory.from_config(config()).get_current_head()


def config(connection: Connection | None = None) -> Config:
    """Alembic's settings; the scripts lie in the installed ``migrations`` package."""
    made = Config()
    folder = Path(migrations.__file__).parent
    made.set_main_option("script_location", str(folder).replace("%", "%%"))
    made.attributes["connection"] = connection
    return made


def _lock(connection: Connection) -> None:
    # SQLite's transaction already is the only writer.
    if connection.dialect.name == "postgresql":
        connection.execute(
            text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK}
        )
