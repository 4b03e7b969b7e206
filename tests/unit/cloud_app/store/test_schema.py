"""This release can serve on the schema, or the error says what to run."""

from pathlib import Path

import pytest

from cloud_app import store
from cloud_app.store import schema
from fixtures.later import LATER, later_schema
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


def test_a_schema_that_a_later_release_added_to_is_served_and_left_alone(
    tmp_path: Path,
) -> None:
    db = store.Database(f"sqlite:///{tmp_path}/genie.db")
    schema.upgrade(db)
    later_schema(
        db,
        "ALTER TABLE job ADD COLUMN of_a_later_release TEXT",
        "ALTER TABLE org ADD COLUMN colour TEXT NOT NULL DEFAULT 'blue'",
        "CREATE TABLE notes (id INTEGER PRIMARY KEY)",
    )
    schema.check(db)
    schema.upgrade(db)
    assert schema.current(db) == LATER
    assert "later release" in schema.fitness(db)
    db.dispose()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("ALTER TABLE job DROP COLUMN fingerprint", "job.fingerprint is gone"),
        ("DROP TABLE model_fact", "model_fact.files is gone"),
        (
            "CREATE TABLE org2 AS SELECT * FROM org; DROP TABLE org; "
            "ALTER TABLE org2 RENAME TO org; "
            "ALTER TABLE org ADD COLUMN colour TEXT NOT NULL",
            "org.colour must be filled",
        ),
    ],
)
def test_a_later_schema_without_what_this_release_uses_says_what_is_wrong(
    tmp_path: Path, change: str, why: str
) -> None:
    db = store.Database(f"sqlite:///{tmp_path}/genie.db")
    schema.upgrade(db)
    later_schema(db, *change.split("; "))
    for start in (schema.check, schema.upgrade):
        with pytest.raises(SettingsError, match="start a newer release") as caught:
            start(db)
        assert why in caught.value.message
    db.dispose()


def test_a_later_schema_is_taken_back_by_its_own_release_only(tmp_path: Path) -> None:
    db = store.Database(f"sqlite:///{tmp_path}/genie.db")
    schema.upgrade(db)
    later_schema(db)
    with pytest.raises(SettingsError, match="use the release that made it"):
        schema.downgrade(db, "base")
    db.dispose()
