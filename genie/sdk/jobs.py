"""A submitted job: reads its state and its answer, cancels and retries it."""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import partial
from threading import Thread
from typing import Generic, Protocol, TypeVar, cast

from genie import api_types
from genie.api_types import JobAnswer, JobEvent
from genie.contracts.inference import JobState
from genie.errors import CloudUnreachable, JobTimeout, Unavailable
from genie.sdk.requests import READ_S, Call, Steps, get, item_path, post
from genie.sdk.results import (
    P,
    Result,
    result_from_completion,
    result_of,
    strip_job_id_prefix,
)
from genie.sdk.retries import PollBackoff
from genie.sdk.schemas import Schema
from genie.sdk.streams import JobTextReader

T = TypeVar("T")
R = TypeVar("R", covariant=True)

PATH = "/v1/jobs"

ENDS = ("completed", "failed", "cancelled", "timeout")
"""The last event of a job."""


class Cloud(Protocol):
    """Runs steps: what jobs, batches and files need of a client."""

    def run(self, steps: Steps[T]) -> T:
        """The result of the steps."""

    def lines(self, call: Call) -> Generator[str]:
        """The lines of an answer's body as they arrive."""

    def now(self) -> float:
        """Seconds of a clock that never goes back."""


class JobSteps(Generic[P]):
    """The verbs of a job as steps. ``status`` is the last known state."""

    def __init__(
        self,
        details: JobAnswer,
        now: Callable[[], float],
        schema: Schema | None = None,
    ) -> None:
        self.id = strip_job_id_prefix(details.id)
        self.details = details
        self._now, self._schema = now, schema

    def __repr__(self) -> str:
        return f"{type(self).__name__}(id={self.id!r}, status={self.status.value!r})"

    @property
    def status(self) -> JobState:
        """The last known state, without asking again."""
        return self.details.status

    def _refreshing(self) -> Steps[None]:
        """Ask for the state."""
        self.details = yield from fetch(self.id)

    def _knowing(self) -> Steps[bool]:
        """Whether it has ended; asks the cloud unless that is known."""
        if not self.status.is_terminal:
            yield from self._refreshing()
        return self.status.is_terminal

    def _cancelling(self) -> Steps[None]:
        """Tell the cloud to stop it."""
        self.details = yield from cancel(self.id)

    def _retrying(self) -> Steps[JobAnswer]:
        """Ask the same again; returns the new job."""
        return (yield from retry(self.id))

    def _waiting(self, timeout: float | None) -> Steps[None]:
        """Poll until it has ended."""
        wait = PollBackoff(self._now, timeout)
        late = partial(self._outlasted, timeout or 0.0)
        yield from wait.until(self._knowing, late)

    def _answering(self, timeout: float | None) -> Steps[Result[P]]:
        """Wait for the end, and read its result."""
        yield from self._waiting(timeout)
        return cast(Result[P], result_of(self.details, self._schema))

    def _outlasted(self, timeout: float) -> JobTimeout:
        return JobTimeout(
            f"job {self.id} is still {self.status.value} after {timeout:g} s and goes "
            "on; wait again with result(), or stop it with cancel()",
            code="wait_timeout",
        )


class Job(JobSteps[P]):
    """A submitted job. ``status`` is the last known state; `refresh` asks again.

    >>> job = client.submit("Summarise this.", persona="rollup")
    >>> job.result().text
    'Summarise this.'
    >>> job.status.value
    'completed'
    """

    def __init__(
        self, cloud: Cloud, details: JobAnswer, schema: Schema | None = None
    ) -> None:
        super().__init__(details, cloud.now, schema)
        self._cloud = cloud

    @property
    def cloud(self) -> Cloud:
        """The client that submitted it."""
        return self._cloud

    def refresh(self) -> "Job[P]":
        """Ask the cloud for the job's current state; returns this job.

        >>> job = client.submit("Hello").wait()
        >>> job.refresh().details.attempts
        1
        """
        self._cloud.run(self._refreshing())
        return self

    def done(self) -> bool:
        """True when the job has ended; asks the cloud unless that is known.

        >>> client.submit("Hello").wait().done()
        True
        """
        return self._cloud.run(self._knowing())

    def cancel(self) -> "Job[P]":
        """Stop the job; an ended job stays as it is. Returns this job.

        >>> client.submit("Hello " * 500).cancel().status.value
        'cancelled'
        """
        self._cloud.run(self._cancelling())
        return self

    def retry(self) -> "Job[P]":
        """Submit an unsuccessful job again; returns the new job.

        Doing it twice gives the same new job. Raises `BadRequest` (code
        ``not_retryable``) when there is nothing to retry.

        >>> cancelled = client.submit("Hello " * 500).cancel()
        >>> again = cancelled.retry()
        >>> again.details.retry_of == cancelled.id
        True
        """
        return Job(self._cloud, self._cloud.run(self._retrying()), self._schema)

    def events(self) -> Iterator[JobEvent]:
        """Yields the job's events, from its acceptance until it has ended.

        Goes on where it was when the connection breaks; a cloud that is away is
        waited for up to 120 s.

        >>> [event.event for event in client.submit("Hello").events()]
        ['accepted', 'routed', 'queued', 'started', 'first_token', 'completed']
        """
        return follow(self._cloud, self.id)

    def stream(self) -> Iterator[str]:
        """The answer in pieces from its start, as it is written.

        Leaving it does not stop the job. Reconnects and continues when the connection
        breaks; a cloud that is away is waited for up to 120 s. Raises as `result`.

        >>> "".join(client.submit("Tell a short story.").stream())
        'Tell a short story.'
        """
        return read_with_reconnects(
            self._cloud, JobTextReader(stream_text(self.id), self._now)
        )

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

    def wait(self, timeout: float | None = None) -> "Job[P]":
        """Wait until the job has ended, at most ``timeout`` seconds.

        Waits up to 120 s for a cloud that is away: an accepted job is kept.
        Raises `JobTimeout` (code ``wait_timeout``) when the job outlasts ``timeout``;
        the job goes on.

        >>> client.submit("Hello").wait(timeout=60).status.value
        'completed'
        """
        self._cloud.run(self._waiting(timeout))
        return self

    def result(self, timeout: float | None = None) -> Result[P]:
        """Wait for the answer, at most ``timeout`` seconds.

        Raises `JobFailed`, `JobCancelled` or `JobTimeout` if there is none.

        >>> client.submit("Say hello.").result(timeout=60).text
        'Say hello.'
        """
        return self._cloud.run(self._answering(timeout))


