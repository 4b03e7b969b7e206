"""The cloud's HTTP API as Python objects, for programs and the command line."""

import atexit
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, Unpack, overload

from genie import env
from genie.api_types import (
    JobAnswer,
    JobEvent,
    RunAnswer,
    ScheduleAnswer,
    SkippedJob,
)
from genie.sdk import batches, jobs, verbs
from genie.sdk import schedules as scheduling
from genie.sdk.batches import Batch, Batches, BatchOptions, BatchRequests
from genie.sdk.chat import AskOptions
from genie.sdk.credentials import Credentials, resolve
from genie.sdk.files import Files
from genie.sdk.jobs import Cloud, Job, Result, cancel, stream_text
from genie.sdk.many import AT_ONCE, JobWindow, as_completed, gather, refuse_key
from genie.sdk.progress import bar
from genie.sdk.requests import Steps
from genie.sdk.results import Embeddings, strip_job_id_prefix
from genie.sdk.retries import pause_step, poll_intervals
from genie.sdk.schedules import Schedule, ScheduleOptions
from genie.sdk.schemas import Schema
from genie.sdk.streams import OnWait, Stream
from genie.sdk.transport import Clock, ResponseBody, Transport
from genie.sdk.verbs import JobListFilters, Question, RetryFilters

if TYPE_CHECKING:
    from httpx2 import BaseTransport

A = ParamSpec("A")
T = TypeVar("T")


def called(verb: Callable[A, Steps[T]]) -> Callable[Concatenate[Any, A], T]:
    """A verb of the API as a method of a client that waits for its answer."""

    @wraps(verb)
    def method(client: Any, /, *args: A.args, **options: A.kwargs) -> T:
        cloud: Cloud = client._cloud
        return cloud.run(verb(*args, **options))

    return method


class Administration:
    """The verbs for a cloud's owner; `genie.Client` has them.

    All but `health` need an admin key.
    """

    _cloud: Cloud

    workers = called(verbs.workers)
    queues = called(verbs.queues)
    fleet = called(verbs.fleet)
    dead_letters = called(verbs.dead_letters)
    dead_letter = called(verbs.dead_letter)
    replay_dead_letter = called(verbs.replay_dead_letter)
    discard_dead_letter = called(verbs.discard_dead_letter)
    join_token = called(verbs.join_token)
    keys = called(verbs.keys)
    create_key = called(verbs.create_key)
    revoke_key = called(verbs.revoke_key)
    health = called(verbs.health)


