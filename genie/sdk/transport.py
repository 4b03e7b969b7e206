"""Sends HTTP calls to the cloud: bounded retries, errors as classes. Imports httpx2."""

from collections.abc import AsyncIterable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import lru_cache
from typing import Generic, TypeVar
from urllib.parse import urlsplit

import httpx2

from genie import __version__
from genie.errors import CloudUnreachable, GenieError
from genie.sdk import requests
from genie.sdk.credentials import Credentials
from genie.sdk.requests import Call, Items, Pause, Step, Steps
from genie.sdk.responses import error_of
from genie.sdk.retries import Clock, ConnectionBroken, RequestNotSent, RetryBudget

H = TypeVar("H", bound=httpx2.Client | httpx2.AsyncClient)
T = TypeVar("T")

CONNECT_S = 5.0


class CloudHttp(Generic[H]):
    """The HTTP client of one cloud, whether it waits or is awaited."""

    def __init__(self, http: H, url: str, retry_s: float, clock: Clock) -> None:
        self.url = url
        self._http, self._retry_s, self._clock = http, retry_s, clock

    def now(self) -> float:
        """Seconds of a clock that never goes back."""
        return self._clock.now()

    def _request(
        self, call: Call, body: bytes | Iterable[bytes] | AsyncIterable[bytes] | None
    ) -> httpx2.Request:
        return self._http.build_request(
            call.method,
            address(self.url, call.path),
            content=body,
            params=dict(call.params) or None,
            headers=dict(call.headers),
            timeout=httpx2.Timeout(call.timeout_s, connect=CONNECT_S),
        )


class Transport(CloudHttp[httpx2.Client]):
    """Sends calls to one cloud; safe to share between threads."""

    def __init__(
        self,
        credentials: Credentials,
        *,
        retry_s: float,
        clock: Clock,
        inner: httpx2.BaseTransport | None = None,
    ) -> None:
        http = httpx2.Client(
            headers=headers(credentials),
            transport=inner,
            trust_env=not is_loopback(credentials.url),
        )
        super().__init__(http, credentials.url, retry_s, clock)

    def run(self, steps: Steps[T]) -> T:
        """The result of the steps."""
        return requests.run(steps, self._take)

    def each(self, items: Items[T]) -> Iterator[T]:
        """The items as they are found."""
        return requests.each(items, self._take, self._lines_of)

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

    def lines(self, call: Call, response: httpx2.Response) -> Iterator[str]:
        """The lines of the body as they arrive; raises `CloudUnreachable`."""
        with network_errors(self.url, call):
            yield from response.iter_lines()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def _take(self, step: Step) -> bytes:
        if isinstance(step, Call):
            return self.send(step).content
        if isinstance(step, Pause):
            self._clock.sleep(step.seconds)
        else:
            step.do()
        return b""

    def _once(self, call: Call, stream: bool) -> httpx2.Response:
        body = call.body if call.stream is None else call.stream()
        with network_errors(self.url, call):
            response = self._http.send(self._request(call, body), stream=stream)
            if response.status_code < 400 or call.is_probe:
                return response
            said = response.read()
        raise error_of(response.status_code, response.headers, said)

    def _lines_of(self, call: Call) -> Generator[str]:
        with closing(self.send(call, stream=True)) as response:
            yield from self.lines(call, response)


@lru_cache(256)
def address(url: str, path: str) -> httpx2.URL:
    """A path of one cloud; parsed once, since parsing takes a tenth of a call here."""
    return httpx2.URL(url.rstrip("/") + path)


@contextmanager
def network_errors(url: str, call: Call) -> Iterator[None]:
    """Turns errors of the network into errors of ours."""
    try:
        yield
    except httpx2.TransportError as error:
        raise unreachable(url, call, error) from error


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
