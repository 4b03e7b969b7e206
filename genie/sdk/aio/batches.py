"""Batches and files in the cloud, for async programs."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Unpack

import anyio

from genie.api_types import BatchAnswer, FileAnswer
from genie.sdk import batches, files
from genie.sdk.aio.jobs import AsyncCloud
from genie.sdk.batches import (
    BatchOptions,
    BatchRequests,
    BatchResult,
    BatchSteps,
    result_of,
)
from genie.sdk.files import content
from genie.sdk.progress import bar
from genie.sdk.schemas import Schema


class AsyncFiles:
    """The files of your org; `genie.sdk.files.Files` for async programs."""

    def __init__(self, cloud: AsyncCloud) -> None:
        self._cloud = cloud

    async def upload(self, source: str | os.PathLike[str] | bytes) -> FileAnswer:
        """Upload a file for a batch; see `Files.upload`."""
        return await self._cloud.run(files.uploading(source))

    async def list(
        self, *, limit: int = 100, after: str | None = None
    ) -> tuple[FileAnswer, ...]:
        """One page of your org's files, newest first; see `Files.list`."""
        return await self._cloud.run(files.listing(limit, after))

    async def get(self, file_id: str) -> FileAnswer:
        """One file: its name, size and digest; see `Files.get`."""
        return await self._cloud.run(files.finding(file_id))

    async def content(self, file_id: str) -> bytes:
        """All bytes of a file; see `Files.content`."""
        return await self._cloud.run(files.fetching(file_id))

    def lines(self, file_id: str) -> AsyncIterator[str]:
        """The lines of a file as they arrive; see `Files.lines`."""
        return self._cloud.lines(files.content(file_id))

    async def save(self, file_id: str, path: str | os.PathLike[str]) -> Path:
        """Write a file to ``path``; see `Files.save`."""
        async with await anyio.open_file(path, "w", encoding="utf-8") as out:
            async for line in self.lines(file_id):
                await out.write(f"{line}\n")
        return Path(path)

    async def delete(self, file_id: str) -> None:
        """Delete a file; see `Files.delete`."""
        await self._cloud.run(files.deleting(file_id))


class AsyncBatch(BatchSteps):
    """A submitted batch; `Batch` for async programs."""

    def __init__(
        self, cloud: AsyncCloud, details: BatchAnswer, schema: Schema | None = None
    ) -> None:
        super().__init__(details, cloud.now, schema)
        self._cloud = cloud

    async def refresh(self) -> "AsyncBatch":
        """Ask the cloud for the batch's current state; see `Batch.refresh`."""
        await self._cloud.run(self._refreshing())
        return self

    async def done(self) -> bool:
        """True when the batch has ended; see `Batch.done`."""
        return await self._cloud.run(self._knowing())

    async def cancel(self) -> "AsyncBatch":
        """Stop the batch; existing answers are kept. See `Batch.cancel`."""
        await self._cloud.run(self._cancelling())
        return self

    async def wait(
        self,
        timeout: float | None = None,
        *,
        progress: bool | None = None,
    ) -> "AsyncBatch":
        """Wait until the batch has ended; see `Batch.wait`."""
        with bar("requests", None, progress) as shown:
            await self._cloud.run(self._waiting(timeout, shown))
        return self

    async def results(
        self, *, progress: bool | None = None
    ) -> AsyncIterator[BatchResult]:
        """Every request with its answer or error; see `Batch.results`."""
        await self.wait(progress=progress)
        for file_id in self._files():
            async for line in self._cloud.lines(content(file_id)):
                yield result_of(line, self._schema)


class AsyncBatches:
    """The batches of your org; `genie.sdk.batches.Batches` for async programs."""

    def __init__(self, cloud: AsyncCloud) -> None:
        self._cloud = cloud

    async def submit(
        self,
        requests: BatchRequests,
        *,
        schema: Schema | None = None,
        **options: Unpack[BatchOptions],
    ) -> AsyncBatch:
        """Run many requests at low priority; see `Batches.submit`."""
        made = await self._cloud.run(batches.submitting(requests, options, schema))
        return AsyncBatch(self._cloud, made, schema)

    async def get(self, batch_id: str) -> AsyncBatch:
        """The batch with this id; see `Batches.get`."""
        found = await self._cloud.run(batches.finding(batch_id))
        return AsyncBatch(self._cloud, found)

    async def list(
        self, *, limit: int = 20, after: str | None = None
    ) -> tuple[AsyncBatch, ...]:
        """One page of your org's batches, newest first; see `Batches.list`."""
        found = await self._cloud.run(batches.listing(limit, after))
        return tuple(AsyncBatch(self._cloud, details) for details in found)
