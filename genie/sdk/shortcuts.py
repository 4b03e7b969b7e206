"""The verbs of `genie.Client` as functions, on a client made from the settings."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, Unpack, overload

from genie.sdk.chat import AskOptions
from genie.sdk.client import Client, default
from genie.sdk.jobs import Job, Result
from genie.sdk.schemas import Schema

A = ParamSpec("A")
P = TypeVar("P")
T = TypeVar("T")


def on_default(method: Callable[Concatenate[Client, A], T]) -> Callable[A, T]:
    """Turns a method of the client into a function."""

    @wraps(method)
    def call(*args: A.args, **options: A.kwargs) -> T:
        return method(default(), *args, **options)

    return call


@overload
def ask(
    prompt: str | None = None, *, schema: type[P], **options: Unpack[AskOptions]
) -> Result[P]: ...


@overload
def ask(
    prompt: str | None = None,
    *,
    schema: Mapping[str, object] | None = None,
    **options: Unpack[AskOptions],
) -> Result: ...


def ask(
    prompt: str | None = None,
    *,
    schema: Schema | None = None,
    **options: Unpack[AskOptions],
) -> Result[Any]:
    """Wait for the answer to ``prompt``; see `Client.ask`.

    >>> print(genie.ask("Say hello in one word."))
    Say hello in one word.

    With a ``schema`` the answer is parsed:

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class City:
    ...     name: str
    >>> genie.ask('{"name": "Berlin"}', schema=City).parsed
    City(name='Berlin')
    """
    return default().ask(prompt, schema=schema, **options)


@overload
def submit(
    prompt: str | None = None, *, schema: type[P], **options: Unpack[AskOptions]
) -> Job[P]: ...


@overload
def submit(
    prompt: str | None = None,
    *,
    schema: Mapping[str, object] | None = None,
    **options: Unpack[AskOptions],
) -> Job: ...


def submit(
    prompt: str | None = None,
    *,
    schema: Schema | None = None,
    **options: Unpack[AskOptions],
) -> Job[Any]:
    """Submit the question as a job; see `Client.submit`.

    >>> job = genie.submit("Summarise this.", persona="rollup")
    >>> print(job.result())
    Summarise this.
    """
    return default().submit(prompt, schema=schema, **options)


stream = on_default(Client.stream)
map = on_default(Client.map)  # noqa: A001  # what Python calls it
embed = on_default(Client.embed)
batch = on_default(Client.batch)
job = on_default(Client.job)
schedule = on_default(Client.schedule)
schedules = on_default(Client.schedules)
models = on_default(Client.models)
personas = on_default(Client.personas)
route = on_default(Client.route)
workers = on_default(Client.workers)
queues = on_default(Client.queues)
