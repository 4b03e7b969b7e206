"""Migrations up, unchanged, down and up again, on both databases."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import inspect

from cloud_app import store
from cloud_app.store import Database, schema
from cloud_app.store.tables import Table
from fixtures.clouds import NOON
from fixtures.nodes import PostgresNode

TABLES = {table.name for table in Table.metadata.sorted_tables}


@pytest.fixture(params=["sqlite", "postgresql"])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        made = Database(f"sqlite:///{tmp_path}/genie.db")
    else:
        node: PostgresNode = request.getfixturevalue("postgres")
        node.start()
        made = Database(node.create_database())
    yield made
    made.dispose()


def test_migrations_go_up_down_and_up_again(db: Database) -> None:
    schema.upgrade(db)
    assert _tables(db) == TABLES | {"alembic_version"}
    schema.downgrade(db, "base")
    assert _tables(db) == {"alembic_version"}
    schema.upgrade(db)
    schema.check(db)
    assert _tables(db) == TABLES | {"alembic_version"}


def test_migrations_give_exactly_the_tables_of_the_code(db: Database) -> None:
    schema.upgrade(db)
    with db.connection() as connection:
        command.check(schema.config(connection))  # raises on any difference


def test_two_upgrades_at_once_both_succeed(db: Database) -> None:
    errors: list[Exception] = []

    def upgrade() -> None:
        other = Database(db.url.render_as_string(hide_password=False))
        try:
            schema.upgrade(other)
        except Exception as error:  # noqa: BLE001  # shown by the main thread
            errors.append(error)
        finally:
            other.dispose()

    threads = [threading.Thread(target=upgrade) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    schema.check(db)


def test_an_upgrade_keeps_what_is_stored(db: Database) -> None:
    schema.upgrade(db)
    with db.session() as session:
        store.orgs.insert(session, "acme", "Acme", NOON)
    schema.upgrade(db)
    with db.reading() as session:
        assert store.orgs.by_slug(session, "acme") is not None


def test_the_brain_does_not_start_on_an_old_schema(tmp_path: Path) -> None:
    environ = {
        "GENIE_DATABASE_URL": f"sqlite:///{tmp_path}/old.db",
        "GENIE_BROKER_URL": "memory://",
        "GENIE_SECRET_KEY": "a long random text",
        "PATH": "",
    }
    ran = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "cloud_app", "worker", "-l", "ERROR"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode != 0
    assert "run `genie db upgrade`" in ran.stdout + ran.stderr


def _tables(db: Database) -> set[str]:
    with db.connection() as connection:
        return set(inspect(connection).get_table_names())
