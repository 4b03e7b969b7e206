"""Files in the cloud, awaited."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import anyio

from genie.sdk import files
from genie.sdk.aio.jobs import AsyncCloud
from genie.sdk.files import FileAnswer


class AsyncFiles:
    """The files of your org; `genie.sdk.files.Files` for programs that await."""

    def __init__(self, cloud: AsyncCloud) -> None:
        self._cloud = cloud

    async def upload(self, source: str | os.PathLike[str] | bytes) -> FileAnswer:
        """Upload a file for a batch; see `Files.upload`."""
        return await self._cloud.run(files.uploading(source))

    async def list(
        self, *, limit: int = 100, after: str | None = None
    ) -> tuple[FileAnswer, ...]:
        """Files of your org, newest first, one page of them; see `Files.list`."""
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