class JobOperations:
    """The verbs for jobs and schedules; `genie.Client` has them."""

    _cloud: Cloud

    def jobs(self, **filters: Unpack[JobListFilters]) -> tuple[Job, ...]:
        """One page of your org's jobs, newest first.

        Raises TypeError for an unknown filter.

        >>> job = client.submit("Hello", persona="review").wait()
        >>> [found.id == job.id for found in client.jobs(persona="review", limit=1)]
        [True]
        """
        found = self._cloud.run(verbs.jobs(filters))
        return tuple(Job(self._cloud, details) for details in found)

    def job(self, job_id: str) -> Job:
        """The job with this id, with or without the ``chatcmpl-`` prefix.

        >>> job = client.submit("Hello")
        >>> client.job(job.id).result().text
        'Hello'
        """
        return Job(self._cloud, self.fetch_job(job_id))

    def fetch_job(self, job_id: str) -> JobAnswer:
        """A job's current state, as data.

        >>> job = client.submit("Hello").wait()
        >>> client.fetch_job(job.id).status.value
        'completed'
        """
        return self._cloud.run(jobs.fetch(job_id))

    def retry_job(self, job_id: str) -> JobAnswer:
        """Submit a failed job again; returns the new job, as data.

        >>> job = client.submit("Hello " * 500).cancel()
        >>> client.retry_job(job.id).retry_of == job.id
        True
        """
        return self._cloud.run(jobs.retry(job_id))

    def retry_jobs(
        self, **filters: Unpack[RetryFilters]
    ) -> tuple[tuple[Job, ...], tuple[SkippedJob, ...]]:
        """Retry the newest matching jobs that did not complete.

        Returns the new jobs, and the jobs that could not be retried, with reasons.

        >>> made, skipped = client.retry_jobs(state="failed", persona="review")
        >>> len(made), len(skipped)
        (0, 0)
        """
        found = self._cloud.run(verbs.retry_jobs(filters))
        made = tuple(Job(self._cloud, one) for one in found.data)
        return made, found.skipped

    job_timeline = called(verbs.timeline)

    def follow_job(self, job_id: str) -> Iterator[JobEvent]:
        """Yields a job's events as they happen until it has ended; see `Job.events`.

        >>> job = client.submit("Hello")
        >>> [event.event for event in client.follow_job(job.id)][-1]
        'completed'
        """
        return jobs.follow(self._cloud, job_id)

    def schedule(
        self,
        prompt: str | None = None,
        *,
        cron: str,
        **options: Unpack[ScheduleOptions],
    ) -> Schedule:
        """Ask this at the times of a cron line until the schedule is removed.

        Texts may contain ``{{date}}``, ``{{yesterday}}``, ``{{weekday}}`` and more.
        Raises `BadRequest` for a wrong cron line and `Conflict` for a taken name.

        >>> news = client.schedule(
        ...     "News of {{date}}?",
        ...     cron="30 7 * * 1-5",
        ...     name="news",
        ...     timezone="Europe/Berlin",
        ... )
        >>> news.details.in_words
        'At 07:30 on Monday through Friday (Europe/Berlin)'
        >>> news.remove()
        """
        made = self._cloud.run(scheduling.create(prompt, cron, options))
        return Schedule(self._cloud, made)

    def schedules(self) -> tuple[Schedule, ...]:
        """All schedules of your org, by name.

        >>> client.schedules()
        ()
        """
        found = self._cloud.run(scheduling.list_all())
        return tuple(Schedule(self._cloud, one) for one in found)

    def find_schedule(self, name_or_id: str) -> Schedule:
        """The schedule with this name or id; raises `NotFound`.

        >>> made = client.schedule("News?", cron="@daily", name="daily news")
        >>> client.find_schedule("daily news").details.cron
        '0 0 * * *'
        >>> made.remove()
        """
        return Schedule(self._cloud, self._cloud.run(scheduling.find(name_or_id)))

    def change_schedule(self, name_or_id: str, verb: str) -> ScheduleAnswer:
        """A schedule after ``pause`` or ``resume``, as data.

        >>> made = client.schedule("News?", cron="@daily", name="changed")
        >>> client.change_schedule("changed", "pause").paused
        True
        >>> client.remove_schedule("changed")
        """
        path = scheduling.path_of(name_or_id)
        return self._cloud.run(scheduling.change(path, verb))

    def run_schedule(self, name_or_id: str) -> RunAnswer:
        """Start a run of a schedule at once.

        >>> made = client.schedule("News?", cron="@daily", name="run now")
        >>> client.run_schedule("run now").status
        'started'
        >>> client.remove_schedule("run now")
        """
        return self._cloud.run(scheduling.start_run(scheduling.path_of(name_or_id)))

    def remove_schedule(self, name_or_id: str) -> None:
        """Delete a schedule; its jobs stay.

        >>> made = client.schedule("News?", cron="@daily", name="removed")
        >>> client.remove_schedule("removed")
        """
        self._cloud.run(scheduling.remove(scheduling.path_of(name_or_id)))

    deliveries = called(verbs.deliveries)
    redeliver = called(verbs.redeliver)
    retention = called(verbs.retention)
    set_retention = called(verbs.set_retention)


P = TypeVar("P")


