"""Bars: for people who look at a terminal, and for nobody else."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from fixtures.twin_cloud import TwinCloud
from genie.api_types import JobAnswer
from genie.contracts.inference import JobState
from genie.sdk import many
from genie.sdk.jobs import Job
from genie.sdk.progress import bar

TEXT = {"object": "text_completion", "choices": [{"text": "x"}]}
DONE = {"id": "1", "status": "completed", "result": TEXT}


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it to look at what goes to standard error, once it is captured."""

    def sit_down() -> None:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        monkeypatch.setenv("TERM", "xterm")

    monkeypatch.delenv("GENIE_PROGRESS", raising=False)
    return sit_down


def test_a_person_sees_how_far_it_is(
    look: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    look()
    with bar("jobs", 3, None) as shown:
        shown.advance()
        shown.at(2, 4)
    said = capsys.readouterr()
    assert "jobs" in said.err
    assert "2/4" in said.err
    assert said.out == ""


@pytest.mark.parametrize("how", ["asked", "setting"])
def test_whoever_wants_none_gets_none(
    how: str,
    look: Callable[[], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look()
    monkeypatch.setenv("GENIE_PROGRESS", "0" if how == "setting" else "1")
    with bar("jobs", 3, None if how == "setting" else False) as shown:
        shown.advance()
    assert capsys.readouterr().err == ""


def test_a_log_file_gets_none_and_rich_is_not_loaded() -> None:
    code = """
import sys
from genie.sdk.progress import bar
with bar("jobs", 3, True) as shown:
    shown.advance()
    shown.at(1, 2)
print("rich" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert (done.stdout.strip(), done.stderr) == ("False", "")


def test_long_work_is_shown_and_its_results_stay_clean(
    look: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    look()
    twin = TwinCloud()
    twin.replies = {
        "POST /v1/chat/completions": DONE,
        "GET /v1/jobs": {"data": [DONE]},
        "GET /v1/jobs/1": DONE,
        "GET /v1/batches/b": {"id": "b", "status": "completed"},
    }
    client = twin.client()
    job = Job(client._cloud, JobAnswer(id="1", status=JobState.QUEUED))
    assert [result.text for result in many.gather([job])] == ["x"]
    assert "1/1" in capsys.readouterr().err
    assert len(list(client.map(["a", "b"]))) == 2
    assert "2/2" in capsys.readouterr().err
    client.batches.get("b").wait()
    assert "requests" in capsys.readouterr().err
    assert len(list(client.map(["a", "b"], progress=False))) == 2
    assert capsys.readouterr().err == ""
