"""The cloud's HTTP API as Python objects to await."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from genie.api_types import ModelAnswer, PersonaAnswer, RouteAnswer
from genie.sdk import batches
from genie.sdk.aio.administration import AsyncAdministration
from genie.sdk.aio.batches import AsyncBatch, AsyncBatches
from genie.sdk.aio.files import AsyncFiles
from genie.sdk.aio.jobs import AsyncJob, as_completed, gather
from genie.sdk.aio.streams import AsyncStream
from genie.sdk.aio.transport import AsyncResponseBody, AsyncTransport
from genie.sdk.aio.work import AsyncJobOperations
from genie.sdk.batches import BatchOptions, BatchRequests
from genie.sdk.chat import AskOptions
from genie.sdk.client import settle
from genie.sdk.embeddings import Embeddings
from genie.sdk.jobs import cancel, stream_text
from genie.sdk.many import AT_ONCE, JobWindow, refuse_key
from genie.sdk.progress import bar
from genie.sdk.requests import Steps
from genie.sdk.results import Result, strip_job_id_prefix
from genie.sdk.retries import pause_step, poll_intervals
from genie.sdk.schemas import Schema
from genie.sdk.steps import questions
from genie.sdk.steps.questions import Question
from genie.sdk.streams import OnWait
from genie.sdk.transport import Clock

if TYPE_CHECKING:
    from httpx2 import AsyncBaseTransport

P = TypeVar("P")


class AsyncClient(AsyncJobOperations, AsyncAdministration):
    """One cloud, seen with one API key; `Client` for programs that await.

    It takes what `Client` takes, and does the same by the same names. ``transport`` is
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
        """The answer to ``prompt``, waited for; see `Client.ask`."""
        question = Question(prompt=prompt, options=options, schema=schema)
        return await self._cloud.run(questions.ask(question, self.timeout))

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
        """The question as a job that goes on without you; see `Client.submit`."""
        question = Question(prompt=prompt, options=options, schema=schema)
        made = await self._cloud.run(questions.submit(question))
        return AsyncJob(self._cloud, made, schema)

    async def stream(
        self,
        prompt: str | None = None,
        *,
        schema: Schema | None = None,
        on_wait: OnWait | None = None,
        **options: Unpack[AskOptions],
    ) -> AsyncStream:
        """The answer in pieces, while it is written; see `Client.stream`."""
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
        """The answer to each prompt, in their order, as jobs; see `Client.map`."""
        refuse_key(options)

        def submitting(prompt: str) -> Steps[AsyncJob]:
            question = Question(prompt=prompt, options=options, schema=schema)
            return AsyncJob(
                self._cloud, (yield from questions.submit(question)), schema
            )

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
        """A vector of length 1 for each text, in their order; see `Client.embed`."""
        wait_s = self.timeout if timeout is None else timeout
        return await self._cloud.run(questions.embed(texts, persona, model, wait_s))

    async def batch(
        self,
        requests: BatchRequests,
        *,
        schema: Schema | None = None,
        **options: Unpack[BatchOptions],
    ) -> AsyncBatch:
        """Many requests at once; see `Client.batch`."""
        made = await self._cloud.run(batches.submitting(requests, options, schema))
        return AsyncBatch(self._cloud, made, schema)

    async def route(
        self,
        prompt: str | None = None,
        *,
        persona: str | None = None,
        model: str | None = None,
    ) -> RouteAnswer:
        """Where such a question would go, and why; see `Client.route`."""
        return await self._cloud.run(questions.route(prompt, persona, model))

    async def models(self) -> tuple[ModelAnswer, ...]:
        """The catalog's models and which of them are ready; see `Client.models`."""
        return await self._cloud.run(questions.models())

    async def personas(self) -> tuple[PersonaAnswer, ...]:
        """The personas and their ladders of models; see `Client.personas`."""
        return await self._cloud.run(questions.personas())


class _AsyncStreamReconnect:
    """Back to an answer whose connection broke."""

    def __init__(self, transport: AsyncTransport, job_id: str) -> None:
        self._transport, self._job_id = transport, job_id
        self._pauses = poll_intervals()

    async def again(self) -> AsyncResponseBody:
        await self._transport.run(pause_step(next(self._pauses)))
        return await self._transport.open(stream_text(self._job_id))

    async def cancel(self) -> None:
        await self._transport.run(cancel(self._job_id))
