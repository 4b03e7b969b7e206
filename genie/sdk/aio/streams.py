"""Reads an answer while it is written, for async programs."""

from collections.abc import AsyncIterator
from typing import Protocol

import anyio

from genie.errors import CloudUnreachable, JobCancelled, UnknownJob
from genie.sdk.retries import ConnectionBroken
from genie.sdk.schemas import Schema
from genie.sdk.streams import AnswerReader, OnWait

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
