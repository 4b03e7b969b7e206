"""The cloud's HTTP API as Python objects to await."""

from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from functools import wraps
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    ParamSpec,
    Protocol,
    TypeVar,
    Unpack,
    overload,
)

import anyio

from genie.api_types import (
    JobAnswer,
    JobEvent,
    RunAnswer,
    ScheduleAnswer,
    SkippedJob,
)
from genie.errors import CloudUnreachable, JobCancelled, UnknownJob
from genie.sdk import batches, jobs, schedules, verbs
from genie.sdk import schedules as scheduling
from genie.sdk.aio.batches import AsyncBatch, AsyncBatches, AsyncFiles
from genie.sdk.aio.jobs import AsyncCloud, AsyncJob, as_completed, follow, gather
from genie.sdk.aio.transport import AsyncResponseBody, AsyncTransport
from genie.sdk.batches import BatchOptions, BatchRequests
from genie.sdk.chat import AskOptions
from genie.sdk.client import settle
from genie.sdk.jobs import cancel, stream_text
from genie.sdk.many import AT_ONCE, JobWindow, refuse_key
from genie.sdk.progress import bar
from genie.sdk.requests import Steps
from genie.sdk.results import Embeddings, Result, strip_job_id_prefix
from genie.sdk.retries import ConnectionBroken, pause_step, poll_intervals
from genie.sdk.schedules import ScheduleOptions, ScheduleSteps
from genie.sdk.schemas import Schema
from genie.sdk.streams import AnswerReader, OnWait
from genie.sdk.transport import Clock
from genie.sdk.verbs import JobListFilters, Question, RetryFilters

if TYPE_CHECKING:
    from httpx2 import AsyncBaseTransport

CANCEL_S = 5.0
"""How long a cancelled task may take to tell the cloud."""


class AsyncOpenResponse(Protocol):
    """An open HTTP response: its lines, and how to close it."""

    def lines(self) -> AsyncIterator[str]:
        """The lines of the body; raises `CloudUnreachable` when they break off."""

    async def aclose(self) -> None:
        """Close the connection; the cloud then stops the work."""


class AsyncReconnect(Protocol):
    """How to reconnect to an answer; see `genie.sdk.streams.Reconnect`."""

    async def again(self) -> AsyncOpenResponse:
        """A connection that repeats the answer from its start; raises like any call."""

    async def cancel(self) -> None:
        """Stop the work: closing such a connection does not."""


