"""Genie Fleet's Python SDK: ask a fleet of open-weights models for work.

    import genie

    print(genie.ask("Say hello in one word."))          # waits for the answer
    job = genie.submit("Review this diff: …", persona="review")
    print(job.result().text)                            # waits for the job
    for piece in genie.stream("Tell a short story."):   # text as it is written
        print(piece, end="", flush=True)

The cloud's address and key come from ``GENIE_URL`` and ``GENIE_API_KEY``, else from
what `genie up` saved on this machine. Names load on first use: ``import genie`` itself
imports nothing but the standard library.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genie import errors
    from genie.aio import AsyncClient, AsyncJob, AsyncStream
    from genie.batch_lines import BatchResult
    from genie.batches import Batch
    from genie.client import Client
    from genie.jobs import Job
    from genie.many import as_completed, gather
    from genie.results import Alternative, Result
    from genie.scheduling import Schedule
    from genie.shortcuts import (
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
    from genie.streaming import Stream, Waiting

__version__ = "0.1.0"

_HOMES = {
    "AsyncClient": "genie.aio",
    "AsyncJob": "genie.aio",
    "AsyncStream": "genie.aio",
    "Batch": "genie.batches",
    "BatchResult": "genie.batch_lines",
    "Client": "genie.client",
    "Job": "genie.jobs",
    "Alternative": "genie.results",
    "Result": "genie.results",
    "Schedule": "genie.scheduling",
    "Stream": "genie.streaming",
    "Waiting": "genie.streaming",
    "as_completed": "genie.many",
    "ask": "genie.shortcuts",
    "batch": "genie.shortcuts",
    "embed": "genie.shortcuts",
    "gather": "genie.many",
    "job": "genie.shortcuts",
    "map": "genie.shortcuts",
    "models": "genie.shortcuts",
    "personas": "genie.shortcuts",
    "queues": "genie.shortcuts",
    "route": "genie.shortcuts",
    "schedule": "genie.shortcuts",
    "schedules": "genie.shortcuts",
    "stream": "genie.shortcuts",
    "submit": "genie.shortcuts",
    "workers": "genie.shortcuts",
}
"""Where each public name lives."""

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
    if name == "errors":
        return import_module("genie.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'genie' has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
