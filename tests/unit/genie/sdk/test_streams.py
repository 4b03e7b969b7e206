"""Server-sent events and the stream made of them."""

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genie import errors
from genie.sdk.streams import DONE, SseParser, Stream, Waiting, parse_waiting


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


class TwinSource:
    """The lines of a response; with ``breaks`` the connection is cut after them."""

    def __init__(self, *lines: str, breaks: bool = False) -> None:
        self._lines = [part for line in lines for part in (line, "")]
        self._breaks = breaks
        self.is_closed = False

    def lines(self) -> Iterator[str]:
        yield from self._lines
        if self._breaks:
            raise errors.CloudUnreachable("cut")

    def close(self) -> None:
        self.is_closed = True


def test_the_pieces_arrive_in_order_and_make_the_result() -> None:
    source = TwinSource(chunk(""), chunk("Hel"), chunk("lo"), LAST, TALLY, END)
    stream = Stream(source, job_id="01a")
    assert list(stream) == ["Hel", "lo"]
    assert stream.result.text == "Hello"
    assert stream.result.finish_reason == "stop"
    assert stream.result.worker == "gpu-1"
    assert stream.result.usage.completion_tokens == 2
    assert source.is_closed


def test_waiting_is_told_and_is_no_text() -> None:
    told: list[Waiting] = []
    lines = (": queued position=2 eta_s=1.5", ": keep-alive", chunk("x"), LAST, END)
    stream = Stream(TwinSource(*lines), on_wait=told.append)
    assert list(stream) == ["x"]
    assert told == [Waiting(position=2, eta_s=1.5)]


def test_nobody_needs_to_listen_to_waiting() -> None:
    assert list(Stream(TwinSource(": queued position=1", chunk("x"), LAST, END))) == [
        "x"
    ]


def test_the_result_is_there_at_the_end_only() -> None:
    stream = Stream(TwinSource(chunk("x"), LAST, END))
    next(stream)
    with pytest.raises(RuntimeError, match="not at its end"):
        _ = stream.result


def test_closing_early_lets_the_connection_go() -> None:
    source = TwinSource(chunk("x"), chunk("y"), LAST, END)
    with Stream(source) as stream:
        next(stream)
    assert source.is_closed
    with pytest.raises(errors.JobCancelled, match="closed before its end"):
        _ = stream.result


def test_a_fault_in_the_stream_is_raised_as_its_class() -> None:
    error = {"message": "died", "type": "server_error", "param": None, "code": "engine"}
    fault = f"data: {json.dumps({'error': error})}"
    stream = Stream(TwinSource(chunk("x"), chunk("", "error"), fault))
    assert next(stream) == "x"
    with pytest.raises(errors.JobFailed, match="died") as caught:
        next(stream)
    assert caught.value.error_code == "engine"


def test_an_end_by_error_without_its_reason_is_no_answer() -> None:
    with pytest.raises(errors.JobFailed, match="could not finish"):
        list(Stream(TwinSource(chunk("x"), chunk("", "error"), END)))


@pytest.mark.parametrize("breaks", [True, False])
def test_a_connection_that_ends_too_early_is_no_answer(breaks: bool) -> None:
    source = TwinSource(chunk("x"), breaks=breaks)
    with pytest.raises(errors.CloudUnreachable):
        list(Stream(source))
    assert source.is_closed


def test_a_chunk_that_is_no_json_is_named() -> None:
    with pytest.raises(errors.CodecError, match="answer cannot be read"):
        list(Stream(TwinSource("data: {")))


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
