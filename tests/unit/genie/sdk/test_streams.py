"""Server-sent events and the stream made of them."""

import json
from collections.abc import Callable

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.twin_cloud import CHAT, TwinBody, TwinCloud
from genie import errors
from genie.sdk.client import Stream
from genie.sdk.streams import DONE, SseParser, Waiting, parse_waiting


def chunk(text: str = "", reason: str | None = None, **more: object) -> str:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
    head = {"object": "chat.completion.chunk", "id": "chatcmpl-01a", "model": "m"}
    body = {**head, "choices": [choice], **more}
    return f"data: {json.dumps(body)}"


USAGE = {"prompt_tokens": 3, "completion_tokens": 2}
LAST = chunk("", "stop", genie={"job_id": "01a", "worker": "gpu-1", "total_s": 1.0})
COUNTED = {"object": "chat.completion.chunk", "choices": [], "usage": USAGE}
TALLY = f"data: {json.dumps(COUNTED)}"
END = f"data: {DONE}"


def stream_of(
    body: TwinBody, on_wait: Callable[[Waiting], None] | None = None
) -> Stream:
    """The stream of an answer with these lines, of a cloud that repeats none."""
    twin = TwinCloud()
    twin.replies[CHAT] = httpx2.Response(200, stream=body)
    return twin.client().stream("hi", on_wait=on_wait)


def test_the_pieces_arrive_in_order_and_make_the_result() -> None:
    body = TwinBody(chunk(""), chunk("Hel"), chunk("lo"), LAST, TALLY, END)
    stream = stream_of(body)
    assert list(stream) == ["Hel", "lo"]
    assert stream.result.text == "Hello"
    assert stream.result.finish_reason == "stop"
    assert stream.result.worker == "gpu-1"
    assert stream.result.usage.completion_tokens == 2
    assert body.is_closed


def test_waiting_is_told_and_is_no_text() -> None:
    told: list[Waiting] = []
    lines = (": queued position=2 eta_s=1.5", ": keep-alive", chunk("x"), LAST, END)
    stream = stream_of(TwinBody(*lines), told.append)
    assert list(stream) == ["x"]
    assert told == [Waiting(position=2, eta_s=1.5)]


def test_nobody_needs_to_listen_to_waiting() -> None:
    stream = stream_of(TwinBody(": queued position=1", chunk("x"), LAST, END))
    assert list(stream) == ["x"]


def test_the_result_is_there_at_the_end_only() -> None:
    stream = stream_of(TwinBody(chunk("x"), LAST, END))
    next(stream)
    with pytest.raises(RuntimeError, match="not at its end"):
        _ = stream.result


def test_closing_early_lets_the_connection_go() -> None:
    body = TwinBody(chunk("x"), chunk("y"), LAST, END)
    with stream_of(body) as stream:
        next(stream)
    assert body.is_closed
    with pytest.raises(errors.JobCancelled, match="closed before its end"):
        _ = stream.result


def test_a_fault_in_the_stream_is_raised_as_its_class() -> None:
    error = {"message": "died", "type": "server_error", "param": None, "code": "engine"}
    fault = f"data: {json.dumps({'error': error})}"
    stream = stream_of(TwinBody(chunk("x"), chunk("", "error"), fault))
    assert next(stream) == "x"
    with pytest.raises(errors.JobFailed, match="died") as caught:
        next(stream)
    assert caught.value.error_code == "engine"


def test_an_end_by_error_without_its_reason_is_no_answer() -> None:
    with pytest.raises(errors.JobFailed, match="could not finish"):
        list(stream_of(TwinBody(chunk("x"), chunk("", "error"), END)))


@pytest.mark.parametrize("cut", ["cut", ""])
def test_a_connection_that_ends_too_early_is_no_answer(cut: str) -> None:
    body = TwinBody(chunk("x"), cut=cut)
    with pytest.raises(errors.CloudUnreachable):
        list(stream_of(body))
    assert body.is_closed


def test_a_chunk_that_is_no_json_is_named() -> None:
    with pytest.raises(errors.CodecError, match="answer cannot be read"):
        list(stream_of(TwinBody("data: {")))


@pytest.mark.parametrize(
    ("comment", "waiting"),
    [
        (": queued", Waiting()),
        (": queued position=3", Waiting(position=3)),
        (":queued eta_s=0.5 position=x", Waiting(eta_s=0.5)),
        (": ping", None),
        (":", None),
    ],
)
def test_a_comment_says_the_place_in_the_queue_or_nothing(
    comment: str, waiting: Waiting | None
) -> None:
    assert parse_waiting(comment) == waiting


def events(lines: list[str]) -> list[str | Waiting]:
    reader = SseParser()
    return [event for line in lines if (event := reader.feed(line)) is not None]


@given(st.lists(st.text(st.characters(blacklist_characters="\r\n")), max_size=20))
def test_no_line_of_text_breaks_the_reading(lines: list[str]) -> None:
    for event in events(lines):
        assert isinstance(event, (str, Waiting))


@given(
    st.lists(
        st.lists(st.text(st.characters(blacklist_categories=["Cc", "Cs"])), min_size=1)
    )
)
def test_what_was_sent_as_events_is_read_as_events(sent: list[list[str]]) -> None:
    lines = [
        line for data in sent for line in (*(f"data: {part}" for part in data), "")
    ]
    assert events(lines) == ["\n".join(data) for data in sent]
