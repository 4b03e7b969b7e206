"""Two clients, one vocabulary: what `Client` can do, `AsyncClient` can."""

import inspect
import re
from collections.abc import Callable
from typing import get_overloads

import pytest

from genie.sdk import aio, batches, client, files, jobs, schedules

PAIRS = [
    (client.Client, aio.AsyncClient),
    (jobs.Job, aio.AsyncJob),
    (batches.Batch, aio.AsyncBatch),
    (batches.Batches, aio.AsyncBatches),
    (files.Files, aio.AsyncFiles),
    (schedules.Schedule, aio.AsyncSchedule),
    (client.Stream, aio.AsyncStream),
]


def public(kind: type) -> dict[str, Callable[..., object]]:
    """What a class offers by name."""
    found = inspect.getmembers(kind, inspect.isroutine)
    return {name: one for name, one in found if not name.startswith("_")}


def parameters(method: Callable[..., object]) -> list[str]:
    """How a method is called, with the names of one world for both."""
    given = inspect.signature(method).parameters.values()
    return [
        re.sub(r"\bAsync(?=Job)|genie\.[\w.]+\.|~\w", "", f"{one}") for one in given
    ]


@pytest.mark.parametrize(("sync", "awaited"), PAIRS)
def test_both_have_the_same_verbs(sync: type, awaited: type) -> None:
    assert public(sync).keys() == public(awaited).keys()


@pytest.mark.parametrize(("sync", "awaited"), PAIRS)
def test_both_are_called_the_same_way(sync: type, awaited: type) -> None:
    others = public(awaited)
    for name, method in public(sync).items():
        assert parameters(method) == parameters(others[name]), name
        assert len(get_overloads(method)) == len(get_overloads(others[name])), name


@pytest.mark.parametrize(("sync", "awaited"), PAIRS)
def test_nothing_that_asks_the_cloud_blocks(sync: type, awaited: type) -> None:
    others = public(awaited)
    for name in public(sync).keys() - {"add_done_callback"}:
        said = str(inspect.signature(others[name]).return_annotation)
        is_awaited = inspect.iscoroutinefunction(others[name])
        assert is_awaited or "AsyncIterator" in said, name
