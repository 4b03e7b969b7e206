"""Async HTTP calls to the cloud, on asyncio or trio."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from functools import partial
from typing import TypeVar

import anyio
import anyio.to_thread
import httpx2

from genie.errors import GenieError
from genie.sdk.credentials import Credentials
from genie.sdk.requests import Call, Pause, Probe, Step, Steps
from genie.sdk.responses import error_of
from genie.sdk.retries import Clock, RetryBudget
from genie.sdk.transport import (
    CONNECT_S,
    address,
    headers,
    is_loopback,
    limits,
    unreachable,
)

T = TypeVar("T")


class AsyncTransport:
    """Sends calls to one cloud; pauses and local work block no other task."""

    def __init__(
        self,
        credentials: Credentials,
        *,
        retry_s: float,
        clock: Clock,
        inner: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = credentials.url
        self._retry_s = retry_s
        self._clock = clock
        self._http = httpx2.AsyncClient(
            base_url=credentials.url,
            headers=headers(credentials),
            transport=inner,
            trust_env=not is_loopback(credentials.url),
        )

    def now(self) -> float:
        """Seconds of a clock that never goes back."""
        return self._clock.now()

    async def run(self, steps: Steps[T]) -> T:
        """The result of the steps; see `genie.sdk.requests.run`."""
        try:
            step = next(steps)
            while True:
                try:
                    said = await self._take(step)
                except GenieError as error:  # the steps know what it means to them
                    step = steps.throw(error)
                else:
                    step = steps.send(said)
        except StopIteration as end:
            value: T = end.value
            return value
        finally:
            steps.close()

    async def send(self, call: Call, *, stream: bool = False) -> httpx2.Response:
        """The response; with ``stream`` its body is not read yet."""
        tries = RetryBudget(call, self._retry_s, self._clock)
        while True:
            tries.begin()
            try:
                return await self._once(call, stream)
            except GenieError as error:
                pause = tries.pause_after(error)
            await anyio.sleep(pause)

    async def open(self, call: Call) -> "AsyncResponseBody":
        """The response's body, to read line by line and close."""
        return AsyncResponseBody(self.url, call, await self.send(call, stream=True))

    async def lines(self, call: Call) -> AsyncGenerator[str]:
        """The lines of the body as they arrive."""
        async with aclosing(await self.open(call)) as body:
            async for line in body.lines():
                yield line

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def _take(self, step: Step) -> bytes:
        if isinstance(step, Call):
            return (await self.send(step)).content
        if isinstance(step, Probe):
            return await self._probe(step.path)
        if isinstance(step, Pause):
            await anyio.sleep(step.seconds)
        else:
            await anyio.to_thread.run_sync(step.do)
        return b""

    async def _probe(self, path: str) -> bytes:
        try:
            return (await self._http.get(path, timeout=CONNECT_S)).content
        except httpx2.TransportError as error:
            call = Call(method="GET", path=path)
            raise unreachable(self.url, call, error) from error

    async def _once(self, call: Call, stream: bool) -> httpx2.Response:
        request = self._http.build_request(
            call.method,
            address(self.url, call.path),
            content=call.body if call.stream is None else pieces(call.stream()),
            params=dict(call.params) or None,
            headers=dict(call.headers),
            timeout=limits(call),
        )
        try:
            response = await self._http.send(request, stream=stream)
            if response.status_code < 400:
                return response
            body = await response.aread()
        except httpx2.TransportError as error:
            raise unreachable(self.url, call, error) from error
        await response.aclose()
        raise error_of(response.status_code, response.headers, body)


class AsyncResponseBody:
    """The body of an open response, line by line."""

    def __init__(self, url: str, call: Call, response: httpx2.Response) -> None:
        self._url = url
        self._call = call
        self._response = response

    @property
    def headers(self) -> httpx2.Headers:
        """The response's headers."""
        return self._response.headers

    async def lines(self) -> AsyncIterator[str]:
        """The lines; raises `CloudUnreachable` when the connection breaks."""
        try:
            async for line in self._response.aiter_lines():
                yield line
        except httpx2.TransportError as error:
            raise unreachable(self._url, self._call, error) from error

    async def aclose(self) -> None:
        """Close the connection."""
        await self._response.aclose()


async def pieces(source: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Reads from a disk without blocking other tasks."""
    taking = partial(next, iter(source), b"")
    while piece := await anyio.to_thread.run_sync(taking):
        yield piece
