"""A cloud on a SQLite file for every test that asks."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.clouds import Cloud


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    """A cloud with an empty database, an org ``acme`` and a clock that stands still."""
    made = Cloud(f"sqlite:///{tmp_path / 'genie.db'}")
    yield made
    made.close()
