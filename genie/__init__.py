"""Genie Fleet's Python SDK: ask a fleet of open-weights models for work.

    import genie

    print(genie.ask("Say hello in one word."))          # waits for the answer
    job = genie.submit("Review this diff: …", persona="review")
    print(job.result().text)                            # waits for the job
    for piece in genie.stream("Tell a short story."):   # text as it is written
        print(piece, end="", flush=True)

The cloud's address and key come from ``GENIE_URL`` and ``GENIE_API_KEY``, or from
what `genie up` saved on this machine. Names load on first use: ``import genie``
imports only the standard library.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genie import errors
    from genie.sdk.aio import AsyncClient, AsyncJob, AsyncStream
    from genie.sdk.batches import Batch, BatchResult
    from genie.sdk.client import Client, Stream
    from genie.sdk.jobs import Job
    from genie.sdk.many import as_completed, gather
    from genie.sdk.results import Alternative, Result
    from genie.sdk.schedules import Schedule
    from genie.sdk.shortcuts import (
        ask,
        batch,
        embed,
        job,
        map,  # noqa: A004
        models,
        personas,
        queues,
        route,
        schedule,
        schedules,
        stream,
        submit,
        workers,
    )
    from genie.sdk.streams import Waiting

__version__ = "0.2.0"

_HOMES = {
    "aio": ("AsyncClient", "AsyncJob", "AsyncStream"),
    "batches": ("Batch", "BatchResult"),
    "client": ("Client", "Stream"),
    "jobs": ("Job",),
    "many": ("as_completed", "gather"),
    "results": ("Alternative", "Result"),
    "schedules": ("Schedule",),
    "streams": ("Waiting",),
}
"""The modules of `genie.sdk` with public names; the other names are shortcuts."""

__all__ = [
    "Alternative",
    "AsyncClient",
    "AsyncJob",
    "AsyncStream",
    "Batch",
    "BatchResult",
    "Client",
    "Job",
    "Result",
    "Schedule",
    "Stream",
    "Waiting",
    "__version__",
    "as_completed",
    "ask",
    "batch",
    "embed",
    "errors",
    "gather",
    "job",
    "map",
    "models",
    "personas",
    "queues",
    "route",
    "schedule",
    "schedules",
    "stream",
    "submit",
    "workers",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'genie' has no attribute {name!r}")
    if name == "errors":
        return import_module("genie.errors")
    homes = (home for home, names in _HOMES.items() if name in names)
    home = import_module(f"genie.sdk.{next(homes, 'shortcuts')}")
    value: object = getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
