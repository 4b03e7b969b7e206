"""The SDK for async programs, with the same verbs as `genie.Client`.

>>> import asyncio
>>> async def main() -> str:
...     async with genie.AsyncClient() as client:
...         return (await client.ask("Say hello in one word.")).text
>>> asyncio.run(main())
'Say hello in one word.'
"""

import asyncio
import inspect
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import TypeVar, Unpack

import anyio
import anyio.to_thread
import httpx2

from genie.errors import CloudUnreachable, GenieError, JobCancelled, UnknownJob
from genie.sdk.batches import BatchesVerbs, BatchVerbs
from genie.sdk.chat import AskOptions, Question, ask, submit
from genie.sdk.client import settle
from genie.sdk.credentials import Credentials
from genie.sdk.files import FilesVerbs
from genie.sdk.jobs import JobVerbs, cancel
from genie.sdk.many import ended_jobs
from genie.sdk.methods import AsyncCloud
from genie.sdk.requests import (
    Call,
    Item,
    Items,
    Pause,
    ReadLines,
    Step,
    Steps,
    Walk,
)
from genie.sdk.responses import error_of
from genie.sdk.results import P, Result, V
from genie.sdk.retries import (
    Clock,
    ConnectionBroken,
    RetryBudget,
)
from genie.sdk.schedules import ScheduleVerbs
from genie.sdk.schemas import Schema
from genie.sdk.streams import AnswerReader, OnWait
from genie.sdk.transport import (
    CloudHttp,
    headers,
    is_loopback,
    network_errors,
)
from genie.sdk.verbs import ClientVerbs

Q = TypeVar("Q")
T = TypeVar("T")

CANCEL_S = 5.0
"""How long a cancelled task may take to tell the cloud."""


