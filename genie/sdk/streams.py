"""Reads an answer while it is written, from server-sent events."""

from collections.abc import Callable, Mapping
from contextlib import suppress

import msgspec

from genie.api_types import (
    AnyChunk,
    AssistantMessage,
    ChatChoice,
    ChatCompletion,
    DeltaChoice,
    Logprobs,
    TextChoice,
    TokenLogprob,
    ToolCallAnswer,
    read_chunk,
)
from genie.errors import (
    CodecError,
    JobCancelled,
    JobFailed,
    Unavailable,
)
from genie.sdk.requests import (
    Call,
    Items,
    Pause,
    ReadLines,
    Steps,
    get,
    job_path,
    strip_job_id_prefix,
)
from genie.sdk.responses import error_from_body, trouble_in
from genie.sdk.results import Result, result_from_completion
from genie.sdk.retries import ConnectionBroken, PollBackoff, poll_intervals
from genie.sdk.schemas import Schema

DONE = "[DONE]"


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """The request has not started: its place in the queue and the expected seconds.

    >>> genie.Waiting(position=2, eta_s=1.5).position
    2
    """

    position: int | None = None
    eta_s: float | None = None


OnWait = Callable[[Waiting], None]


class AnswerReader:
    """Reads an answer line by line, wherever the lines come from.

    ``result`` holds the whole answer once the last line was read.
    """

    def __init__(
        self,
        headers: Mapping[str, str],
        on_wait: OnWait | None = None,
        schema: Schema | None = None,
    ) -> None:
        self.job_id = strip_job_id_prefix(headers.get("x-genie-job-id", "")) or None
        self._on_wait, self._schema = on_wait, schema
        self._events, self._answer = SseParser(), ChunkAssembler()
        self._given, self._again = "", 0
        self._has_come = False
        self._cut: ConnectionBroken | None = None
        self._pauses = poll_intervals()
        self._result: Result | None = None
        self._is_closed = False

    @property
    def result(self) -> Result:
        """The whole answer; raises `JobCancelled` when it was closed before its end."""
        if self._result is not None:
            return self._result
        if self._is_closed:
            raise JobCancelled("the stream was closed before its end; ask again")
        raise RuntimeError("the stream is not at its end; read all pieces first")

    @property
    def _is_read(self) -> bool:
        return self._result is not None

    @property
    def _is_going_on(self) -> bool:
        return not self._is_read and not self._is_closed

    @property
    def _must_cancel(self) -> bool:
        """True when closing does not stop the work: after a reconnect."""
        return self._cut is not None and not self._is_read

    def _reconnect(self, cut: ConnectionBroken) -> Steps[Call]:
        """The next connection's call; raises ``cut`` when the last one brought nothing,
        or was closed by us."""
        if self.job_id is None or not self._has_come or self._is_closed:
            raise cut
        self._cut, self._has_come = cut, False
        self._begin_again()
        yield Pause(seconds=next(self._pauses))
        return stream_text(self.job_id)

    def _begin_again(self) -> None:
        """The new connection repeats the answer from its start: skip what was given."""
        self._given = max(self._given, self._answer.text, key=len)
        self._again = 0  # how much of that was told again
        self._events, self._answer = SseParser(), ChunkAssembler()

    def _take(self, line: str) -> str:
        """The new text of a line, "" for none. Raises the error it carries."""
        self._has_come = True
        event = self._events.feed(line)
        if isinstance(event, Waiting):
            if self._on_wait is not None:
                self._on_wait(event)
        elif event == DONE:
            self._result = self._answer.result(self._schema)
        elif event is not None:
            return self._new(self._answer.add(chunk_of(event)))
        return ""

    def _new(self, piece: str) -> str:
        known = piece[: len(self._given) - self._again]
        if not self._given.startswith(known, self._again):
            raise JobFailed(
                "another worker took over and writes another answer; the job goes on: "
                "read its result when it has ended",
                code="stream_broken",
            )
        self._again += len(known)
        return piece[len(known) :]

    def _check(self) -> None:
        """Raise `ConnectionBroken` when the lines ended before the answer did."""
        if not self._is_closed and not self._is_read:
            raise ConnectionBroken(
                "the connection ended in the middle of the answer; ask again"
            )


