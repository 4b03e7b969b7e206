"""Sends HTTP calls to the cloud: bounded retries, errors as classes. Imports httpx2."""

from collections.abc import Generator, Iterator
from contextlib import closing
from functools import lru_cache
from typing import TypeVar
from urllib.parse import urlsplit

import httpx2

from genie import __version__
from genie.errors import CloudUnreachable, GenieError
from genie.sdk import requests
from genie.sdk.credentials import Credentials
from genie.sdk.requests import Call, Items, Pause, Probe, Step, Steps
from genie.sdk.responses import error_of
from genie.sdk.retries import Clock, ConnectionBroken, RequestNotSent, RetryBudget

T = TypeVar("T")

CONNECT_S = 5.0


class Transport:
    """Sends calls to one cloud; safe to share between threads."""

    def __init__(
        self,
        credentials: Credentials,
        *,
        retry_s: float,
        clock: Clock,
        inner: httpx2.BaseTransport | None = None,
    ) -> None:
        self.url = credentials.url
        self._retry_s = retry_s
        self._clock = clock
        self._http = httpx2.Client(
            base_url=credentials.url,
            headers=headers(credentials),
            transport=inner,
            trust_env=not is_loopback(credentials.url),
        )

    def now(self) -> float:
        """Seconds of a clock that never goes back."""
        return self._clock.now()

    def run(self, steps: Steps[T]) -> T:
        """The result of the steps."""
        return requests.run(steps, self._take)

    def each(self, items: Items[T]) -> Iterator[T]:
        """The items as they are found."""
        return requests.each(items, self._take, self._lines)

    def send(self, call: Call, *, stream: bool = False) -> httpx2.Response:
        """The response, with ``stream`` its body not read yet; raises its error."""
        tries = RetryBudget(call, self._retry_s, self._clock)
        while True:
            tries.begin()
            try:
                return self._once(call, stream)
            except GenieError as error:
                pause = tries.pause_after(error)
            self._clock.sleep(pause)

    def open(self, call: Call) -> "ResponseBody":
        """The response's body, to read line by line and close."""
        return ResponseBody(self.url, call, self.send(call, stream=True))

    def probe(self, path: str) -> httpx2.Response:
        """The response of one GET, whatever its status, without a retry."""
        call = Call(method="GET", path=path)
        try:
            return self._http.get(path, timeout=CONNECT_S)
        except httpx2.TransportError as error:
            raise unreachable(self.url, call, error) from error

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def _take(self, step: Step) -> bytes:
        if isinstance(step, Call):
            return self.send(step).content
        if isinstance(step, Probe):
            return self.probe(step.path).content
        if isinstance(step, Pause):
            self._clock.sleep(step.seconds)
        else:
            step.do()
        return b""

    def _lines(self, call: Call) -> Generator[str]:
        with closing(self.open(call)) as body:
            yield from body.lines()

    def _once(self, call: Call, stream: bool) -> httpx2.Response:
        request = self._http.build_request(
            call.method,
            address(self.url, call.path),
            content=call.body if call.stream is None else call.stream(),
            params=dict(call.params) or None,
            headers=dict(call.headers),
            timeout=limits(call),
        )
        try:
            response = self._http.send(request, stream=stream)
            if response.status_code < 400:
                return response
            body = response.read()
        except httpx2.TransportError as error:
            raise unreachable(self.url, call, error) from error
        response.close()
        raise error_of(response.status_code, response.headers, body)


class ResponseBody:
    """The body of an open response, line by line."""

    def __init__(self, url: str, call: Call, response: httpx2.Response) -> None:
        self._url = url
        self._call = call
        self._response = response

    @property
    def headers(self) -> httpx2.Headers:
        """The response's headers."""
        return self._response.headers

    def lines(self) -> Iterator[str]:
        """The lines; raises `CloudUnreachable` when the connection breaks."""
        try:
            yield from self._response.iter_lines()
        except httpx2.TransportError as error:
            raise unreachable(self._url, self._call, error) from error

    def close(self) -> None:
        """Close the connection."""
        self._response.close()


@lru_cache(256)
def address(url: str, path: str) -> httpx2.URL:
    """A path of one cloud; parsed once, since parsing takes a tenth of a call here."""
    return httpx2.URL(url.rstrip("/") + path)


def limits(call: Call) -> httpx2.Timeout:
    """The time limits of the parts of a call."""
    return httpx2.Timeout(call.timeout_s, connect=CONNECT_S)


def unreachable(url: str, call: Call, error: httpx2.TransportError) -> CloudUnreachable:
    """A transport error as an error of ours."""
    if isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout)):
        return RequestNotSent(
            f"cannot reach the cloud at {url} ({error}); is it running? "
            "`genie up` starts one here, GENIE_URL names another"
        )
    if isinstance(error, httpx2.ReadTimeout):
        return CloudUnreachable(
            f"the cloud at {url} did not answer within {call.timeout_s:g} s; "
            "try again, with a longer timeout or with `submit`"
        )
    return ConnectionBroken(
        f"the connection to the cloud at {url} broke ({error}); try again"
    )


def is_loopback(url: str) -> bool:
    """True for this machine's own address, which needs no proxy.

    >>> is_loopback("http://127.0.0.1:8080"), is_loopback("https://genie.example.com")
    (True, False)
    """
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def headers(credentials: Credentials) -> dict[str, str]:
    """The headers of every request."""
    carried = {
        "user-agent": f"genie-python/{__version__}",
        "accept": "application/json",
    }
    if credentials.api_key:
        carried["authorization"] = f"Bearer {credentials.api_key}"
    return carried


__all__ = ["Clock", "Transport", "is_loopback", "unreachable"]
