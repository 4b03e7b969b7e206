"""Migrations up, unchanged, down and up again, on both databases."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import inspect, text

from cloud_app import store
from cloud_app.store import Database, schema
from cloud_app.store.tables import Table
from fixtures.clouds import NOON
from fixtures.fleet import wait_until
from fixtures.nodes import PostgresNode
from genie.errors import DatabaseDown

WRITE = text("UPDATE job SET dropped = dropped")
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


@pytest.fixture
def fleet(postgres: PostgresNode) -> Iterator[Database]:
    """A PostgreSQL database that lacks this release's index of labelled jobs."""
    postgres.start()
    made = Database(postgres.create_database())
    schema.upgrade(made, "0007")
    yield made
    made.dispose()


def test_jobs_are_written_while_their_index_is_built(fleet: Database) -> None:
    with ThreadPoolExecutor() as pool:
        with fleet.connection() as writer:  # whom the build has to wait for
            writer.execute(WRITE)
            upgrade = pool.submit(schema.upgrade, fleet)
            wait_until(lambda: _builder(fleet) is not None, 10, "the build waits")
            with fleet.connection() as other:
                other.execute(text("SET LOCAL lock_timeout = '2s'"))
                other.execute(WRITE)
        upgrade.result(30)
    assert _is_index_valid(fleet)


def test_a_build_that_was_broken_off_is_begun_anew(fleet: Database) -> None:
    with ThreadPoolExecutor() as pool:
        with fleet.connection() as writer:
            writer.execute(WRITE)
            upgrade = pool.submit(schema.upgrade, fleet)
            wait_until(lambda: _builder(fleet) is not None, 10, "the build waits")
            with fleet.connection() as other:
                stop = text("SELECT pg_cancel_backend(:pid)")
                other.execute(stop, {"pid": _builder(fleet)})
        with pytest.raises(DatabaseDown):
            upgrade.result(30)
    assert not _is_index_valid(fleet)
    schema.upgrade(fleet)
    assert _is_index_valid(fleet)
    schema.check(fleet)


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


def _builder(db: Database) -> int | None:
    """The process of the server that builds an index."""
    statement = "SELECT pid FROM pg_stat_progress_create_index"
    with db.reading() as session:
        return session.connection().execute(text(statement)).scalar()


def _is_index_valid(db: Database) -> bool:
    statement = (
        "SELECT indisvalid FROM pg_index WHERE indexrelid = CAST(:name AS regclass)"
    )
    with db.reading() as session:
        name = {"name": "ix_job_org_id_label_id"}
        return bool(session.connection().execute(text(statement), name).scalar_one())


def _tables(db: Database) -> set[str]:
    with db.connection() as connection:
        return set(inspect(connection).get_table_names())
