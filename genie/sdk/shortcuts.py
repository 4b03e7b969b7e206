"""The verbs of `genie.Client` as functions, on a client made from the settings."""

from collections.abc import Callable
from functools import wraps
from typing import cast

from genie.sdk.client import Client, default


class DefaultClient:
    """Its methods are those of a client that is made when one is called."""

    def __getattr__(self, name: str) -> Callable[..., object]:
        @wraps(getattr(Client, name).__get__(self), updated=())
        def call(*args: object, **options: object) -> object:
            return getattr(default(), name)(*args, **options)

        return call


_client = cast(Client, DefaultClient())

ask = _client.ask
submit = _client.submit
stream = _client.stream
map = _client.map  # noqa: A001  # what Python calls it
embed = _client.embed
batch = _client.batch
job = _client.job
schedule = _client.schedule
schedules = _client.schedules
models = _client.models
personas = _client.personas
route = _client.route
workers = _client.workers
queues = _client.queues
