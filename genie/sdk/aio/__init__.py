"""The SDK for async programs, with the same verbs as `genie.Client`.

>>> import asyncio
>>> async def main() -> str:
...     async with genie.AsyncClient() as client:
...         return (await client.ask("Say hello in one word.")).text
>>> asyncio.run(main())
'Say hello in one word.'
"""

from genie.sdk.aio.batches import AsyncBatch
from genie.sdk.aio.client import AsyncClient, AsyncSchedule, AsyncStream
from genie.sdk.aio.jobs import AsyncJob

__all__ = ["AsyncBatch", "AsyncClient", "AsyncJob", "AsyncSchedule", "AsyncStream"]
