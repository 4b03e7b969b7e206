"""The SDK for programs that await: the same vocabulary as `genie.Client`.

>>> import asyncio
>>> async def main() -> str:
...     async with genie.AsyncClient() as client:
...         return (await client.ask("Say hello in one word.")).text
>>> asyncio.run(main())
'Say hello in one word.'
"""

from genie.aio.batches import AsyncBatch
from genie.aio.client import AsyncClient
from genie.aio.jobs import AsyncJob
from genie.aio.scheduling import AsyncSchedule
from genie.aio.streaming import AsyncStream

__all__ = ["AsyncBatch", "AsyncClient", "AsyncJob", "AsyncSchedule", "AsyncStream"]
