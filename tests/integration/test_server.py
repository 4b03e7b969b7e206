"""The web process's threads on real sockets, with an application of three lines."""

import http.client
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from fixtures.fleet import BIN, HOST, wait_until
from fixtures.ports import free_port
from fixtures.process import ServerProcess

THREADS = 2
ROOT = Path(__file__).parents[2]

Start = Callable[..., "Web"]


class Web:
    """gunicorn with two threads of ours."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        command = [str(BIN / "gunicorn"), "-b", f"{HOST}:{self.port}"]
        command += ["-k", "cloud_app.server.Server", "--threads", str(THREADS)]
        command += ["--no-control-socket", *options, "fixtures.slow_app:app"]
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), *sys.path])
        self.process = ServerProcess(
            command, folder=folder, environ={"PYTHONPATH": path, "HOME": str(folder)}
        )
        wait_until(self._answers, 30, "gunicorn answers")

    def _answers(self) -> bool:
        try:
            return self.get("/") == b"/"
        except OSError:
            return False

    def get(self, path: str) -> bytes:
        """One request on a connection of its own."""
        with socket.create_connection((HOST, self.port), timeout=20) as client:
            return ask(client, path)

    def connect(self) -> socket.socket:
        """A connection nobody has said anything on."""
        return socket.create_connection((HOST, self.port), timeout=20)

    @property
    def child(self) -> psutil.Process:
        """The process that serves."""
        (child,) = psutil.Process(self.process.pid).children()
        return child


def ask(client: socket.socket, path: str, *, body: bytes = b"") -> bytes:
    """The body of one response; raises `ConnectionError` when it is cut off."""
    send(client, path, body)
    return heard(client)


def send(client: socket.socket, path: str, body: bytes = b"") -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
    client.sendall(head.encode() + body)


def heard(client: socket.socket) -> bytes:
    response = http.client.HTTPResponse(client)
    try:
        response.begin()
        return response.read()
    except http.client.HTTPException as error:
        raise ConnectionError(str(error)) from error


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a server; it ends with the test."""
    running: list[Web] = []

    def begin(*options: str) -> Web:
        running.append(Web(tmp_path, *options))
        return running[-1]

    yield begin
    for web in running:
        web.process.end(signal.SIGKILL, timeout_s=10)


def test_a_connection_serves_one_request_after_the_other(start: Start) -> None:
    with start().connect() as client:
        for number in range(50):
            body = str(number).encode()
            assert ask(client, "/a", body=body) == b"/a" + body


def test_requests_sent_ahead_are_all_answered_in_order(start: Start) -> None:
    with start().connect() as client:
        for path in ("/1", "/2", "/3"):
            send(client, path)
        said = b""
        while not said.endswith(b"/3"):
            more = client.recv(65_536)
            assert more, said
            said += more
    assert [said.count(path) for path in (b"\n/1HTTP", b"\n/2HTTP")] == [1, 1]


def test_connections_that_say_nothing_hold_no_thread(start: Start) -> None:
    web = start()
    silent = [web.connect() for _ in range(THREADS * 10)]
    rested = [web.connect() for _ in range(THREADS * 10)]
    assert {ask(client, "/b") for client in rested} == {b"/b"}
    assert web.get("/c") == b"/c"
    for client in (*silent, *rested):
        assert ask(client, "/d") == b"/d"
        client.close()
    assert web.child.num_threads() == THREADS + 1  # and the main thread


def test_what_finds_no_free_thread_waits_for_one(start: Start) -> None:
    web = start()
    began = time.monotonic()
    with ThreadPoolExecutor(THREADS + 1) as pool:
        found = list(pool.map(web.get, ["/slow"] * (THREADS + 1)))
    assert found == [b"/slow"] * (THREADS + 1)
    assert time.monotonic() - began >= 4  # two at a time, two seconds each


def test_a_rested_connection_is_closed_in_the_end(start: Start) -> None:
    web = start("--keep-alive", "1")
    with web.connect() as client:
        assert ask(client, "/e") == b"/e"
        assert client.recv(1) == b""
    assert web.get("/f") == b"/f"


def test_a_stopping_server_ends_what_it_has_begun_and_takes_no_more(
    start: Start,
) -> None:
    web = start()
    with web.connect() as busy, web.connect() as resting:
        assert ask(resting, "/g") == b"/g"
        send(busy, "/slow")
        time.sleep(0.5)  # it must have begun
        os.kill(web.process.pid, signal.SIGTERM)
        wait_until(lambda: not _lets_in(web), 5, "no connection is taken any more")
        assert heard(busy) == b"/slow"
        assert resting.recv(1) == b""
        wait_until(lambda: not web.process.is_alive, 5, "the server has ended")


def _lets_in(web: Web) -> bool:
    try:
        web.get("/h")
    except OSError:
        return False
    return True


def test_more_connections_than_allowed_wait_outside(start: Start) -> None:
    web = start("--worker-connections", "5")
    inside = [web.connect() for _ in range(5 - THREADS)]
    assert {ask(client, "/i") for client in inside} == {b"/i"}
    inside += [web.connect() for _ in range(THREADS)]
    with web.connect() as outside:
        send(outside, "/j")
        outside.settimeout(1)
        with pytest.raises(TimeoutError):
            outside.recv(1)
        inside.pop().close()
        outside.settimeout(20)
        assert heard(outside) == b"/j"
    for client in inside:
        client.close()


def test_connections_that_rest_leave_room_for_others(start: Start) -> None:
    web = start("--worker-connections", "5", "--keep-alive", "60")
    clients = [web.connect() for _ in range(5 - THREADS)]
    assert {ask(client, "/l") for client in clients} == {b"/l"}
    wait_until(lambda: _is_let_go(web), 10, "one that would rest too is let go")
    for client in clients:
        assert ask(client, "/n") == b"/n"
        client.close()


def _is_let_go(web: Web) -> bool:
    with web.connect() as client:
        assert ask(client, "/m") == b"/m"
        client.settimeout(1)
        try:
            return client.recv(1) == b""
        except TimeoutError:  # the last one had its answer and did not rest yet
            return False


def test_a_request_that_wants_to_exit_costs_no_thread(start: Start) -> None:
    web = start()
    for _ in range(THREADS * 2):
        with pytest.raises(ConnectionError):
            web.get("/exit")
    assert web.get("/k") == b"/k"
