"""One HTTP call to the cloud: bounded retries, errors as classes. Imports httpx2."""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from urllib.parse import urlsplit

import httpx2

from genie import __version__
from genie.credentials import Credentials
from genie.errors import CloudUnreachable, GenieError, RateLimited, Unavailable
from genie.responses import error_of

CONNECT_S = 5.0
READ_S = 30.0
"""How long a call that waits for no model may take."""

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Time as the SDK sees it; tests bring their own."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One HTTP request.

    ``is_repeatable`` says that doing it twice is the same as doing it once: reads,
    deletes, and everything sent with an ``Idempotency-Key``.
    """

    method: str
    path: str
    body: bytes | None = None
    stream: Callable[[], Iterable[bytes]] | None = None
    """Makes a body that is too large for memory, anew for each try."""
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = READ_S
    is_repeatable: bool = False


class Unsent(CloudUnreachable):
    """The cloud was not reached at all, so that any call may be tried again."""


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
            headers=_headers(credentials),
            transport=inner,
            trust_env=not is_loopback(credentials.url),
        )

    def call(self, call: Call) -> bytes:
        """The body of the response; raises the error class the cloud named."""
        return self.send(call).content

    def send(self, call: Call, *, stream: bool = False) -> httpx2.Response:
        """The response, its body unread with ``stream``; raises like `call`."""
        waited = 0.0
        for attempt in count(1):
            began = self._clock.now()
            try:
                return self._once(call, stream)
            except (Unavailable, RateLimited) as error:
                if isinstance(error, Unsent):  # dialling in vain is waiting too
                    waited += self._clock.now() - began
                pause = self._pause(call, error, attempt, waited)
                if pause is None:
                    raise
            self._clock.sleep(pause)
            waited += pause
        raise AssertionError("count() does not end")

    def probe(self, path: str) -> httpx2.Response:
        """The response of one GET, whatever its status, without a second try."""
        call = Call(method="GET", path=path)
        try:
            return self._http.get(path, timeout=CONNECT_S)
        except httpx2.TransportError as error:
            raise unreachable(self.url, call, error) from error

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def _pause(
        self, call: Call, error: GenieError, attempt: int, waited: float
    ) -> float | None:
        is_unclear = isinstance(error, CloudUnreachable) and not isinstance(
            error, Unsent
        )
        if is_unclear and not call.is_repeatable:
            return None
        jitter = self._clock.jitter()
        return pause_before(
            attempt, error.retry_after_s, jitter, self._retry_s - waited
        )

    def _once(self, call: Call, stream: bool) -> httpx2.Response:
        request = self._http.build_request(
            call.method,
            call.path,
            content=call.body if call.stream is None else call.stream(),
            params=dict(call.params) or None,
            headers=dict(call.headers),
            timeout=httpx2.Timeout(call.timeout_s, connect=CONNECT_S),
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


class Body:
    """The body of an open response, line by line."""

    def __init__(self, url: str, call: Call, response: httpx2.Response) -> None:
        self._url = url
        self._call = call
        self._response = response

    def lines(self) -> Iterator[str]:
        """The lines; raises `CloudUnreachable` when the connection breaks off."""
        try:
            yield from self._response.iter_lines()
        except httpx2.TransportError as error:
            raise unreachable(self._url, self._call, error) from error

    def close(self) -> None:
        """Let the connection go."""
        self._response.close()


def pause_before(
    attempt: int, retry_after_s: float | None, jitter: float, left_s: float
) -> float | None:
    """Seconds to wait before the next try, None when it is not worth waiting.

    Doubles from 0.1 s to 2 s (less up to half of it, by ``jitter`` in 0…1), never less
    than the cloud asked for, and never more than the ``left_s`` of the budget.

    >>> [pause_before(n, None, 0.0, 9.0) for n in (1, 2, 3, 9)]
    [0.1, 0.2, 0.4, 2.0]
    >>> pause_before(1, 30.0, 0.0, 9.0) is None
    True
    """
    longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(attempt - 1, 20))
    pause = max(longest * (1 - jitter / 2), retry_after_s or 0.0)
    return pause if pause <= left_s else None


def unreachable(url: str, call: Call, error: httpx2.TransportError) -> CloudUnreachable:
    """What happened on the way, in the product's words."""
    if isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout)):
        return Unsent(
            f"cannot reach the cloud at {url} ({error}); is it running? "
            "`genie up` starts one here, GENIE_URL names another"
        )
    if isinstance(error, httpx2.ReadTimeout):
        return CloudUnreachable(
            f"the cloud at {url} did not answer within {call.timeout_s:g} s; "
            "try again, with a longer timeout or with `submit`"
        )
    return CloudUnreachable(
        f"the connection to the cloud at {url} broke ({error}); try again"
    )


def is_loopback(url: str) -> bool:
    """True for this machine's own address, where no proxy has a say.

    >>> is_loopback("http://127.0.0.1:8080"), is_loopback("https://genie.example.com")
    (True, False)
    """
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def _headers(credentials: Credentials) -> dict[str, str]:
    headers = {
        "user-agent": f"genie-python/{__version__}",
        "accept": "application/json",
    }
    if credentials.api_key:
        headers["authorization"] = f"Bearer {credentials.api_key}"
    return headers