class AsyncTransport(CloudHttp[httpx2.AsyncClient]):
    """Sends calls to one cloud; pauses and local work block no other task."""

    def __init__(
        self,
        credentials: Credentials,
        *,
        retry_s: float,
        clock: Clock,
        inner: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        http = httpx2.AsyncClient(
            headers=headers(credentials),
            transport=inner,
            trust_env=not is_loopback(credentials.url),
        )
        super().__init__(http, credentials.url, retry_s, clock)

    async def run(self, steps: Steps[T]) -> T:
        """The result of the steps."""
        walk = Walk(steps)
        for step in walk:
            with walk:
                walk.said = await self._take(step)
        return walk.value

    async def each(self, items: Items[T]) -> AsyncIterator[T]:
        """The items as they are found."""
        walk = Walk(items)
        for step in walk:
            with walk:
                if isinstance(step, Item):
                    yield step.value
                elif isinstance(step, ReadLines):
                    response = await self.send(step.call, stream=True)
                    async with aclosing(response):
                        async for line in self.lines(step.call, response):
                            if (found := step.take(line)) is not None:
                                yield found
                else:
                    walk.said = await self._take(step)

    async def send(self, call: Call, *, stream: bool = False) -> httpx2.Response:
        """The response; with ``stream`` its body is not read yet."""
        tries = RetryBudget(call, self._retry_s, self._clock)
        while True:
            tries.begin()
            try:
                return await self._once(call, stream)
            except GenieError as error:
                pause = tries.pause_after(error)
            await anyio.sleep(pause)

    async def lines(self, call: Call, response: httpx2.Response) -> AsyncIterator[str]:
        """The lines of the body as they arrive; raises `CloudUnreachable`."""
        with network_errors(self.url, call):
            async for line in response.aiter_lines():
                yield line

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def _take(self, step: Step) -> bytes:
        if isinstance(step, Call):
            return (await self.send(step)).content
        if isinstance(step, Pause):
            await anyio.sleep(step.seconds)
        else:
            await anyio.to_thread.run_sync(step.do)
        return b""

    async def _once(self, call: Call, stream: bool) -> httpx2.Response:
        body = call.body if call.stream is None else pieces(call.stream())
        with network_errors(self.url, call):
            response = await self._http.send(self._request(call, body), stream=stream)
            if response.status_code < 400 or call.is_probe:
                return response
            said = await response.aread()
        raise error_of(response.status_code, response.headers, said)


async def pieces(source: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Reads from a disk without blocking other tasks."""
    taking = partial(next, iter(source), b"")
    while piece := await anyio.to_thread.run_sync(taking):
        yield piece


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
        transport: AsyncTransport,
        call: Call,
        response: httpx2.Response,
        *,
        on_wait: OnWait | None = None,
        schema: Schema | None = None,
    ) -> None:
        super().__init__(response.headers, on_wait, schema)
        self._transport, self._call, self._response = transport, call, response
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
        await self._response.aclose()
        if is_left and self._must_cancel and self.job_id:
            await self._transport.run(cancel(self.job_id))

    async def _read(self) -> AsyncIterator[str]:
        try:
            while self._is_going_on:
                try:
                    async for line in self._transport.lines(self._call, self._response):
                        if piece := self._take(line):
                            yield piece
                        if self._is_read:
                            return
                    self._check()
                except ConnectionBroken as cut:
                    await self._response.aclose()
                    self._call = await self._transport.run(self._reconnect(cut))
                    self._response = await self._transport.send(self._call, stream=True)
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
            await self._response.aclose()


class AsyncJob(JobVerbs[AsyncCloud, P]):
    """A submitted job; `Job` for async programs.

    >>> async def main() -> str:
    ...     async with genie.AsyncClient() as client:
    ...         job = await client.submit("Summarise this.", persona="rollup")
    ...         return (await job.result()).text
    >>> asyncio.run(main())
    'Summarise this.'
    """

    _awaits = True

    def add_done_callback(self, tell: Callable[["AsyncJob[P]"], object]) -> None:
        """Call ``tell`` with this job when it has ended; see `Job.add_done_callback`.

        It runs in a task of the running asyncio loop; its result is awaited if it
        can be.
        """
        task = asyncio.get_running_loop().create_task(self._tell(tell))
        _telling.add(task)
        task.add_done_callback(_telling.discard)

    async def _tell(self, tell: Callable[["AsyncJob[P]"], object]) -> None:
        said = tell(await self.wait())
        if inspect.isawaitable(said):
            await said


_telling: set[asyncio.Task[None]] = set()
"""Callbacks that wait for their jobs; a loop keeps no strong reference to a task."""


async def as_completed(
    jobs: Iterable[AsyncJob[Q]],
    timeout: float | None = None,
    *,
    progress: bool | None = None,
) -> AsyncIterator[AsyncJob[Q]]:
    """Yields each job as it ends; see `genie.as_completed`."""
    if listed := list(jobs):
        async for job in listed[0].cloud.each(ended_jobs(listed, timeout, progress)):
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


class AsyncSchedule(ScheduleVerbs[AsyncCloud]):
    """A repeated question; `Schedule` for async programs."""

    _awaits = True


class AsyncBatch(BatchVerbs[AsyncCloud]):
    """A submitted batch; `Batch` for async programs."""

    _awaits = True


class AsyncBatches(BatchesVerbs[AsyncCloud, AsyncBatch]):
    """The batches of your org; `genie.sdk.batches.Batches` for async programs."""

    _awaits = True
    _batch = AsyncBatch


class AsyncFiles(FilesVerbs[AsyncCloud]):
    """The files of your org; `genie.sdk.files.Files` for async programs."""

    _awaits = True

    async def save(self, file_id: str, path: str | os.PathLike[str]) -> Path:
        """Write a file to ``path``; see `Files.save`."""
        async with await anyio.open_file(path, "w", encoding="utf-8") as out:
            async for line in self.lines(file_id):
                await out.write(f"{line}\n")
        return Path(path)


class AsyncClient(ClientVerbs[AsyncCloud, AsyncJob, AsyncSchedule, AsyncBatch]):
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

    _awaits = True
    _job, _schedule, _batch = AsyncJob, AsyncSchedule, AsyncBatch
    gather = staticmethod(gather)
    as_completed = staticmethod(as_completed)

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float | None = None,
        retry_s: float = 10.0,
        transport: httpx2.AsyncBaseTransport | None = None,
        clock: Clock | None = None,
    ) -> None:
        credentials, self.timeout = settle(url, api_key, timeout)
        self.url = credentials.url
        self._transport = AsyncTransport(
            credentials, retry_s=retry_s, clock=clock or Clock(), inner=transport
        )
        super().__init__(self._transport)
        self.batches = AsyncBatches(self._cloud)
        self.files = AsyncFiles(self._cloud)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; see `Client.close`."""
        await self._transport.close()

    async def ask(
        self,
        prompt: str | None = None,
        *,
        schema: type[V] | Mapping[str, object] | None = None,
        **options: Unpack[AskOptions],
    ) -> Result[V]:
        """Wait for the answer to ``prompt``; see `Client.ask`."""
        question = Question(prompt=prompt, options=options, schema=schema)
        return await self._cloud.run(ask(question, self.timeout))

    async def submit(
        self,
        prompt: str | None = None,
        *,
        schema: type[V] | Mapping[str, object] | None = None,
        **options: Unpack[AskOptions],
    ) -> AsyncJob[V]:
        """Submit the question as a job; see `Client.submit`."""
        question = Question(prompt=prompt, options=options, schema=schema)
        made = await self._cloud.run(submit(question))
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
        call = question.watched("stream", self.timeout)
        response = await self._transport.send(call, stream=True)
        return AsyncStream(
            self._transport, call, response, on_wait=on_wait, schema=schema
        )
