"""The release before is there, or the error says what to fetch."""

from pathlib import Path

import pytest

from fixtures import releases
from fixtures.releases import Release, ReleaseMissing, previous

pytestmark = pytest.mark.timeout(900)  # its environment is built on first use


def test_a_clone_without_the_history_says_what_to_fetch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    named = tmp_path / "previous"
    named.write_text(f"{'0' * 40}\n", encoding="ascii")
    monkeypatch.setattr(releases, "PREVIOUS", named)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ReleaseMissing, match="git fetch --unshallow"):
        previous()


def test_the_release_before_runs_its_own_code(release: Release) -> None:
    assert (release.tree / "constraints.txt").exists()
    assert release.python.exists()
    assert release.commit == previous().commit
