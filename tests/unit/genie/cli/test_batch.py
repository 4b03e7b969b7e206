"""``genie batch`` as a person and as a script sees it."""

import json
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from click.testing import Result

from fixtures.twin_cloud import TwinCloud

Run = Callable[..., Result]

BATCH = {
    "id": "batch_1",
    "status": "in_progress",
    "model": "echo:small",
    "completion_window": "24h",
    "request_counts": {"total": 3, "completed": 1, "failed": 1},
}


@pytest.fixture
def cloud(cloud: TwinCloud) -> TwinCloud:
    """A cloud with one batch."""
    cloud.replies["POST /v1/files"] = {"id": "file-1"}
    cloud.replies["POST /v1/batches"] = BATCH
    cloud.replies["GET /v1/batches"] = {"object": "list", "data": [BATCH]}
    cloud.replies["GET /v1/batches/batch_1"] = BATCH
    return cloud


def test_each_line_of_prompts_is_a_request(
    run: Run, cloud: TwinCloud, tmp_path: Path
) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("one\n\ntwo\n")
    done = run("batch", "submit", str(path), "--prompts", "-p", "review")
    assert (done.exit_code, done.output) == (0, "batch_1\n")
    sent = cloud.requests[0].read().decode()
    assert '"content":"one"' in sent
    assert '"content":"two"' in sent
    assert sent.count('"persona":"review"') == 2


def test_a_file_of_requests_goes_up_as_it_is(
    run: Run, cloud: TwinCloud, tmp_path: Path
) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text('{"custom_id": "a"}\n')
    done = run("batch", "submit", str(path), "--window", "1h", "--json")
    assert json.loads(done.output)["id"] == "batch_1"
    assert b'{"custom_id": "a"}\n' in cloud.requests[0].read()
    assert cloud.sent["completion_window"] == "1h"


def test_a_persona_for_a_file_of_requests_is_wrong_usage(
    run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text("{}\n")
    done = run("batch", "submit", str(path), "-p", "review")
    assert done.exit_code == 2
    assert "--prompts" in done.output


def test_batches_are_listed_and_shown(run: Run, cloud: TwinCloud) -> None:
    assert run("batch").output.startswith("batch_1\tin_progress\t1\t1\t3\techo:small")
    assert "1 of 3" in run("batch", "show", "batch_1", terminal=True).output
    assert json.loads(run("batch", "show", "batch_1", "--json").output)["id"]


def test_waiting_ends_with_1_for_a_batch_that_did_not_complete(
    run: Run, cloud: TwinCloud
) -> None:
    cloud.replies["GET /v1/batches/batch_1"] = BATCH | {"status": "expired"}
    done = run("batch", "wait", "batch_1")
    assert done.exit_code == 1
    assert "batch_1\texpired" in done.output
    cloud.replies["GET /v1/batches/batch_1"] = BATCH | {"status": "completed"}
    assert run("batch", "wait", "batch_1").exit_code == 0


def test_results_are_a_line_each(run: Run, cloud: TwinCloud) -> None:
    ended = {"status": "cancelled", "output_file_id": "file-2"}
    cloud.replies["GET /v1/batches/batch_1"] = BATCH | ended
    body = {
        "object": "chat.completion",
        "choices": [{"message": {"content": "one\ntwo"}}],
    }
    good = {"custom_id": "a", "response": {"status_code": 200, "body": body}}
    bad = {"custom_id": "b", "error": {"code": "batch_cancelled", "message": "Late."}}
    text = f"{json.dumps(good)}\n{json.dumps(bad)}\n"
    cloud.replies["GET /v1/files/2/content"] = httpx2.Response(200, text=text)
    assert run("batch", "results", "batch_1").output == "a\tone two\nb\terror: Late.\n"
    rows = run("batch", "results", "batch_1", "--json").output
    assert json.loads(rows.splitlines()[1])["error"]["code"] == "batch_cancelled"


def test_cancel_says_what_became_of_it(run: Run, cloud: TwinCloud) -> None:
    cloud.replies["POST /v1/batches/batch_1/cancel"] = BATCH | {"status": "cancelling"}
    assert run("batch", "cancel", "batch_1").output == "batch_1\tcancelling\n"
