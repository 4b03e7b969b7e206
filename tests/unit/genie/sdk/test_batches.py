"""Batches and files from the SDK's side, against a cloud in this process."""

import json
from pathlib import Path

import httpx2
import pytest

from fixtures.twin_cloud import TwinCloud
from genie.contracts.batch import BatchState
from genie.errors import (
    AnswerMismatch,
    BadRequest,
    ContextTooLong,
    JobCancelled,
    JobFailed,
    JobTimeout,
)
from genie.sdk.batches import lines, result_of

FILE = {"id": "file-1", "bytes": 3, "filename": "requests.jsonl", "purpose": "batch"}


def batch(status: str = "validating", **more: object) -> dict[str, object]:
    return {"id": "batch_1", "status": status, **more}


def row(custom_id: str, text: str) -> str:
    choice = {"message": {"content": text}, "finish_reason": "stop"}
    head = {"object": "chat.completion", "id": "chatcmpl-1", "model": "echo:small"}
    body = {**head, "choices": [choice]}
    return json.dumps(
        {"custom_id": custom_id, "response": {"status_code": 200, "body": body}}
    )


@pytest.fixture
def cloud() -> TwinCloud:
    """A cloud that takes uploads and batches."""
    made = TwinCloud()
    made.replies["POST /v1/files"] = FILE
    made.replies["POST /v1/batches"] = batch()
    return made


def test_prompts_become_numbered_lines_with_their_options() -> None:
    made = list(lines(["hi", "ho"], {"persona": "review", "max_tokens": 8}))
    assert [one["custom_id"] for one in made] == ["1", "2"]
    assert made[0]["url"] == "/v1/chat/completions"
    assert made[0]["body"] == {
        "messages": [{"role": "user", "content": "hi"}],
        "mode": "sync",
        "persona": "review",
        "max_tokens": 8,
    }


def test_a_batch_uploads_its_lines_and_says_how_long_it_may_take(
    cloud: TwinCloud,
) -> None:
    with cloud.client() as client:
        made = client.batch({"a": "hi"}, window="1h", metadata={"ticket": "7"})
    upload, create = cloud.requests
    assert b'"custom_id":"a"' in upload.read()
    assert b'name="purpose"\r\n\r\nbatch' in upload.read()
    assert upload.headers["content-length"] == str(len(upload.read()))
    assert json.loads(create.content) == {
        "input_file_id": "file-1",
        "endpoint": "/v1/chat/completions",
        "completion_window": "1h",
        "metadata": {"ticket": "7"},
    }
    assert create.headers["idempotency-key"]
    assert (made.id, made.status) == ("batch_1", BatchState.VALIDATING)


def test_an_option_that_does_not_exist_is_a_type_error(cloud: TwinCloud) -> None:
    with cloud.client() as client, pytest.raises(TypeError, match="windw"):
        client.batch(["hi"], windw="1h")  # type: ignore[call-arg]  # the mistake
    assert cloud.requests == []


def test_a_file_that_is_not_there_is_named(cloud: TwinCloud, tmp_path: Path) -> None:
    with cloud.client() as client, pytest.raises(BadRequest, match=r"no\.jsonl"):
        client.batch(tmp_path / "no.jsonl")


def test_an_upload_the_cloud_was_too_busy_for_is_sent_whole_once_more(
    cloud: TwinCloud, tmp_path: Path
) -> None:
    busy = httpx2.Response(503, json={"error": {"message": "busy"}})
    cloud.replies["POST /v1/files"] = iter([busy, FILE])
    path = tmp_path / "work.jsonl"
    path.write_bytes(b"one\n")
    with cloud.client(retry_s=10) as client:
        assert client.files.upload(path).id == "file-1"
    first, second = (request.read() for request in cloud.requests)
    assert b"one\n" in first
    assert b"one\n" in second


