"""The client of the tests is no client of this machine's cloud."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """This machine's own settings stay out of it."""
    for name in ("GENIE_URL", "GENIE_API_KEY", "GENIE_TIMEOUT_S"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GENIE_HOME", str(tmp_path))
