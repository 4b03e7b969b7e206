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
    from genie.sdk.client import Client
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
    from genie.sdk.streams import Stream, Waiting

__version__ = "0.1.0"

_HOMES = {
    "AsyncClient": "genie.sdk.aio",
    "AsyncJob": "genie.sdk.aio",
    "AsyncStream": "genie.sdk.aio",
    "Batch": "genie.sdk.batches",
    "BatchResult": "genie.sdk.batches",
    "Client": "genie.sdk.client",
    "Job": "genie.sdk.jobs",
    "Alternative": "genie.sdk.results",
    "Result": "genie.sdk.results",
    "Schedule": "genie.sdk.schedules",
    "Stream": "genie.sdk.streams",
    "Waiting": "genie.sdk.streams",
    "as_completed": "genie.sdk.many",
    "ask": "genie.sdk.shortcuts",
    "batch": "genie.sdk.shortcuts",
    "embed": "genie.sdk.shortcuts",
    "gather": "genie.sdk.many",
    "job": "genie.sdk.shortcuts",
    "map": "genie.sdk.shortcuts",
    "models": "genie.sdk.shortcuts",
    "personas": "genie.sdk.shortcuts",
    "queues": "genie.sdk.shortcuts",
    "route": "genie.sdk.shortcuts",
    "schedule": "genie.sdk.shortcuts",
    "schedules": "genie.sdk.shortcuts",
    "stream": "genie.sdk.shortcuts",
    "submit": "genie.sdk.shortcuts",
    "workers": "genie.sdk.shortcuts",
}
"""The module of each public name."""

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
