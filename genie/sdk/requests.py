"""The requests of a client, without I/O.

A verb of the API is a generator of `Steps`: it yields what to do next, is given
the body of each answer, and returns the result. `genie.sdk.client.Client` takes
the steps one after the other, `genie.sdk.aio.AsyncClient` awaits them; neither knows
the API.
"""

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import quote

import msgspec

from genie.errors import GenieError

T = TypeVar("T")

READ_S = 30.0
"""How many seconds a call may take that waits for no model."""

JSON = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One HTTP request.

    ``is_repeatable``: sending it twice has the same effect as once. True for reads,
    deletes, and everything sent with an ``Idempotency-Key``.
    """

    method: str
    path: str
    body: bytes | None = None
    stream: Callable[[], Iterable[bytes]] | None = None
    """Builds a body that is too large for memory, again for each try."""
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = READ_S
    is_repeatable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A read of ``path`` that returns the body, whatever the status."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Seconds to wait."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalWork:
    """Slow work on this machine, such as writing a file."""

    do: Callable[[], object]


Step = Call | Probe | Pause | LocalWork
Steps = Generator[Step, bytes, T]


def run(steps: Steps[T], take: Callable[[Step], bytes]) -> T:
    """The result of the steps; ``take`` does each, and its errors go to the steps.

    >>> def greet() -> Steps[str]:
    ...     return (yield get("/v1/name")).decode().title()
    >>> run(greet(), lambda step: b"ann")
    'Ann'
    """
    try:
        step = next(steps)
        while True:
            try:
                said = take(step)
            except GenieError as error:  # the steps know what it means to them
                step = steps.throw(error)
            else:
                step = steps.send(said)
    except StopIteration as end:
        value: T = end.value
        return value
    finally:
        steps.close()


def get(path: str, params: Mapping[str, str] | None = None) -> Call:
    """A GET request."""
    return Call(method="GET", path=path, params=params or {}, is_repeatable=True)


def delete(path: str) -> Call:
    """A DELETE request."""
    return Call(method="DELETE", path=path, is_repeatable=True)


def post(
    path: str,
    data: Mapping[str, object] | None = None,
    *,
    method: str = "POST",
    safe: bool = False,
) -> Call:
    """A POST of JSON; ``safe``: sending it twice has the same effect as once."""
    return Call(
        method=method,
        path=path,
        body=msgspec.json.encode(data or {}),
        headers=JSON,
        is_repeatable=safe,
    )


def idempotent_post(
    path: str, data: Mapping[str, object], key: str, *, timeout_s: float = READ_S
) -> Call:
    """A POST of JSON with an idempotency key, so that it may be sent again."""
    return Call(
        method="POST",
        path=path,
        body=msgspec.json.encode(data),
        headers=JSON | {"idempotency-key": key},
        timeout_s=timeout_s,
        is_repeatable=True,
    )


def page(limit: int, after: str | None) -> dict[str, str]:
    """The query of a page: at most ``limit`` items, after the one with this id."""
    return {"limit": str(limit)} | ({"after": after} if after else {})


def item_path(path: str, name: str) -> str:
    """The path of an item in a collection; no name leads out of it.

    >>> item_path("/v1/jobs", "../keys")
    '/v1/jobs/..%2Fkeys'
    """
    return f"{path}/{quote(name, safe='')}"
