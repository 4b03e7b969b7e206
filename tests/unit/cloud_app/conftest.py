"""A cloud on a SQLite file for every test that asks."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_app import store
from fixtures.clouds import Cloud


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with this release's schema; migrating takes longer than a test."""
    file = tmp_path_factory.mktemp("empty") / "genie.db"
    db = store.Database(f"sqlite:///{file}")
    store.schema.upgrade(db)
    db.dispose()
    return file


@pytest.fixture
def cloud(tmp_path: Path, empty_database: Path) -> Iterator[Cloud]:
    """A cloud with an empty database, an org ``acme`` and a clock that stands still."""
    file = tmp_path / "genie.db"
    shutil.copy(empty_database, file)
    made = Cloud(f"sqlite:///{file}")
    yield made
    made.close()
