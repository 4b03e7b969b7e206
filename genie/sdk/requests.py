"""The requests of a client, without I/O.

A verb of the API is a generator of `Steps`: it yields what to do next, is given
the body of each answer, and returns the result. A verb with many results, such as a
job's events, yields them among the steps (`Items`). `genie.sdk.verbs` makes methods of
verbs; `Transport` takes their steps, `AsyncTransport` awaits them.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from types import TracebackType
from typing import Generic, TypeVar
from urllib.parse import quote

import msgspec
from typing_extensions import TypeAliasType

from genie.errors import GenieError

R = TypeVar("R")
T = TypeVar("T")
Y = TypeVar("Y")

READ_S = 30.0
"""How many seconds a call may take that waits for no model."""

JOBS = "/v1/jobs"
JSON = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One HTTP request.

    ``is_repeatable``: sending it twice has the same effect as once. True for reads,
    deletes, and everything sent with an ``Idempotency-Key``. ``is_probe``: send it
    once, and take the answer whatever its status.
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
    is_probe: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Seconds to wait."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalWork:
    """Slow work on this machine, such as writing a file."""

    do: Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadLines(Generic[R]):
    """A read of an answer's lines as they arrive; what ``take`` returns is an item."""

    call: Call
    take: Callable[[str], R | None]


@dataclass(frozen=True, slots=True)
class Item(Generic[R]):
    """One of the results of a verb that has many."""

    value: R


Step = Call | Pause | LocalWork
Steps = TypeAliasType("Steps", Generator[Step, bytes, T], type_params=(T,))
Items = TypeAliasType(
    "Items", Generator[Step | ReadLines[R] | Item[R], bytes, None], type_params=(R,)
)


class Walk(Generic[Y, T]):
    """A walk over the steps of a verb; ``value`` is its result at the end.

    The caller iterates it and takes each step in a ``with`` block: there it sets
    ``said``, and an error of ours goes to the steps, which know what it means to them.
    """

    value: T

    def __init__(self, steps: Generator[Y, bytes, T]) -> None:
        self._steps = steps
        self._error: GenieError | None = None
        self.said = b""

    def __iter__(self) -> Iterator[Y]:
        try:
            step = next(self._steps)
            while True:
                yield step
                if self._error is None:
                    step = self._steps.send(self.said)
                else:
                    step = self._steps.throw(self._error)
        except StopIteration as end:
            self.value = end.value

    def __enter__(self) -> None:
        self.said, self._error = b"", None

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> bool:
        if isinstance(error, GenieError):
            self._error = error
            return True
        if error is not None:
            self._steps.close()
        return False


def run(steps: Steps[T], take: Callable[[Step], bytes]) -> T:
    """The result of the steps; ``take`` does each.

    >>> def greet() -> Steps[str]:
    ...     return (yield get("/v1/name")).decode().title()
    >>> run(greet(), lambda step: b"ann")
    'Ann'
    """
    walk = Walk(steps)
    for step in walk:
        with walk:
            walk.said = take(step)
    return walk.value


def each(
    items: Items[R],
    take: Callable[[Step], bytes],
    lines: Callable[[Call], Generator[str]],
) -> Generator[R]:
    """The items among the steps; ``lines`` are those of an answer as they arrive."""
    walk = Walk(items)
    for step in walk:
        with walk:
            if isinstance(step, Item):
                yield step.value
            elif isinstance(step, ReadLines):
                with closing(lines(step.call)) as arriving:
                    for line in arriving:
                        if (found := step.take(line)) is not None:
                            yield found
            else:
                walk.said = take(step)


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
    key: str | None = None,
    timeout_s: float = READ_S,
) -> Call:
    """A POST of JSON; sending it twice has the same effect as once if it is ``safe`` or
    has an idempotency ``key``."""
    return Call(
        method=method,
        path=path,
        body=msgspec.json.encode(data or {}),
        headers=JSON | {"idempotency-key": key} if key else JSON,
        timeout_s=timeout_s,
        is_repeatable=safe or key is not None,
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


def strip_job_id_prefix(job_id: str) -> str:
    """A job id without the prefix for OpenAI's clients.

    >>> strip_job_id_prefix("chatcmpl-01hx3k"), strip_job_id_prefix("01hx3k")
    ('01hx3k', '01hx3k')
    """
    return job_id.removeprefix("chatcmpl-").removeprefix("cmpl-")


def job_path(job_id: str, part: str = "") -> str:
    """The path of a job, or of a part of it; the id may have OpenAI's prefix."""
    return item_path(JOBS, strip_job_id_prefix(job_id)) + part
