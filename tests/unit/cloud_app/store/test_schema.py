"""The schema is this release's, or the error says what to run."""

from pathlib import Path

import pytest

from cloud_app import store
from cloud_app.store import schema
from genie.errors import SettingsError


def test_an_empty_database_is_upgraded_by_one_command(tmp_path: Path) -> None:
    db = store.Database(f"sqlite:///{tmp_path}/genie.db")
    with pytest.raises(SettingsError, match=r"at nothing.*`genie db upgrade`"):
        schema.check(db)
    schema.upgrade(db)
    schema.check(db)
    schema.upgrade(db)
    assert schema.current(db) == schema.newest()
    db.dispose()


def test_an_older_schema_names_both_revisions(tmp_path: Path) -> None:
    db = store.Database(f"sqlite:///{tmp_path}/genie.db")
    schema.upgrade(db)
    schema.downgrade(db, "base")
    with pytest.raises(SettingsError, match=f"this release needs {schema.newest()}"):
        schema.check(db)
    db.dispose()
