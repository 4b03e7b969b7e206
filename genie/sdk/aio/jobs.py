"""A submitted job, for async programs."""

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing
from typing import Protocol, TypeVar

from genie.api_types import JobAnswer, JobEvent
from genie.errors import Unavailable
from genie.sdk.jobs import JobFollower, JobSteps, ResumableReader, stream_text
from genie.sdk.many import PendingJobs
from genie.sdk.progress import bar
from genie.sdk.requests import Call, Steps
from genie.sdk.results import P, Result
from genie.sdk.schemas import Schema
from genie.sdk.streams import JobTextReader

T = TypeVar("T")
Q = TypeVar("Q")

_telling: set[asyncio.Task[None]] = set()
"""Callbacks that wait for their jobs; a loop keeps no strong reference to a task."""


class AsyncCloud(Protocol):
    """Runs steps by awaiting them: what jobs, batches and files need of a client."""

    async def run(self, steps: Steps[T]) -> T:
        """The result of the steps."""

    def lines(self, call: Call) -> AsyncGenerator[str]:
        """The lines of an answer's body as they arrive."""

    def now(self) -> float:
        """Seconds of a clock that never goes back."""


class AsyncJob(JobSteps[P]):
    """A submitted job; `Job` for async programs.

    >>> async def main() -> str:
    ...     async with genie.AsyncClient() as client:
    ...         job = await client.submit("Summarise this.", persona="rollup")
    ...         return (await job.result()).text
    >>> asyncio.run(main())
    'Summarise this.'
    """

    def __init__(
        self, cloud: AsyncCloud, details: JobAnswer, schema: Schema | None = None
    ) -> None:
        super().__init__(details, cloud.now, schema)
        self._cloud = cloud

    @property
    def cloud(self) -> AsyncCloud:
        """The client that submitted it."""
        return self._cloud

    async def refresh(self) -> "AsyncJob[P]":
        """Ask the cloud for the job's current state; see `Job.refresh`."""
        await self._cloud.run(self._refreshing())
        return self

    async def done(self) -> bool:
        """True when the job has ended; see `Job.done`."""
        return await self._cloud.run(self._knowing())

    async def cancel(self) -> "AsyncJob[P]":
        """Stop the job; see `Job.cancel`."""
        await self._cloud.run(self._cancelling())
        return self

    async def retry(self) -> "AsyncJob[P]":
        """Submit an unsuccessful job again; see `Job.retry`."""
        made = await self._cloud.run(self._retrying())
        return AsyncJob(self._cloud, made, self._schema)

    def events(self) -> AsyncIterator[JobEvent]:
        """Yields the job's events until it has ended; see `Job.events`."""
        return follow(self._cloud, self.id)

    def stream(self) -> AsyncIterator[str]:
        """The answer in pieces from its start, as it is written; see `Job.stream`."""
        return through(self._cloud, JobTextReader(stream_text(self.id), self._now))

    def add_done_callback(self, tell: Callable[["AsyncJob[P]"], object]) -> None:
        """Call ``tell`` with this job when it has ended; see `Job.add_done_callback`.

        It runs in a task of the running asyncio loop; its result is awaited if it
        can be.
        """
        task = asyncio.get_running_loop().create_task(self._tell(tell))
        _telling.add(task)
        task.add_done_callback(_telling.discard)

    async def wait(self, timeout: float | None = None) -> "AsyncJob[P]":
        """Wait until the job has ended; see `Job.wait`."""
        await self._cloud.run(self._waiting(timeout))
        return self

    async def result(self, timeout: float | None = None) -> Result[P]:
        """Wait for the answer; see `Job.result`."""
        return await self._cloud.run(self._answering(timeout))

    async def _tell(self, tell: Callable[["AsyncJob[P]"], object]) -> None:
        said = tell(await self.wait())
        if inspect.isawaitable(said):
            await said


def follow(cloud: AsyncCloud, job_id: str) -> AsyncIterator[JobEvent]:
    """Yields a job's events as they happen until it has ended."""
    return through(cloud, JobFollower(job_id, cloud.now))


async def through(cloud: AsyncCloud, reader: ResumableReader[Q]) -> AsyncIterator[Q]:
    """Everything the reader finds; see `genie.sdk.jobs.read_with_reconnects`."""
    while not reader.is_over:
        try:
            async with aclosing(cloud.lines(reader.call())) as lines:
                async for line in lines:
                    if found := reader.take(line):
                        yield found
            reader.check()
        except Unavailable as error:
            await cloud.run(reader.resuming(error))


async def as_completed(
    jobs: Iterable[AsyncJob[Q]],
    timeout: float | None = None,
    *,
    progress: bool | None = None,
) -> AsyncIterator[AsyncJob[Q]]:
    """Yields each job as it ends; see `genie.as_completed`."""
    listed = list(jobs)
    if not listed:
        return
    cloud = listed[0].cloud
    watch = PendingJobs(listed, timeout, cloud.now)
    with bar("jobs", len(watch.left), progress) as shown:
        while watch.left:
            for job in await cloud.run(watch.looking()):
                shown.advance()
                yield job


async def gather(
    jobs: Iterable[AsyncJob[Q]],
    timeout: float | None = None,
    *,
    progress: bool | None = None,
) -> list[Result[Q]]:
    """The answers of all jobs, in order; see `genie.gather`."""
    listed = list(jobs)
    async for _job in as_completed(listed, timeout, progress=progress):
        pass
    return [await job.result() for job in listed]