def test_results_come_by_custom_id_answers_first(cloud: TwinCloud) -> None:
    ended = batch("completed", output_file_id="file-2", error_file_id="file-3")
    cloud.replies["GET /v1/batches/batch_1"] = iter([batch("in_progress"), ended])
    cloud.replies["GET /v1/files/2/content"] = httpx2.Response(
        200, text=f"{row('a', 'one')}\n{row('b', 'two')}\n"
    )
    never = {"custom_id": "c", "response": None, "error": {"message": "too late"}}
    cloud.replies["GET /v1/files/3/content"] = httpx2.Response(
        200, text=json.dumps(never)
    )
    with cloud.client() as client:
        results = list(client.batch(["x"]).results())
    assert [one.custom_id for one in results] == ["a", "b", "c"]
    assert [one.text for one in results[:2]] == ["one", "two"]
    with pytest.raises(JobCancelled, match="too late"):
        _ = results[2].text


def test_a_line_that_failed_carries_the_class_of_its_error() -> None:
    error = {"message": "Too long.", "code": "context_length_exceeded"}
    response = {"status_code": 400, "body": {"error": error}, "request_id": "r1"}
    found = result_of(json.dumps({"custom_id": "a", "response": response}))
    assert isinstance(found.error, ContextTooLong)
    assert found.error.request_id == "r1"


def test_a_wrong_input_says_which_lines(cloud: TwinCloud) -> None:
    errors = {"data": [{"line": n, "message": "no JSON"} for n in range(1, 6)]}
    cloud.replies["GET /v1/batches/batch_1"] = batch("failed", errors=errors)
    with cloud.client() as client, pytest.raises(JobFailed, match=r"line 1.*2 more"):
        list(client.batch(["x"]).results())


def test_waiting_gives_up_after_its_timeout_and_the_batch_goes_on(
    cloud: TwinCloud,
) -> None:
    cloud.replies["GET /v1/batches/batch_1"] = batch("in_progress")
    with cloud.client() as client, pytest.raises(JobTimeout) as late:
        client.batch(["x"]).wait(timeout=0)
    assert late.value.error_code == "wait_timeout"


def test_a_cancelled_batch_knows_it(cloud: TwinCloud) -> None:
    cloud.replies["POST /v1/batches/batch_1/cancel"] = batch("cancelling")
    with cloud.client() as client:
        assert client.batch(["x"]).cancel().status is BatchState.CANCELLING


def test_files_are_listed_saved_and_deleted(cloud: TwinCloud, tmp_path: Path) -> None:
    cloud.replies["GET /v1/files"] = {"object": "list", "data": [FILE]}
    cloud.replies["GET /v1/files/1"] = FILE
    cloud.replies["GET /v1/files/1/content"] = httpx2.Response(200, text="a\nb\n")
    cloud.replies["DELETE /v1/files/1"] = {"id": "file-1", "deleted": True}
    with cloud.client() as client:
        assert [file.id for file in client.files.list()] == ["file-1"]
        assert client.files.get("file-1").bytes == 3
        saved = client.files.save("file-1", tmp_path / "out.jsonl")
        assert saved.read_text() == "a\nb\n"
        client.files.delete("file-1")
    assert cloud.requests[-1].method == "DELETE"


def test_a_batch_of_a_schema_gives_values_and_names_what_does_not_match(
    cloud: TwinCloud,
) -> None:
    ended = batch("completed", output_file_id="file-2")
    cloud.replies["GET /v1/batches/batch_1"] = ended
    cloud.replies["GET /v1/files/2/content"] = httpx2.Response(
        200, text=f"{row('a', '[1, 2]')}\n{row('b', '[1, ')}\n"
    )
    schema = {"type": "array", "items": {"type": "integer"}}
    with cloud.client() as client:
        made = client.batch({"a": "Count.", "b": "Count on."}, schema=schema)
        first, second = made.results()
    upload = cloud.requests[0].read()
    assert upload.count(b'"response_format":{"type":"json_schema"') == 2
    assert first.result is not None
    assert first.result.parsed == [1, 2]
    assert isinstance(second.error, AnswerMismatch)
    assert second.error.text == "[1, "


def test_a_file_says_its_schemas_itself(cloud: TwinCloud, tmp_path: Path) -> None:
    path = tmp_path / "work.jsonl"
    path.write_bytes(b"{}\n")
    with (
        cloud.client() as client,
        pytest.raises(TypeError, match="a file sets response_format"),
    ):
        client.batch(path, schema={"type": "object"})
