"""A submitted job: reads its state and its answer, cancels and retries it."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from threading import Thread
from typing import Any, Generic, Self

from genie.api_types import JobAnswer, JobEvent, read
from genie.contracts.inference import JobState
from genie.errors import CloudUnreachable, JobTimeout, Unavailable
from genie.sdk.methods import C, Cloud, OnCloud, items_verb, self_verb, verb
from genie.sdk.requests import (
    Items,
    ReadLines,
    Steps,
    get,
    job_path,
    post,
    strip_job_id_prefix,
)
from genie.sdk.results import P, Result, result_of
from genie.sdk.retries import PollBackoff
from genie.sdk.schemas import Schema
from genie.sdk.streams import follow_text, stream_text

ENDS = ("completed", "failed", "cancelled", "timeout")
"""The last event of a job."""


class JobVerbs(OnCloud[C], Generic[C, P]):
    """The verbs of a job; see `Job`."""

    def __init__(
        self, cloud: C, details: JobAnswer, schema: Schema | None = None
    ) -> None:
        super().__init__(cloud)
        self.id = strip_job_id_prefix(details.id)
        self.details = details
        self._schema = schema

    def __repr__(self) -> str:
        return f"{type(self).__name__}(id={self.id!r}, status={self.status.value!r})"

    @property
    def cloud(self) -> C:
        """The client that submitted it."""
        return self._cloud

    @property
    def status(self) -> JobState:
        """The last known state, without asking again."""
        return self.details.status

    @self_verb
    def refresh(self) -> Steps[Self]:
        """Ask the cloud for the job's current state; returns this job.

        >>> job = client.submit("Hello").wait()
        >>> job.refresh().details.attempts
        1
        """
        self.details = yield from fetch(self.id)
        return self

    @verb
    def done(self) -> Steps[bool]:
        """True when the job has ended; asks the cloud unless that is known.

        >>> client.submit("Hello").wait().done()
        True
        """
        return (yield from self._has_ended())

    @self_verb
    def cancel(self) -> Steps[Self]:
        """Stop the job; an ended job stays as it is. Returns this job.

        >>> client.submit("Hello " * 500).cancel().status.value
        'cancelled'
        """
        self.details = yield from cancel(self.id)
        return self

    @self_verb
    def retry(self) -> Steps[Self]:
        """Submit an unsuccessful job again; returns the new job.

        Doing it twice gives the same new job. Raises `BadRequest` (code
        ``not_retryable``) when there is nothing to retry.

        >>> cancelled = client.submit("Hello " * 500).cancel()
        >>> again = cancelled.retry()
        >>> again.details.retry_of == cancelled.id
        True
        """
        made = yield from retry(self.id)
        return type(self)(self._cloud, made, self._schema)

    @items_verb
    def events(self) -> Items[JobEvent]:
        """Yields the job's events, from its acceptance until it has ended.

        Goes on where it was when the connection breaks; a cloud that is away is
        waited for up to 120 s.

        >>> [event.event for event in client.submit("Hello").events()]
        ['accepted', 'routed', 'queued', 'started', 'first_token', 'completed']
        """
        return follow(self.id, self._cloud.now)

    @items_verb
    def stream(self) -> Items[str]:
        """The answer in pieces from its start, as it is written.

        Leaving it does not stop the job. Reconnects and continues when the connection
        breaks; a cloud that is away is waited for up to 120 s. Raises as `result`.

        >>> "".join(client.submit("Tell a short story.").stream())
        'Tell a short story.'
        """
        return follow_text(stream_text(self.id), self._cloud.now)

    @self_verb
    def wait(self, timeout: float | None = None) -> Steps[Self]:
        """Wait until the job has ended, at most ``timeout`` seconds.

        Waits up to 120 s for a cloud that is away: an accepted job is kept.
        Raises `JobTimeout` (code ``wait_timeout``) when the job outlasts ``timeout``;
        the job goes on.

        >>> client.submit("Hello").wait(timeout=60).status.value
        'completed'
        """
        yield from self._end(timeout)
        return self

    @verb
    def result(self, timeout: float | None = None) -> Steps[Result[P]]:
        """Wait for the answer, at most ``timeout`` seconds.

        Raises `JobFailed`, `JobCancelled` or `JobTimeout` if there is none.

        >>> client.submit("Say hello.").result(timeout=60).text
        'Say hello.'
        """
        return (yield from self._answer(timeout))

    def _has_ended(self) -> Steps[bool]:
        if not self.status.is_terminal:
            self.details = yield from fetch(self.id)
        return self.status.is_terminal

    def _end(self, timeout: float | None) -> Steps[None]:
        late = partial(self._outlasted, timeout or 0.0)
        yield from PollBackoff(self._cloud.now, timeout).until(self._has_ended, late)

    def _answer(self, timeout: float | None = None) -> Steps[Result[Any]]:
        yield from self._end(timeout)
        return result_of(self.details, self._schema)

    def _outlasted(self, timeout: float) -> JobTimeout:
        return JobTimeout(
            f"job {self.id} is still {self.status.value} after {timeout:g} s and goes "
            "on; wait again with result(), or stop it with cancel()",
            code="wait_timeout",
        )


class Job(JobVerbs[Cloud, P]):
    """A submitted job. ``status`` is the last known state; `refresh` asks again.

    >>> job = client.submit("Summarise this.", persona="rollup")
    >>> job.result().text
    'Summarise this.'
    >>> job.status.value
    'completed'
    """

    def add_done_callback(self, tell: Callable[["Job[P]"], object]) -> None:
        """Call ``tell`` with this job when it has ended, in a thread of its own.

        >>> import queue
        >>> ended = queue.Queue()
        >>> client.submit("Hello").add_done_callback(ended.put)
        >>> ended.get(timeout=60).result().text
        'Hello'
        """
        thread = Thread(target=lambda: tell(self.wait()), name=f"genie-{self.id}")
        thread.daemon = True  # a program may end before its jobs do
        thread.start()


def follow(job_id: str, now: Callable[[], float]) -> Items[JobEvent]:
    """A job's events until it has ended, over as many connections as it takes."""
    last, event_id, wait = "", "", PollBackoff(now)

    def take(line: str) -> JobEvent | None:
        nonlocal last, event_id
        wait.heard()
        field, _, value = line.partition(": ")
        if field == "id":
            event_id = value
        if field != "data":
            return None
        event = read(JobEvent, value)
        last = event_id or event.event
        return event

    while last not in ENDS:
        given = {"last-event-id": last} if last else {}
        call = replace(get(job_path(job_id, "/events")), headers=given)
        try:
            yield ReadLines(call=call, take=take)
            if last not in ENDS:
                raise CloudUnreachable("the connection ended before the job did")
        except Unavailable as error:
            yield from wait.again(error)


def fetch(job_id: str) -> Steps[JobAnswer]:
    """A job's current state."""
    return read(JobAnswer, (yield get(job_path(job_id))))


def cancel(job_id: str) -> Steps[JobAnswer]:
    """Stop the job unless it has ended; returns it."""
    return read(JobAnswer, (yield post(job_path(job_id, "/cancel"), safe=True)))


def retry(job_id: str) -> Steps[JobAnswer]:
    """Submit a failed job again; returns the new job."""
    return read(JobAnswer, (yield post(job_path(job_id, "/retry"), safe=True)))


__all__ = ["Job", "JobVerbs", "Result", "strip_job_id_prefix"]