class AsyncStream(AnswerReader):
    """The pieces of one answer, as text; iterate it once. See `Stream`.

    >>> async def main() -> str:
    ...     async with genie.AsyncClient() as client:
    ...         story = await client.stream("Tell a short story.")
    ...         return "".join([piece async for piece in story])
    >>> asyncio.run(main())
    'Tell a short story.'
    """

    def __init__(
        self,
        source: AsyncOpenResponse,
        *,
        way: AsyncReconnect | None = None,
        job_id: str | None = None,
        on_wait: OnWait | None = None,
        schema: Schema | None = None,
    ) -> None:
        super().__init__(job_id=job_id, on_wait=on_wait, schema=schema)
        self._source, self._way = source, way
        self._pieces = self._read()

    def __aiter__(self) -> AsyncIterator[str]:
        return self._pieces

    async def __anext__(self) -> str:
        return await anext(self._pieces)

    async def __aenter__(self) -> "AsyncStream":
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the stream; see `Stream.close`."""
        is_left, self._is_closed = not self._is_closed, True
        await self._source.aclose()
        if is_left and self._way is not None and self._must_cancel:
            await self._way.cancel()

    async def _read(self) -> AsyncIterator[str]:
        try:
            while self._is_going_on:
                try:
                    async for line in self._source.lines():
                        if piece := self._take(line):
                            yield piece
                        if self._is_read:
                            return
                    self._check()
                except ConnectionBroken as cut:
                    await self._source.aclose()
                    self._source = await self._once_more(cut, self._way).again()
        except (CloudUnreachable, JobCancelled, UnknownJob) as error:
            if self._cut is None:
                raise
            raise self._cut from error  # away, or it took the cut for our leaving
        except (GeneratorExit, anyio.get_cancelled_exc_class()):
            with anyio.move_on_after(CANCEL_S, shield=True):
                await self.close()
            raise
        finally:
            self._is_closed = True
            await self._source.aclose()


class AsyncSchedule(ScheduleSteps):
    """A repeated question; `Schedule` for async programs."""

    def __init__(self, cloud: AsyncCloud, details: ScheduleAnswer) -> None:
        super().__init__(details)
        self._cloud = cloud

    async def refresh(self) -> "AsyncSchedule":
        """Ask the cloud for its current state; see `Schedule.refresh`."""
        await self._cloud.run(self._refreshing())
        return self

    async def runs(self) -> tuple[RunAnswer, ...]:
        """Its newest runs, newest first; see `Schedule.runs`."""
        return (await self.refresh()).details.runs

    async def run(self) -> RunAnswer:
        """Ask at once; see `Schedule.run`."""
        return await self._cloud.run(schedules.start_run(self._path))

    async def pause(self) -> "AsyncSchedule":
        """Start no runs until it is resumed; see `Schedule.pause`."""
        await self._cloud.run(self._changing("pause"))
        return self

    async def resume(self) -> "AsyncSchedule":
        """Continue with the next run from now; see `Schedule.resume`."""
        await self._cloud.run(self._changing("resume"))
        return self

    async def remove(self) -> None:
        """Delete it; see `Schedule.remove`."""
        await self._cloud.run(schedules.remove(self._path))


A = ParamSpec("A")
T = TypeVar("T")


def awaited(
    verb: Callable[A, Steps[T]],
) -> Callable[Concatenate[Any, A], Coroutine[Any, Any, T]]:
    """A verb of the API as a method of a client whose answer is awaited."""

    @wraps(verb)
    async def method(client: Any, /, *args: A.args, **options: A.kwargs) -> T:
        cloud: AsyncCloud = client._cloud
        return await cloud.run(verb(*args, **options))

    return method


class AsyncAdministration:
    """The verbs for a cloud's owner; `genie.AsyncClient` has them.

    All but `health` need an admin key.
    """

    _cloud: AsyncCloud

    workers = awaited(verbs.workers)
    queues = awaited(verbs.queues)
    fleet = awaited(verbs.fleet)
    dead_letters = awaited(verbs.dead_letters)
    dead_letter = awaited(verbs.dead_letter)
    replay_dead_letter = awaited(verbs.replay_dead_letter)
    discard_dead_letter = awaited(verbs.discard_dead_letter)
    join_token = awaited(verbs.join_token)
    keys = awaited(verbs.keys)
    create_key = awaited(verbs.create_key)
    revoke_key = awaited(verbs.revoke_key)
    health = awaited(verbs.health)


class AsyncJobOperations:
    """The verbs for jobs and schedules; `genie.AsyncClient` has them."""

    _cloud: AsyncCloud

    async def jobs(self, **filters: Unpack[JobListFilters]) -> tuple[AsyncJob, ...]:
        """One page of your org's jobs, newest first; see `Client.jobs`."""
        found = await self._cloud.run(verbs.jobs(filters))
        return tuple(AsyncJob(self._cloud, details) for details in found)

    async def job(self, job_id: str) -> AsyncJob:
        """The job with this id, with or without the ``chatcmpl-`` prefix.

        See `Client.job`.
        """
        return AsyncJob(self._cloud, await self.fetch_job(job_id))

    async def fetch_job(self, job_id: str) -> JobAnswer:
        """A job's current state, as data; see `Client.fetch_job`."""
        return await self._cloud.run(jobs.fetch(job_id))

    async def retry_job(self, job_id: str) -> JobAnswer:
        """The new job that asks again what a failed one asked, as data.

        See `Client.retry_job`.
        """
        return await self._cloud.run(jobs.retry(job_id))

    async def retry_jobs(
        self, **filters: Unpack[RetryFilters]
    ) -> tuple[tuple[AsyncJob, ...], tuple[SkippedJob, ...]]:
        """Retry the newest jobs that match and did not complete.

        See `Client.retry_jobs`.
        """
        found = await self._cloud.run(verbs.retry_jobs(filters))
        made = tuple(AsyncJob(self._cloud, one) for one in found.data)
        return made, found.skipped

    job_timeline = awaited(verbs.timeline)

    def follow_job(self, job_id: str) -> AsyncIterator[JobEvent]:
        """Yields a job's events as they happen until it has ended.

        See `Client.follow_job`.
        """
        return follow(self._cloud, job_id)

    async def schedule(
        self,
        prompt: str | None = None,
        *,
        cron: str,
        **options: Unpack[ScheduleOptions],
    ) -> AsyncSchedule:
        """Ask this at the times of a cron line, until it is removed.

        See `Client.schedule`.
        """
        made = await self._cloud.run(scheduling.create(prompt, cron, options))
        return AsyncSchedule(self._cloud, made)

    async def schedules(self) -> tuple[AsyncSchedule, ...]:
        """All schedules of your org, by name; see `Client.schedules`."""
        found = await self._cloud.run(scheduling.list_all())
        return tuple(AsyncSchedule(self._cloud, one) for one in found)

    async def find_schedule(self, name_or_id: str) -> AsyncSchedule:
        """The schedule with this name or id; see `Client.find_schedule`."""
        found = await self._cloud.run(scheduling.find(name_or_id))
        return AsyncSchedule(self._cloud, found)

    async def change_schedule(self, name_or_id: str, verb: str) -> ScheduleAnswer:
        """A schedule after ``pause`` or ``resume``, as data.

        See `Client.change_schedule`.
        """
        path = scheduling.path_of(name_or_id)
        return await self._cloud.run(scheduling.change(path, verb))

    async def run_schedule(self, name_or_id: str) -> RunAnswer:
        """Start a run of a schedule at once; see `Client.run_schedule`."""
        return await self._cloud.run(
            scheduling.start_run(scheduling.path_of(name_or_id))
        )

    async def remove_schedule(self, name_or_id: str) -> None:
        """Delete a schedule; see `Client.remove_schedule`."""
        await self._cloud.run(scheduling.remove(scheduling.path_of(name_or_id)))

    deliveries = awaited(verbs.deliveries)
    redeliver = awaited(verbs.redeliver)
    retention = awaited(verbs.retention)
    set_retention = awaited(verbs.set_retention)