class JobFollower:
    """Reads a job's events over as many connections as it takes."""

    def __init__(self, job_id: str, now: Callable[[], float]) -> None:
        self._path = f"{item_path(PATH, strip_job_id_prefix(job_id))}/events"
        self._last: str | None = None
        self._key = ""
        self._wait = PollBackoff(now)

    @property
    def is_over(self) -> bool:
        """True once the last event was read."""
        return self._last in ENDS

    def call(self) -> Call:
        """The next connection, which continues after the last event."""
        return Call(
            method="GET",
            path=self._path,
            headers={"last-event-id": self._last} if self._last else {},
            timeout_s=READ_S,
            is_repeatable=True,
        )

    def take(self, line: str) -> JobEvent | None:
        """What one line brings, if anything."""
        field, _, value = line.partition(": ")
        if field == "id":
            self._key = value
        if field != "data":
            return None
        event = api_types.read(JobEvent, value)
        self._last = self._key or event.event
        self._wait.heard()
        return event

    def check(self) -> None:
        """Raise `CloudUnreachable` when the connection ended before the job."""
        if not self.is_over:
            raise CloudUnreachable("the connection ended before the job did")

    def resuming(self, error: Unavailable) -> Steps[None]:
        """Pause before the next connection."""
        return self._wait.again(error)


def follow(cloud: Cloud, job_id: str) -> Iterator[JobEvent]:
    """Yields a job's events as they happen until it has ended."""
    return read_with_reconnects(cloud, JobFollower(job_id, cloud.now))


class ResumableReader(Protocol[R]):
    """Reads lines over as many connections as it takes."""

    @property
    def is_over(self) -> bool:
        """True once everything was read."""

    def call(self) -> Call:
        """The next connection."""

    def take(self, line: str) -> R | None:
        """What one line brings, if anything."""

    def check(self) -> None:
        """Raise `CloudUnreachable` when the lines ended too early."""

    def resuming(self, error: Unavailable) -> Steps[None]:
        """Pause before the next connection; raises ``error`` when it takes too long."""


def read_with_reconnects(cloud: Cloud, reader: ResumableReader[R]) -> Iterator[R]:
    """Everything the reader finds, over one connection after the other."""
    while not reader.is_over:
        try:
            with closing(cloud.lines(reader.call())) as lines:
                for line in lines:
                    if found := reader.take(line):
                        yield found
            reader.check()
        except Unavailable as error:
            cloud.run(reader.resuming(error))


def fetch(job_id: str) -> Steps[JobAnswer]:
    """A job's current state."""
    return api_types.read(
        JobAnswer, (yield get(item_path(PATH, strip_job_id_prefix(job_id))))
    )


def cancel(job_id: str) -> Steps[JobAnswer]:
    """Stop the job unless it has ended; returns it."""
    path = f"{item_path(PATH, strip_job_id_prefix(job_id))}/cancel"
    return api_types.read(JobAnswer, (yield post(path, safe=True)))


def stream_text(job_id: str) -> Call:
    """The text of a job from its start, as it is written."""
    return get(f"{item_path(PATH, strip_job_id_prefix(job_id))}/stream")


def retry(job_id: str) -> Steps[JobAnswer]:
    """Submit a failed job again; returns the new job."""
    path = f"{item_path(PATH, strip_job_id_prefix(job_id))}/retry"
    return api_types.read(JobAnswer, (yield post(path, safe=True)))


__all__ = [
    "Cloud",
    "Job",
    "JobSteps",
    "Result",
    "strip_job_id_prefix",
    "result_from_completion",
    "result_of",
]
