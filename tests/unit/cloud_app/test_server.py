"""The server's bookkeeping, without a socket."""

import os
from collections.abc import Iterator

import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger

from cloud_app import server
from cloud_app.server import Server


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