P = TypeVar("P")


class AsyncClient(AsyncJobOperations, AsyncAdministration):
    """A client of one cloud with one API key; `Client` for async programs.

    It takes the same arguments and has the same verbs as `Client`. ``transport`` is
    an asynchronous httpx2 transport.

    >>> async def main() -> list[str]:
    ...     async with genie.AsyncClient() as client:
    ...         jobs = [await client.submit(text) for text in ("Say one.", "Say two.")]
    ...         return [result.text for result in await client.gather(jobs)]
    >>> asyncio.run(main())
    ['Say one.', 'Say two.']
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
        transport: "AsyncBaseTransport | None" = None,
        clock: Clock | None = None,
    ) -> None:
        credentials, self.timeout = settle(url, api_key, timeout)
        self.url = credentials.url
        self._cloud = self._transport = AsyncTransport(
            credentials, retry_s=retry_s, clock=clock or Clock(), inner=transport
        )
        self.batches = AsyncBatches(self._cloud)
        self.files = AsyncFiles(self._cloud)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; see `Client.close`."""
        await self._transport.close()

    @overload
    async def ask(
        self,
        prompt: str | None = None,
        *,
        schema: type[P],
        **options: Unpack[AskOptions],
    ) -> Result[P]: ...

    @overload
    async def ask(
        self,
        prompt: str | None = None,
        *,
        schema: Mapping[str, object] | None = None,
        **options: Unpack[AskOptions],
    ) -> Result: ...

    async def ask(
        self,
        prompt: str | None = None,
        *,
        schema: Schema | None = None,
        **options: Unpack[AskOptions],
    ) -> Result[Any]:
        """Wait for the answer to ``prompt``; see `Client.ask`."""
        question = Question(prompt=prompt, options=options, schema=schema)
        return await self._cloud.run(verbs.ask(question, self.timeout))

    @overload
    async def submit(
        self,
        prompt: str | None = None,
        *,
        schema: type[P],
        **options: Unpack[AskOptions],
    ) -> AsyncJob[P]: ...

    @overload
    async def submit(
        self,
        prompt: str | None = None,
        *,
        schema: Mapping[str, object] | None = None,
        **options: Unpack[AskOptions],
    ) -> AsyncJob: ...

    async def submit(
        self,
        prompt: str | None = None,
        *,
        schema: Schema | None = None,
        **options: Unpack[AskOptions],
    ) -> AsyncJob[Any]:
        """Submit the question as a job; see `Client.submit`."""
        question = Question(prompt=prompt, options=options, schema=schema)
        made = await self._cloud.run(verbs.submit(question))
        return AsyncJob(self._cloud, made, schema)

    async def stream(
        self,
        prompt: str | None = None,
        *,
        schema: Schema | None = None,
        on_wait: OnWait | None = None,
        **options: Unpack[AskOptions],
    ) -> AsyncStream:
        """The answer in pieces, as it is written; see `Client.stream`."""
        question = Question(prompt=prompt, options=options, schema=schema)
        body = await self._transport.open(question.watched("stream", self.timeout))
        job_id = strip_job_id_prefix(body.headers.get("x-genie-job-id", "")) or None
        way = _AsyncStreamReconnect(self._transport, job_id) if job_id else None
        return AsyncStream(body, way=way, job_id=job_id, on_wait=on_wait, schema=schema)

    def map(
        self,
        prompts: Iterable[str],
        *,
        schema: Schema | None = None,
        at_once: int = AT_ONCE,
        progress: bool | None = None,
        **options: Unpack[AskOptions],
    ) -> AsyncIterator[Result]:
        """The answer to each prompt, in order, as jobs; see `Client.map`."""
        refuse_key(options)

        def submitting(prompt: str) -> Steps[AsyncJob]:
            question = Question(prompt=prompt, options=options, schema=schema)
            return AsyncJob(self._cloud, (yield from verbs.submit(question)), schema)

        return self._answers(JobWindow(submitting, prompts, at_once), progress)

    async def _answers(
        self, row: JobWindow[AsyncJob], progress: bool | None
    ) -> AsyncIterator[Result]:
        with bar("answers", row.total, progress) as shown:
            while (answer := await self._cloud.run(row.answering())) is not None:
                shown.advance()
                yield answer

    async def embed(
        self,
        texts: str | Sequence[str],
        *,
        persona: str | None = None,
        model: str | None = None,
        timeout: float | None = None,
    ) -> Embeddings:
        """A vector of length 1 for each text, in order; see `Client.embed`."""
        wait_s = self.timeout if timeout is None else timeout
        return await self._cloud.run(verbs.embed(texts, persona, model, wait_s))

    async def batch(
        self,
        requests: BatchRequests,
        *,
        schema: Schema | None = None,
        **options: Unpack[BatchOptions],
    ) -> AsyncBatch:
        """Submit many requests as a batch; see `Client.batch`."""
        made = await self._cloud.run(batches.submitting(requests, options, schema))
        return AsyncBatch(self._cloud, made, schema)

    route = awaited(verbs.route)
    models = awaited(verbs.models)
    personas = awaited(verbs.personas)


class _AsyncStreamReconnect:
    """Reconnects to an answer whose connection broke."""

    def __init__(self, transport: AsyncTransport, job_id: str) -> None:
        self._transport, self._job_id = transport, job_id
        self._pauses = poll_intervals()

    async def again(self) -> AsyncResponseBody:
        await self._transport.run(pause_step(next(self._pauses)))
        return await self._transport.open(stream_text(self._job_id))

    async def cancel(self) -> None:
        await self._transport.run(cancel(self._job_id))
