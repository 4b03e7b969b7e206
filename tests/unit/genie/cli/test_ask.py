"""`genie ask` and `genie submit`."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from click.testing import Result

from fixtures.twin_cloud import TwinCloud
from genie.cli.ask import WaitLine
from genie.contracts.inference import Timing, Usage
from genie.sdk.streams import Waiting

Run = Callable[..., Result]

CHAT = "POST /v1/chat/completions"
CHUNK = "chat.completion.chunk"
DELIVERY = {
    "job_id": "01a",
    "worker": "gpu-1",
    "locality": "local",
    "tokens_per_s": 9.5,
}
ANSWER = {
    "id": "chatcmpl-01a",
    "model": "smollm2:135m",
    "object": "chat.completion",
    "choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    "genie": DELIVERY,
}
QUEUED = {"id": "chatcmpl-01a", "status": "queued"}
DONE = {"id": "01a", "status": "completed", "result": ANSWER}


def streamed() -> httpx2.Response:
    chunks: list[dict[str, object]] = [
        {"object": CHUNK, "choices": [{"delta": {"content": text}}]}
        for text in ("Hel", "lo")
    ]
    end = {"delta": {}, "finish_reason": "stop"}
    last = {**ANSWER, "object": CHUNK, "choices": [end]}
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in (*chunks, last)]
    text = "".join([": queued position=1 eta_s=2.0\n\n", *lines, "data: [DONE]\n\n"])
    return httpx2.Response(200, text=text, headers={"x-genie-job-id": "01a"})


def test_a_pipe_gets_the_text_and_nothing_else(run: Run, cloud: TwinCloud) -> None:
    cloud.replies[CHAT] = ANSWER
    done = run("ask", "hi", "-p", "review", "--stop", "END", "--max-tokens", "8")
    assert (done.stdout, done.stderr, done.exit_code) == ("Hello\n", "", 0)
    assert cloud.sent["persona"] == "review"
    assert cloud.sent["stop"] == ["END"]
    assert cloud.sent["max_tokens"] == 8
    assert cloud.sent["mode"] == "sync"


def test_a_terminal_gets_the_text_as_it_is_written(run: Run, cloud: TwinCloud) -> None:
    cloud.replies[CHAT] = streamed()
    done = run("ask", "hi", terminal=True)
    assert cloud.sent["mode"] == "stream"
    assert done.stdout == "Hello\n"
    assert "smollm2:135m on gpu-1 (local) · 2 tokens · 9.5 tokens/s" in done.stderr


def test_streaming_can_be_switched_on_and_off(run: Run, cloud: TwinCloud) -> None:
    cloud.replies[CHAT] = iter([streamed(), ANSWER])
    assert run("ask", "hi", "--stream").stdout == "Hello\n"
    assert run("ask", "hi", "--no-stream", terminal=True).stdout == "Hello\n"
    modes = [json.loads(request.content)["mode"] for request in cloud.requests]
    assert modes == ["stream", "sync"]


def test_json_holds_all_of_the_result(run: Run, cloud: TwinCloud) -> None:
    cloud.replies[CHAT] = ANSWER
    found = json.loads(run("ask", "hi", "--json", terminal=True).stdout)
    assert found["text"] == "Hello"
    assert found["worker"] == "gpu-1"
    assert found["usage"]["completion_tokens"] == 2
    assert found["usage"].keys() == set(Usage.__struct_fields__)
    assert found["timing"].keys() == set(Timing.__struct_fields__)


def test_standard_input_joins_the_prompt(run: Run, cloud: TwinCloud) -> None:
    cloud.replies[CHAT] = ANSWER
    run("ask", "Review this:", stdin="a diff\n")
    assert cloud.sent["messages"] == [
        {"role": "user", "content": "Review this:\n\na diff"}
    ]
    run("ask", stdin="only this")
    assert cloud.sent["messages"] == [{"role": "user", "content": "only this"}]


def test_nothing_to_ask_is_wrong_usage(run: Run) -> None:
    done = run("ask")
    assert done.exit_code == 2
    assert "give a prompt, or text on standard input" in done.stderr


def test_a_smaller_model_than_wanted_is_always_disclosed(
    run: Run, cloud: TwinCloud
) -> None:
    cloud.replies[CHAT] = {**ANSWER, "model_substituted": "qwen3:4b"}
    done = run("ask", "hi")
    assert done.stdout == "Hello\n"
    assert "smollm2:135m answered instead of qwen3:4b" in done.stderr


def test_submitting_prints_the_id_and_nothing_else(run: Run, cloud: TwinCloud) -> None:
    cloud.replies[CHAT] = QUEUED
    done = run("submit", "hi", "--label", "night")
    assert done.stdout == "01a\n"
    assert (cloud.sent["mode"], cloud.sent["label"]) == ("async", "night")
    assert json.loads(run("submit", "hi", "--json").stdout)["status"] == "queued"


def test_submitting_can_wait_for_the_answer(run: Run, cloud: TwinCloud) -> None:
    cloud.replies = {CHAT: QUEUED, "GET /v1/jobs/01a": DONE}
    assert run("submit", "hi", "--wait").stdout == "Hello\n"
    found = json.loads(run("submit", "hi", "--wait", "--json").stdout)
    assert found["job_id"] == "01a"


def test_waiting_for_a_job_that_fails_ends_with_1(run: Run, cloud: TwinCloud) -> None:
    failed = {
        "id": "01a",
        "status": "failed",
        "error": {"message": "died", "code": "x"},
    }
    cloud.replies = {CHAT: QUEUED, "GET /v1/jobs/01a": failed}
    done = run("submit", "hi", "--wait")
    assert done.exit_code == 1
    assert "died" in done.stderr


def test_an_answer_can_be_held_to_a_schema(
    run: Run, cloud: TwinCloud, tmp_path: Path
) -> None:
    schema = tmp_path / "city.json"
    schema.write_text('{"type": "object"}')
    shaped = {"message": {"content": '{"name": "Bonn"}'}, "finish_reason": "stop"}
    cloud.replies[CHAT] = {**ANSWER, "choices": [shaped]}
    done = run("ask", "hi", "--schema", str(schema))
    assert done.stdout == '{"name": "Bonn"}\n'
    wanted = cloud.sent["response_format"]
    assert isinstance(wanted, dict)
    assert wanted["json_schema"]["schema"] == {"type": "object"}
    found = json.loads(run("ask", "hi", "--schema", str(schema), "--json").stdout)
    assert found["parsed"] == {"name": "Bonn"}


@pytest.mark.parametrize("text", ["{", "[]", "no"])
def test_a_schema_that_is_none_is_wrong_usage(
    run: Run, tmp_path: Path, text: str
) -> None:
    schema = tmp_path / "city.json"
    schema.write_text(text)
    done = run("submit", "hi", "--schema", str(schema))
    assert done.exit_code == 2
    assert "city.json is not a JSON schema" in done.stderr
    assert run("ask", "hi", "--schema", "/nowhere").exit_code == 2


def test_the_place_in_the_queue_is_gone_when_the_answer_begins(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    line = WaitLine(is_shown=True)
    line.tell(Waiting(position=2, eta_s=1.5))
    line.tell(Waiting())
    line.close()
    assert capsys.readouterr().err == (
        "\rwaiting for a worker (position 2, about 2 s)\x1b[K"
        "\rwaiting for a worker\x1b[K\r\x1b[K"
    )


def test_a_pipe_hears_nothing_of_the_queue(capsys: pytest.CaptureFixture[str]) -> None:
    line = WaitLine(is_shown=False)
    line.tell(Waiting(position=2, eta_s=1.5))
    line.close()
    assert capsys.readouterr().err == ""
