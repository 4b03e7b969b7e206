"""The server's bookkeeping, without a socket."""

import os
from collections.abc import Iterator

import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger

from cloud_app import server
from cloud_app.server import Server
from cloud_app.turns import Turns


@pytest.fixture
def idle() -> Iterator[Server]:
    """A server that was made and serves nothing yet."""
    config = Config()
    made = Server(1, os.getppid(), [], None, 30, config, Logger(config))
    yield made
    made.tmp.close()


class _Refused:
    """A thread where there can be no more."""

    def __init__(self, **_options: object) -> None:
        pass

    def start(self) -> None:
        raise RuntimeError("can't start new thread")


def test_a_thread_that_cannot_be_had_ends_none_of_those_that_serve(
    idle: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "Thread", _Refused)
    with pytest.raises(RuntimeError):
        idle._hire()  # none at all: the process is of no use
    idle._threads = 1
    idle._hire()
    assert (idle._threads, idle._idle) == (1, 0)  # the next one tries again


class _Ending:
    """A connection; notes who has a turn while it waits for its client to close."""

    def __init__(self, one: Turns) -> None:
        self._one = one
        self.seen: dict[int, float] | None = None

    def close(self, *, graceful: bool = False) -> None:
        assert graceful
        self.seen = dict(self._one._began)


def test_who_waits_for_a_client_to_close_has_left_its_turn(
    idle: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idle, "handle", lambda _conn: False)
    one = Turns(at_once=1)
    one.take()
    one.begin()
    conn = _Ending(one)
    idle._serve(conn)
    assert conn.seen == {}
