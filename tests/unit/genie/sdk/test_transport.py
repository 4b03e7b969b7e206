"""Retries, timeouts and what a broken connection is called."""

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genie.errors import CloudUnreachable, Unauthorized, Unavailable
from genie.sdk.credentials import Credentials
from genie.sdk.requests import Call
from genie.sdk.retries import Clock, RequestNotSent, pause_before
from genie.sdk.transport import Transport

Reply = httpx2.Response | httpx2.TransportError

OK = httpx2.Response(200, content=b"ok")
BUSY = httpx2.Response(503, headers={"retry-after": "2"})
REFUSED = httpx2.ConnectError("connection refused")
BROKEN = httpx2.ReadError("connection reset")
SLOW = httpx2.ReadTimeout("timed out")

READ = Call(method="GET", path="/v1/models", is_repeatable=True)
PROBE = Call(method="GET", path="/health", is_probe=True)
ONCE = Call(method="POST", path="/v1/keys", body=b"{}")


class Scripted:
    """A transport with one reply after the other, and a clock that notes waits."""

    def __init__(self, *replies: Reply, retry_s: float = 10.0) -> None:
        self.replies = list(replies)
        self.requests: list[httpx2.Request] = []
        self.waits: list[float] = []
        clock = Clock(now=lambda: 0.0, sleep=self.waits.append, jitter=lambda: 0.0)
        self.transport = Transport(
            Credentials(url="http://127.0.0.1:1", api_key="sk-genie-a-1"),
            retry_s=retry_s,
            clock=clock,
            inner=httpx2.MockTransport(self._reply),
        )

    def _reply(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        reply = self.replies.pop(0)
        if isinstance(reply, httpx2.TransportError):
            raise reply
        return reply


def test_the_key_is_sent_as_a_bearer() -> None:
    scripted = Scripted(OK)
    assert scripted.transport.send(READ).content == b"ok"
    assert scripted.requests[0].headers["authorization"] == "Bearer sk-genie-a-1"


def test_a_read_that_breaks_off_is_tried_again() -> None:
    scripted = Scripted(REFUSED, BROKEN, SLOW, OK)
    assert scripted.transport.send(READ).content == b"ok"
    assert scripted.waits == [0.1, 0.2, 0.4]


def test_a_busy_cloud_is_asked_again_when_it_said_so() -> None:
    scripted = Scripted(BUSY, OK)
    assert scripted.transport.send(ONCE).content == b"ok"
    assert scripted.waits == [2.0]


def test_what_must_not_happen_twice_is_not_sent_twice() -> None:
    scripted = Scripted(BROKEN, OK)
    with pytest.raises(CloudUnreachable, match="broke"):
        scripted.transport.send(ONCE)
    assert len(scripted.requests) == 1


def test_what_was_never_sent_may_be_sent_again() -> None:
    scripted = Scripted(REFUSED, OK)
    assert scripted.transport.send(ONCE).content == b"ok"


def test_waiting_ends_with_the_budget() -> None:
    scripted = Scripted(*[REFUSED] * 50, retry_s=3.0)
    with pytest.raises(
        RequestNotSent, match=r"cannot reach the cloud at http://127\.0\.0\.1:1"
    ):
        scripted.transport.send(READ)
    assert sum(scripted.waits) <= 3.0


def test_a_wait_longer_than_the_budget_is_not_begun() -> None:
    scripted = Scripted(httpx2.Response(503, headers={"retry-after": "60"}))
    with pytest.raises(Unavailable) as caught:
        scripted.transport.send(READ)
    assert caught.value.retry_after_s == 60.0
    assert scripted.waits == []


def test_an_error_that_trying_cannot_help_is_raised_at_once() -> None:
    scripted = Scripted(httpx2.Response(401))
    with pytest.raises(Unauthorized):
        scripted.transport.send(READ)
    assert scripted.waits == []


def test_a_probe_shows_any_status_and_tries_once() -> None:
    assert Scripted(BUSY).transport.send(PROBE).status_code == 503
    with pytest.raises(CloudUnreachable):
        Scripted(REFUSED).transport.send(PROBE)


@given(
    attempt=st.integers(1, 10_000),
    asked=st.none() | st.floats(0, 1000),
    jitter=st.floats(0, 1),
    left=st.floats(0, 1000),
)
def test_a_pause_fits_the_budget_and_is_no_shorter_than_asked(
    attempt: int, asked: float | None, jitter: float, left: float
) -> None:
    pause = pause_before(attempt, asked, jitter, left)
    if pause is None:
        return
    assert 0.05 <= pause <= left
    assert pause >= (asked or 0.0)
    assert pause <= max(2.0, asked or 0.0)
