"""A way to run the command against a cloud in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fixtures.twin_cloud import URL, TwinCloud
from genie.cli.output import CommandSession
from genie.cli.root import genie
from genie.sdk.credentials import Credentials, save

Run = Callable[..., Result]


@pytest.fixture
def cloud() -> TwinCloud:
    """A cloud that knows nothing yet; give it ``replies``."""
    return TwinCloud()


@pytest.fixture
def run(cloud: TwinCloud) -> Run:
    """Run ``genie`` with these arguments; ``terminal=True`` for a person's view."""

    def invoke(*args: str, terminal: bool = False, stdin: str = "") -> Result:
        session = CommandSession(connect=cloud.client, is_terminal=lambda: terminal)
        return CliRunner().invoke(genie, args, obj=session, input=stdin)

    return invoke


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user's genie folder with a local fleet, and no other settings."""
    for name in (
        "GENIE_URL",
        "GENIE_API_KEY",
        "GENIE_BROKER_URL",
        "GENIE_DATABASE_URL",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GENIE_HOME", str(tmp_path))
    save(tmp_path, Credentials(url=URL, api_key="sk-genie-a-1"))
    return tmp_path
