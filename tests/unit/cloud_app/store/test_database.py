"""Sessions commit, roll back, and say when the database is away."""

import threading
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from cloud_app import store
from fixtures.clouds import NOON, Cloud
from genie.errors import DatabaseDown, SettingsError


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "not a database URL"),
        ("mysql://host/name", "starts with mysql"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
    ],
)
def test_a_wrong_url_says_what_to_write(url: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        store.Database(url)


def test_a_wrong_url_never_shows_its_password() -> None:
    with pytest.raises(SettingsError) as caught:
        store.Database("mysql://me:hunter2@host/name")
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg"])
def test_postgresql_is_spoken_through_psycopg(scheme: str) -> None:
    db = store.Database(f"{scheme}://me@127.0.0.1/name")
    assert db.dialect == "postgresql"
    assert db.url.drivername == "postgresql+psycopg"


def test_a_session_that_fails_leaves_nothing(cloud: Cloud) -> None:
    with pytest.raises(RuntimeError), cloud.ctx.db.session() as session:
        store.orgs.insert(session, "globex", "Globex", NOON)
        raise RuntimeError("after the insert")
    with cloud.ctx.db.reading() as session:
        assert store.orgs.by_slug(session, "globex") is None


def test_sqlite_is_set_up_for_many_readers_and_one_writer(cloud: Cloud) -> None:
    with cloud.ctx.db.reading() as session:
        asked = {
            name: session.connection().execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert asked == {
        "journal_mode": "wal",
        "synchronous": 1,
        "foreign_keys": 1,
        "busy_timeout": 5000,
    }


def test_a_reader_waits_for_no_writer(cloud: Cloud) -> None:
    with cloud.ctx.db.session() as writing:
        store.orgs.insert(writing, "globex", "Globex", NOON)
        with cloud.ctx.db.reading() as session:
            assert store.orgs.by_slug(session, "globex") is None


def test_writers_wait_for_each_other(cloud: Cloud) -> None:
    def add(number: int) -> None:
        with cloud.ctx.db.session() as session:
            assert store.orgs.by_slug(session, f"org-{number}") is None
            store.orgs.insert(session, f"org-{number}", "An org", NOON)

    threads = [threading.Thread(target=add, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    with cloud.ctx.db.reading() as session:
        found = [store.orgs.by_slug(session, f"org-{n}") for n in range(16)]
    assert all(found)


def test_a_database_that_is_away_is_unavailable(tmp_path: Path) -> None:
    db = store.Database(f"sqlite:///{tmp_path}/nowhere/genie.db")
    with pytest.raises(DatabaseDown, match="GENIE_DATABASE_URL") as caught:
        db.ping()
    assert (caught.value.http_status, caught.value.retryable) == (503, True)
    (tmp_path / "nowhere").mkdir()
    db.ping()
    db.dispose()


def test_a_mistake_of_ours_is_not_an_outage(cloud: Cloud) -> None:
    with pytest.raises(OperationalError), cloud.ctx.db.reading() as session:
        session.connection().execute(text("SELECT * FROM nothing"))
