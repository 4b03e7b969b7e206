"""Server-sent events as bytes."""

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain

from flask import Response

from cloud_app.api import errors, responses
from cloud_app.api.json import encode
from cloud_app.api.responses import ChoiceParts, Dialect, begun
from cloud_app.jobs import failures
from cloud_app.jobs.stream import AnswerText, QueueWait
from cloud_app.store.records import JobRecord
from genie.contracts.inference import JobState, Outcome, SampledToken
from genie.errors import GenieError
from genie.toolcalls import AnswerPart

DONE = b"data: [DONE]\n\n"

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Proxies must neither store nor hold back a stream."""


def data(value: object) -> bytes:
    """One event that carries JSON.

    >>> data({"a": 1})
    b'data: {"a":1}\\n\\n'
    """
    return b"data: %b\n\n" % encode(value)


def event(key: str, name: str, value: object) -> bytes:
    """One named event with the id a reader may go on after.

    >>> event("1", "started", {})
    b'id: 1\\nevent: started\\ndata: {}\\n\\n'
    """
    return b"id: %b\nevent: %b\n%b" % (key.encode(), name.encode(), data(value))


def comment(text: str) -> bytes:
    """A line every client ignores and no proxy times out on.

    >>> comment("queued position=1")
    b': queued position=1\\n\\n'
    """
    return f": {text}\n\n".encode()


COMMENT_EVERY_S = 1.0
"""A waiting client hears from us this often, and we notice when it has gone."""

StreamItem = QueueWait | AnswerText | Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPlan:
    """What one stream is about."""

    dialect: Dialect
    job: JobRecord
    includes_usage: bool
    request_id: str
    n: int = 1


def answer(events: Iterator[bytes], held: ExitStack) -> Response:
    """Events as they come; what is ``held`` is let go in the end, read or not."""
    response = Response(events, mimetype="text/event-stream", headers=HEADERS)
    response.call_on_close(held.pop_all().close)
    return response


def prime(items: Iterator[StreamItem]) -> Iterator[StreamItem]:
    """``items`` after its first was looked at, so that a bad request gets its status.

    Raises the request's own mistakes (400, 413); any other fault is told in the stream.
    """
    first = next(items)
    if isinstance(first, Outcome) and first.state is not JobState.COMPLETED:
        error = failures.job_failure(first.state, first.fault)
        if error.http_status in (400, 413):
            raise error
    return chain([first], items)


class ChunkWriter:
    """The text of one streamed answer as chunks; calls of tools become chunks of
    their own. What it tells of tokens goes with the next chunk."""

    def __init__(self, plan: StreamPlan, index: int = 0) -> None:
        self.index = index
        self.has_ended = False
        self._dialect, self._job = plan.dialect, plan.job
        self._reader = responses.calls_of(plan.job, index)
        self._calls = 0
        self._odds: list[SampledToken] = []
        self._offset = 0

    def begin(self) -> Iterator[bytes]:
        """Whose turn it is, where that is said."""
        opening = responses.opening(self._dialect, self._job, self.index)
        if opening is not None:
            yield data(opening)

    def feed(self, text: str, odds: Iterable[SampledToken] = ()) -> Iterator[bytes]:
        """What can be shown of some new text."""
        self._odds += odds
        yield from self._shown(
            [text] if self._reader is None else self._reader.feed(text)
        )

    def rest(self) -> Iterator[bytes]:
        """What was held back."""
        yield from self._shown([] if self._reader is None else self._reader.end())

    def end(self, reason: str, outcome: Outcome | None = None) -> bytes:
        """The chunk that says why it ends; with the ``outcome`` also where it was
        made."""
        self.has_ended = True
        is_calling = self._calls > 0 and reason != "error"
        said = self._said(reason="tool_calls" if is_calling else reason)
        if outcome is None:
            return data(responses.piece(self._dialect, self._job, said))
        return data(responses.last(self._dialect, self._job, outcome, said))

    def _shown(self, parts: Iterable[AnswerPart]) -> Iterator[bytes]:
        for part in parts:
            if not part:
                continue
            said = self._said(part)
            yield data(responses.piece(self._dialect, self._job, said))

    def _said(self, part: AnswerPart = "", reason: str | None = None) -> ChoiceParts:
        odds, self._odds = tuple(self._odds), []
        offset, self._offset = self._offset, self._offset + sum(map(begun, odds))
        is_text = isinstance(part, str)
        number, self._calls = self._calls, self._calls + (not is_text)
        return ChoiceParts(
            index=self.index,
            text=part if isinstance(part, str) else "",
            calls=() if isinstance(part, str) else (part,),
            first_call=number,
            reason=reason,
            odds=odds,
            offset=offset,
        )


def frames(plan: StreamPlan, items: Iterator[StreamItem]) -> Iterator[bytes]:
    """The events of one stream as bytes."""
    try:
        yield from _answer(plan, items)
    except GenieError as error:
        yield from _fault(error)
    except Exception as error:  # noqa: BLE001  # the reason stands below
        # The web error page of a stream: its status is sent, so it can only be told
        # in the stream; silence would be the bug.
        yield data(errors.body(errors.unforeseen(error, plan.request_id), 500))


def _answer(plan: StreamPlan, items: Iterator[StreamItem]) -> Iterator[bytes]:
    pieces = [ChunkWriter(plan, index) for index in range(plan.n)]
    for one in pieces:
        yield from one.begin()
    told_at = 0.0
    for item in items:
        if isinstance(item, AnswerText):
            yield from _more(pieces, item)
        elif isinstance(item, Outcome):
            yield from _end(plan, item, pieces)
        elif time.monotonic() - told_at >= COMMENT_EVERY_S:
            told_at = time.monotonic()
            yield comment(waiting(item))


def _more(pieces: list[ChunkWriter], item: AnswerText) -> Iterator[bytes]:
    one = pieces[item.index]
    yield from one.feed(item.text, item.choices)
    if item.finish_reason is None:
        return
    yield from one.rest()
    # The last to end comes with the outcome, which says more.
    if sum(not other.has_ended for other in pieces) > 1:
        yield one.end(item.finish_reason.value)


def waiting(item: QueueWait) -> str:
    """What a waiting client is told.

    >>> waiting(QueueWait(position=2, eta_s=1.25))
    'queued position=2 eta_s=1.2'
    """
    if item.is_started:
        return "working"
    position = "" if item.position is None else f" position={item.position}"
    eta = "" if item.eta_s is None else f" eta_s={item.eta_s:.1f}"
    return f"queued{position}{eta}"


def _end(
    plan: StreamPlan, outcome: Outcome, pieces: list[ChunkWriter]
) -> Iterator[bytes]:
    answers = outcome.answers
    open_ = [one for one in pieces if not one.has_ended]
    is_good = outcome.state is JobState.COMPLETED
    for one in open_:
        yield from one.rest()
        ended = answers[one.index].finish_reason if one.index < len(answers) else None
        reason = (ended.value if ended else "stop") if is_good else "error"
        yield one.end(reason, outcome if one is open_[-1] else None)
    if not is_good:
        yield from _fault(failures.job_failure(outcome.state, outcome.fault))
        return
    if plan.includes_usage:
        yield data(responses.usage_chunk(plan.dialect, plan.job, outcome))
    yield DONE


def _fault(error: GenieError) -> Iterator[bytes]:
    yield data(errors.body(errors.fault_of(error), error.http_status))