def stream_text(job_id: str) -> Call:
    """The text of a job from its start, as it is written."""
    return get(job_path(job_id, "/stream"))


def follow_text(call: Call, now: Callable[[], float]) -> Items[str]:
    """A job's text, over as many connections as it takes, each from the start."""
    reader, wait = AnswerReader({}), PollBackoff(now)

    def take(line: str) -> str | None:
        wait.heard()
        return reader._take(line) or None

    while not reader._is_read:
        reader._begin_again()
        try:
            yield ReadLines(call=call, take=take)
            reader._check()
        except Unavailable as error:
            yield from wait.again(error)


class ChunkAssembler:
    """Joins the chunks of one answer."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._calls: list[ToolCallAnswer] = []
        self._tokens: list[TokenLogprob] = []
        self._last = ChatCompletion()
        self._finish_reason: str | None = None

    def add(self, chunk: AnyChunk) -> str:
        """Take one chunk in; returns its text."""
        self._last = merge_chunk(self._last, chunk)
        # A job followed later may have several answers: this is the first.
        choice = next((one for one in chunk.choices if one.index == 0), None)
        if choice is None:
            return ""
        self._finish_reason = choice.finish_reason or self._finish_reason
        piece = self._piece(choice)
        self._pieces.append(piece)
        return piece

    def _piece(self, choice: DeltaChoice | TextChoice) -> str:
        if isinstance(choice, TextChoice):
            return choice.text
        self._calls.extend(choice.delta.tool_calls or ())
        self._tokens.extend((choice.logprobs and choice.logprobs.content) or ())
        return choice.delta.content or ""

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._pieces)

    def result(self, schema: Schema | None = None) -> Result:
        """The whole answer; raises `JobFailed` when the worker gave up on it."""
        if self._finish_reason == "error":
            raise JobFailed("the worker could not finish the answer; ask again")
        choice = ChatChoice(
            message=AssistantMessage(content=self.text, tool_calls=tuple(self._calls)),
            finish_reason=self._finish_reason or "",
            logprobs=Logprobs(content=tuple(self._tokens)),
        )
        whole = msgspec.structs.replace(self._last, choices=(choice,))
        return result_from_completion(whole, schema=schema)


def chunk_of(event: str) -> AnyChunk:
    """The chunk that an event carries; raises the error that one carries."""
    try:
        return read_chunk(event)
    except CodecError:
        trouble = trouble_in(event)
        if trouble is None:
            raise
    raise error_from_body(trouble, JobFailed)


def merge_chunk(known: ChatCompletion, chunk: AnyChunk) -> ChatCompletion:
    """An answer's details, updated by ``chunk``."""
    return ChatCompletion(
        id=chunk.id or known.id,
        model=chunk.model or known.model,
        usage=chunk.usage or known.usage,
        system_fingerprint=chunk.system_fingerprint or known.system_fingerprint,
        model_substituted=chunk.model_substituted or known.model_substituted,
        genie=chunk.genie or known.genie,
    )


class SseParser:
    """Parses server-sent events line by line."""

    def __init__(self) -> None:
        self._data: list[str] = []

    def feed(self, line: str) -> str | Waiting | None:
        """The event that a line completes: its data, or a comment's place in the queue.

        >>> events = SseParser()
        >>> events.feed(": queued position=2 eta_s=1.5")
        Waiting(position=2, eta_s=1.5)
        >>> [events.feed(line) for line in ("data: a", "data: b", "")]
        [None, None, 'a\\nb']
        """
        if line.startswith(":"):
            return parse_waiting(line)
        if line.startswith("data:"):
            self._data.append(line.removeprefix("data:").removeprefix(" "))
        elif not line and self._data:
            whole = "\n".join(self._data)
            self._data.clear()
            return whole
        return None


def parse_waiting(comment: str) -> Waiting | None:
    """Parses ``: queued position=1 eta_s=2.5``; None for any other comment."""
    words = comment.removeprefix(":").split()
    if not words or words[0] != "queued":
        return None
    given = dict(word.split("=", 1) for word in words[1:] if "=" in word)
    position: int | None = None
    eta_s: float | None = None
    with suppress(ValueError, KeyError):
        position = int(given["position"])
    with suppress(ValueError, KeyError):
        eta_s = float(given["eta_s"])
    return Waiting(position=position, eta_s=eta_s)
