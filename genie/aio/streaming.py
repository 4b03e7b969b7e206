"""An answer that arrives while it is written, awaited."""

from collections.abc import AsyncIterator
from typing import Protocol

from genie.schemas import Schema
from genie.streaming import OnWait, Reading


class AsyncSource(Protocol):
    """An open HTTP response: its lines, and how to let it go."""

    def lines(self) -> AsyncIterator[str]:
        """The lines of the body; raises `CloudUnreachable` when it breaks off."""

    async def aclose(self) -> None:
        """Let the connection go; the cloud then stops the work."""


class AsyncStream(Reading):
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
        source: AsyncSource,
        *,
        job_id: str | None = None,
        on_wait: OnWait | None = None,
        schema: Schema | None = None,
    ) -> None:
        super().__init__(job_id=job_id, on_wait=on_wait, schema=schema)
        self._source = source
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
        self._is_closed = True
        await self._source.aclose()

    async def _read(self) -> AsyncIterator[str]:
        try:
            async for line in self._source.lines():
                if piece := self._take(line):
                    yield piece
                if self._is_read:
                    return
            self._check()
        finally:
            await self.close()
