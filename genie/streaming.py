"""An answer that arrives while it is written: server-sent events, read."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Protocol

import msgspec

from genie.answers import Choice, Completion, Content, read
from genie.errors import CloudUnreachable, JobCancelled, JobFailed
from genie.jobs import Result, completed
from genie.responses import raised

DONE = "[DONE]"


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """The request has not started: its place in the queue and the seconds expected."""

    position: int | None = None
    eta_s: float | None = None


class Source(Protocol):
    """An open HTTP response: its lines, and how to let it go."""

    def lines(self) -> Iterator[str]:
        """The lines of the body; raises `CloudUnreachable` when it breaks off."""

    def close(self) -> None:
        """Let the connection go; the cloud then stops the work."""


OnWait = Callable[[Waiting], None]


class Stream:
    """The pieces of one answer, as text; iterate it once.

    ``result`` holds the whole answer once the last piece was read. Leaving early
    with `close` (or a ``with`` block) cancels the job.
    """

    def __init__(
        self,
        source: Source,
        *,
        job_id: str | None = None,
        on_wait: OnWait | None = None,
    ) -> None:
        self.job_id = job_id
        self._source = source
        self._on_wait = on_wait
        self._result: Result | None = None
        self._is_closed = False
        self._pieces = self._read()

    def __iter__(self) -> Iterator[str]:
        return self._pieces

    def __next__(self) -> str:
        return next(self._pieces)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @property
    def result(self) -> Result:
        """The whole answer; raises `JobCancelled` before the last piece was read."""
        if self._result is not None:
            return self._result
        if self._is_closed:
            raise JobCancelled("the stream was closed before its end; ask again")
        raise RuntimeError("the stream is not at its end; read all pieces first")

    def close(self) -> None:
        """End the stream; before its end this cancels the job."""
        self._is_closed = True
        self._source.close()

    def _read(self) -> Iterator[str]:
        answer = Assembly()
        try:
            for event in events(self._source.lines()):
                if isinstance(event, Waiting):
                    self._tell(event)
                elif event == DONE:
                    self._result = answer.result()
                    return
                elif piece := answer.add(read(Completion, event)):
                    yield piece
            if not self._is_closed:
                raise CloudUnreachable(
                    "the connection ended in the middle of the answer; ask again"
                )
        finally:
            self.close()

    def _tell(self, waiting: Waiting) -> None:
        if self._on_wait is not None:
            self._on_wait(waiting)


class Assembly:
    """Puts the chunks of one answer together again."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._last = Completion()
        self._finish_reason: str | None = None

    def add(self, chunk: Completion) -> str:
        """Take one chunk in; returns its text. Raises the error it carries."""
        if chunk.error is not None:
            raise raised(chunk.error, JobFailed)
        self._last = merged(self._last, chunk)
        choice = chunk.choices[0] if chunk.choices else Choice()
        self._finish_reason = choice.finish_reason or self._finish_reason
        piece = (choice.delta and choice.delta.content) or ""
        self._pieces.append(piece)
        return piece

    def result(self) -> Result:
        """The whole answer; raises `JobFailed` when the worker gave up on it."""
        if self._finish_reason == "error":
            raise JobFailed("the worker could not finish the answer; ask again")
        message = Content(content="".join(self._pieces))
        choice = Choice(message=message, finish_reason=self._finish_reason)
        return completed(msgspec.structs.replace(self._last, choices=(choice,)))


def merged(known: Completion, chunk: Completion) -> Completion:
    """What is known of an answer, with what ``chunk`` adds."""
    return Completion(
        id=chunk.id or known.id,
        model=chunk.model or known.model,
        usage=chunk.usage or known.usage,
        system_fingerprint=chunk.system_fingerprint or known.system_fingerprint,
        model_substituted=chunk.model_substituted or known.model_substituted,
        genie=chunk.genie or known.genie,
    )


def events(lines: Iterable[str]) -> Iterator[str | Waiting]:
    """The data of each server-sent event, and what comments say of the queue.

    >>> list(events([": queued position=2 eta_s=1.5", "", "data: a", "data: b", ""]))
    [Waiting(position=2, eta_s=1.5), 'a\\nb']
    """
    data: list[str] = []
    for line in lines:
        if line.startswith(":"):
            if (waiting := parse_waiting(line)) is not None:
                yield waiting
        elif line.startswith("data:"):
            data.append(line.removeprefix("data:").removeprefix(" "))
        elif not line and data:
            yield "\n".join(data)
            data = []


def parse_waiting(comment: str) -> Waiting | None:
    """``: queued position=1 eta_s=2.5`` as a value; None for any other comment."""
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


__all__ = ["OnWait", "Stream", "Waiting", "events", "parse_waiting"]
