"""The client for programs that wait, and the one behind `genie.ask`."""

import atexit
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Unpack

import httpx2

from genie import env
from genie.errors import CloudUnreachable, JobCancelled, UnknownJob
from genie.sdk.batches import Batch, Batches
from genie.sdk.chat import AskOptions, Question, ask, submit
from genie.sdk.credentials import Credentials, resolve
from genie.sdk.files import Files
from genie.sdk.jobs import Job, cancel
from genie.sdk.many import as_completed, gather
from genie.sdk.methods import Cloud
from genie.sdk.requests import Call
from genie.sdk.results import Result, V
from genie.sdk.retries import Clock, ConnectionBroken
from genie.sdk.schedules import Schedule
from genie.sdk.schemas import Schema
from genie.sdk.streams import AnswerReader, OnWait
from genie.sdk.transport import Transport
from genie.sdk.verbs import ClientVerbs


class Stream(AnswerReader):
    """The pieces of one answer, as text; iterate it once.

    ``result`` holds the whole answer once the last piece was read. Leaving early
    with `close` (or a ``with`` block) cancels the job. The stream reconnects and
    continues when a connection breaks; `CloudUnreachable` if the cloud took that for
    your leaving, `JobFailed` if another worker began a different answer meanwhile.

    >>> story = client.stream("Tell a short story.")
    >>> "".join(story)
    'Tell a short story.'
    >>> story.result.finish_reason
    'stop'
    """

    def __init__(
        self,
        transport: Transport,
        call: Call,
        response: httpx2.Response,
        *,
        on_wait: OnWait | None = None,
        schema: Schema | None = None,
    ) -> None:
        super().__init__(response.headers, on_wait, schema)
        self._transport, self._call, self._response = transport, call, response
        self._pieces = self._read()

    def __iter__(self) -> Iterator[str]:
        return self._pieces

    def __next__(self) -> str:
        return next(self._pieces)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the stream; before its end this cancels the job.

        >>> story = client.stream("Tell a long story. " * 100)
        >>> next(story)[:4]
        'Tell'
        >>> story.close()
        """
        is_left, self._is_closed = not self._is_closed, True
        self._response.close()
        if is_left and self._must_cancel and self.job_id:
            self._transport.run(cancel(self.job_id))

    def _read(self) -> Iterator[str]:
        try:
            while self._is_going_on:
                try:
                    for line in self._transport.lines(self._call, self._response):
                        if piece := self._take(line):
                            yield piece
                        if self._is_read:
                            return
                    self._check()
                except ConnectionBroken as cut:
                    self._response.close()
                    self._call = self._transport.run(self._reconnect(cut))
                    self._response = self._transport.send(self._call, stream=True)
        except (CloudUnreachable, JobCancelled, UnknownJob) as error:
            if self._cut is None:
                raise
            raise self._cut from error  # away, or it took the cut for our leaving
        except (GeneratorExit, KeyboardInterrupt):
            self.close()
            raise
        finally:
            self._is_closed = True
            self._response.close()


class Client(ClientVerbs[Cloud, Job, Schedule, Batch]):
    """A client of one cloud with one API key; safe to share between threads.

    ``url`` and ``api_key`` default to ``GENIE_URL`` and ``GENIE_API_KEY``, or to what
    `genie up` saved on this machine. ``timeout`` is the seconds an answer may take if
    the call does not say; ``retry_s`` the seconds a call may wait between tries in all
    while the cloud is away or overloaded. ``transport`` is an httpx2 transport for an
    unusual network.

    >>> with genie.Client(timeout=30) as client:
    ...     print(client.ask("Say hello in one word."))
    Say hello in one word.
    """

    _job, _schedule, _batch = Job, Schedule, Batch
    gather = staticmethod(gather)
    as_completed = staticmethod(as_completed)

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float | None = None,
        retry_s: float = 10.0,
        transport: httpx2.BaseTransport | None = None,
        clock: Clock | None = None,
    ) -> None:
        credentials, self.timeout = settle(url, api_key, timeout)
        self.url = credentials.url
        self._transport = Transport(
            credentials, retry_s=retry_s, clock=clock or Clock(), inner=transport
        )
        super().__init__(self._transport)
        self.batches = Batches(self._cloud)
        self.files = Files(self._cloud)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections.

        >>> genie.Client().close()
        """
        self._transport.close()

    def ask(
        self,
        prompt: str | None = None,
        *,
        schema: type[V] | Mapping[str, object] | None = None,
        **options: Unpack[AskOptions],
    ) -> Result[V]:
        """Wait for the answer to ``prompt``.

        Without ``persona`` and ``model`` the persona ``chat`` answers. ``schema`` is a
        pydantic model, a dataclass, a TypedDict or a JSON schema; the answer follows
        it and is there as ``parsed``. Raises a `genie.errors` class: `UnknownModel`,
        `ContextTooLong`, `NoCapacity`, `JobFailed`, `JobTimeout`, `CloudUnreachable` …

        >>> client.ask("Say hello in one word.", max_tokens=2).text
        'Say hello'

        With a ``schema`` the answer is parsed:

        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class City:
        ...     name: str
        >>> client.ask('{"name": "Berlin"}', schema=City).parsed
        City(name='Berlin')
        """
        question = Question(prompt=prompt, options=options, schema=schema)
        return self._cloud.run(ask(question, self.timeout))

    def submit(
        self,
        prompt: str | None = None,
        *,
        schema: type[V] | Mapping[str, object] | None = None,
        **options: Unpack[AskOptions],
    ) -> Job[V]:
        """Submit the question as a job; see `Job.result`.

        >>> job = client.submit("Summarise this.", persona="rollup")
        >>> job.result().text
        'Summarise this.'
        """
        question = Question(prompt=prompt, options=options, schema=schema)
        return Job(self._cloud, self._cloud.run(submit(question)), schema)

    def stream(
        self,
        prompt: str | None = None,
        *,
        schema: Schema | None = None,
        on_wait: OnWait | None = None,
        **options: Unpack[AskOptions],
    ) -> Stream:
        """The answer in pieces, as it is written.

        ``on_wait`` gets the place in the queue until the request starts. The stream
        continues when a web process of the cloud dies. If your own connection
        drops, the job is cancelled: for work that must survive a disconnect, use
        ``submit(…).stream()``.

        >>> with client.stream("Tell a short story.") as story:
        ...     print("".join(story))
        Tell a short story.
        """
        question = Question(prompt=prompt, options=options, schema=schema)
        call = question.watched("stream", self.timeout)
        response = self._transport.send(call, stream=True)
        return Stream(self._transport, call, response, on_wait=on_wait, schema=schema)


def settle(
    url: str | None, api_key: str | None, timeout: float | None
) -> tuple[Credentials, float]:
    """Address and timeout: as given, otherwise from the settings."""
    settings = env.read(env.ClientSettings)
    given = replace(
        settings, url=url or settings.url, api_key=api_key or settings.api_key
    )
    return resolve(given), settings.timeout_s if timeout is None else timeout


def default() -> Client:
    """The client behind `genie.ask` and the others, by the current settings."""
    settings = env.read(env.ClientSettings)
    # a connection must not be shared with the process we were forked from
    return _shared(resolve(settings), settings.timeout_s, os.getpid())


@lru_cache(maxsize=8)
def _shared(credentials: Credentials, timeout: float, _process: int) -> Client:
    client = Client(credentials.url, credentials.api_key, timeout=timeout)
    atexit.register(client.close)
    return client