class Client(JobOperations, Administration):
    """A client of one cloud with one API key; safe to share between threads.

    ``url`` and ``api_key`` default to ``GENIE_URL`` and ``GENIE_API_KEY``, or to what
    `genie up` saved on this machine. ``timeout`` is the seconds an answer may take if
    the call does not say; ``retry_s`` the seconds a call may wait between tries in all
    while the cloud is away or overloaded. ``transport`` is an httpx2 transport for an
    unusual network.

    >>> with genie.Client(timeout=30) as client:
    ...     print(client.ask("Say hello in one word."))
    Say hello in one word.
    """

    gather = staticmethod(gather)
    as_completed = staticmethod(as_completed)

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float | None = None,
        retry_s: float = 10.0,
        transport: "BaseTransport | None" = None,
        clock: Clock | None = None,
    ) -> None:
        credentials, self.timeout = settle(url, api_key, timeout)
        self.url = credentials.url
        self._cloud = self._transport = Transport(
            credentials, retry_s=retry_s, clock=clock or Clock(), inner=transport
        )
        self.batches = Batches(self._cloud)
        self.files = Files(self._cloud)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections.

        >>> genie.Client().close()
        """
        self._transport.close()

    @overload
    def ask(
        self,
        prompt: str | None = None,
        *,
        schema: type[P],
        **options: Unpack[AskOptions],
    ) -> Result[P]: ...

    @overload
    def ask(
        self,
        prompt: str | None = None,
        *,
        schema: Mapping[str, object] | None = None,
        **options: Unpack[AskOptions],
    ) -> Result: ...

    def ask(
        self,
        prompt: str | None = None,
        *,
        schema: Schema | None = None,
        **options: Unpack[AskOptions],
    ) -> Result[Any]:
        """Wait for the answer to ``prompt``.

        Without ``persona`` and ``model`` the persona ``chat`` answers. ``schema`` is a
        pydantic model, a dataclass, a TypedDict or a JSON schema; the answer follows
        it and is there as ``parsed``. Raises a `genie.errors` class: `UnknownModel`,
        `ContextTooLong`, `NoCapacity`, `JobFailed`, `JobTimeout`, `CloudUnreachable` …

        >>> client.ask("Say hello in one word.", max_tokens=2).text
        'Say hello'
        """
        question = Question(prompt=prompt, options=options, schema=schema)
        return self._cloud.run(verbs.ask(question, self.timeout))

    @overload
    def submit(
        self,
        prompt: str | None = None,
        *,
        schema: type[P],
        **options: Unpack[AskOptions],
    ) -> Job[P]: ...

    @overload
    def submit(
        self,
        prompt: str | None = None,
        *,
        schema: Mapping[str, object] | None = None,
        **options: Unpack[AskOptions],
    ) -> Job: ...

    def submit(
        self,
        prompt: str | None = None,
        *,
        schema: Schema | None = None,
        **options: Unpack[AskOptions],
    ) -> Job[Any]:
        """Submit the question as a job; see `Job.result`.

        >>> job = client.submit("Summarise this.", persona="rollup")
        >>> job.result().text
        'Summarise this.'
        """
        question = Question(prompt=prompt, options=options, schema=schema)
        return Job(self._cloud, self._cloud.run(verbs.submit(question)), schema)

    def stream(
        self,
        prompt: str | None = None,
        *,
        schema: Schema | None = None,
        on_wait: OnWait | None = None,
        **options: Unpack[AskOptions],
    ) -> Stream:
        """The answer in pieces, as it is written.

        ``on_wait`` gets the place in the queue until the request starts. The stream
        continues when a web process of the cloud dies. If your own connection
        drops, the job is cancelled: for work that must survive a disconnect, use
        ``submit(…).stream()``.

        >>> with client.stream("Tell a short story.") as story:
        ...     print("".join(story))
        Tell a short story.
        """
        question = Question(prompt=prompt, options=options, schema=schema)
        body = self._transport.open(question.watched("stream", self.timeout))
        job_id = strip_job_id_prefix(body.headers.get("x-genie-job-id", "")) or None
        way = _StreamReconnect(self._transport, job_id) if job_id else None
        return Stream(body, way=way, job_id=job_id, on_wait=on_wait, schema=schema)

    def map(
        self,
        prompts: Iterable[str],
        *,
        schema: Schema | None = None,
        at_once: int = AT_ONCE,
        progress: bool | None = None,
        **options: Unpack[AskOptions],
    ) -> Iterator[Result]:
        """The answer to each prompt, in order, as jobs.

        At most ``at_once`` are open at a time. Raises the error of a failed job
        when its turn comes; TypeError for ``idempotency_key`` (it names one job). On a
        terminal a bar shows the progress unless ``progress`` is False.

        >>> [result.text for result in client.map(["Say one.", "Say two."])]
        ['Say one.', 'Say two.']
        """
        refuse_key(options)

        def submitting(prompt: str) -> Steps[Job]:
            question = Question(prompt=prompt, options=options, schema=schema)
            return Job(self._cloud, (yield from verbs.submit(question)), schema)

        return self._answers(JobWindow(submitting, prompts, at_once), progress)

    def _answers(self, row: JobWindow[Job], progress: bool | None) -> Iterator[Result]:
        with bar("answers", row.total, progress) as shown:
            while (answer := self._cloud.run(row.answering())) is not None:
                shown.advance()
                yield answer

    def embed(
        self,
        texts: str | Sequence[str],
        *,
        persona: str | None = None,
        model: str | None = None,
        timeout: float | None = None,
    ) -> Embeddings:
        """A vector of length 1 for each text, in order; at most 256 texts at once.

        Without ``persona`` and ``model`` the persona ``embed`` does it. Raises a
        `genie.errors` class, `ContextTooLong` for a text over the model's window.

        >>> [len(vector) for vector in client.embed(["a cat", "a dog"]).vectors]
        [16, 16]
        """
        wait_s = self.timeout if timeout is None else timeout
        return self._cloud.run(verbs.embed(texts, persona, model, wait_s))

    def batch(
        self,
        requests: BatchRequests,
        *,
        schema: Schema | None = None,
        **options: Unpack[BatchOptions],
    ) -> Batch:
        """Submit many requests as a batch, at low priority; see `Batches`.

        With a ``schema`` each answer is parsed; one that does not match is the
        error of its line.

        >>> batch = client.batch(["Say hello.", "Say goodbye."])
        >>> [line.text for line in batch.results()]
        ['Say hello.', 'Say goodbye.']
        """
        made = self._cloud.run(batches.submitting(requests, options, schema))
        return Batch(self._cloud, made, schema)

    route = called(verbs.route)
    models = called(verbs.models)
    personas = called(verbs.personas)


class _StreamReconnect:
    """Reconnects to an answer whose connection broke."""

    def __init__(self, transport: Transport, job_id: str) -> None:
        self._transport, self._job_id = transport, job_id
        self._pauses = poll_intervals()

    def again(self) -> ResponseBody:
        self._transport.run(pause_step(next(self._pauses)))
        return self._transport.open(stream_text(self._job_id))

    def cancel(self) -> None:
        self._transport.run(cancel(self._job_id))


def settle(
    url: str | None, api_key: str | None, timeout: float | None
) -> tuple[Credentials, float]:
    """Address and timeout: as given, otherwise from the settings."""
    settings = env.read(env.ClientSettings)
    given = replace(
        settings, url=url or settings.url, api_key=api_key or settings.api_key
    )
    return resolve(given), settings.timeout_s if timeout is None else timeout


def default() -> Client:
    """The client behind `genie.ask` and the others, by the current settings."""
    settings = env.read(env.ClientSettings)
    # a connection must not be shared with the process we were forked from
    return _shared(resolve(settings), settings.timeout_s, os.getpid())


@lru_cache(maxsize=8)
def _shared(credentials: Credentials, timeout: float, _process: int) -> Client:
    client = Client(credentials.url, credentials.api_key, timeout=timeout)
    atexit.register(client.close)
    return client
