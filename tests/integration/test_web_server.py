"""The web server on real sockets, with an application of three lines."""

import http.client
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import psutil
import pytest

from cloud_app.server import FREE_BYTES
from fixtures.fleet import HOST, wait_until
from fixtures.ports import free_port
from fixtures.process import ServerProcess

THREADS = 2
STRANGERS = 200
SOON_S = 3.0
ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "fixtures" / "slow_web.py"
ENVIRON = {
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    "PATH": os.defpath,
}
KEY = "Authorization: Bearer good\r\n"

Start = Callable[..., "Web"]


class Web:
    """A server process with two threads and short deadlines."""

    def __init__(self, folder: Path, **limits: float) -> None:
        self.port = free_port()
        self.clients: list[socket.socket] = []
        self.process = process(folder, self.port, **limits)
        wait_until(self.answers, 30, "the server answers")

    def answers(self) -> bool:
        """True when a request has its answer within five seconds."""
        try:
            return self.get("/") == b"/"
        except OSError:
            return False

    def get(self, path: str, timeout_s: float = 5.0) -> bytes:
        """One request on a connection of its own."""
        with self.connect(timeout_s) as client:
            return ask(client, path)

    def connect(self, timeout_s: float = 20.0) -> socket.socket:
        """A connection nobody has said anything on."""
        client = socket.create_connection((HOST, self.port), timeout=timeout_s)
        self.clients.append(client)
        return client

    def raw(self, data: bytes) -> bytes:
        """What comes back for these bytes, until the server closes."""
        with self.connect() as client:
            client.sendall(data)
            return b"".join(iter(lambda: client.recv(65_536), b""))

    def strangers(self, first: bytes) -> list[socket.socket]:
        """Many clients that say this much and then nothing."""
        clients = [self.connect() for _ in range(STRANGERS)]
        for client in clients:
            client.sendall(first)
        return clients

    @property
    def threads(self) -> int:
        """How many threads the process has."""
        return int(psutil.Process(self.process.pid).num_threads())

    def end(self) -> None:
        """End the process, and every connection to it."""
        self.process.end(signal.SIGKILL, timeout_s=10)
        for client in self.clients:
            client.close()


def process(folder: Path, port: int, **limits: float) -> ServerProcess:
    return ServerProcess(
        command(port, **limits), folder=folder, environ=ENVIRON, name="web"
    )


def command(port: int, **limits: float) -> list[str]:
    short = {"threads": THREADS, "read_s": 1.0, "send_s": 1.0, "idle_s": 2.0}
    return [sys.executable, str(PROGRAM), str(port), json.dumps(short | limits)]


def head(path: str, length: int, extra: str = "") -> bytes:
    lines = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n{extra}"
    return f"{lines}\r\n".encode()


def ask(client: socket.socket, path: str, *, body: bytes = b"") -> bytes:
    """The body of one answer; raises `ConnectionError` when it is cut off."""
    client.sendall(head(path, len(body)) + body)
    return answer(client)[1]


def answer(client: socket.socket) -> tuple[http.client.HTTPResponse, bytes]:
    response = http.client.HTTPResponse(client)
    try:
        response.begin()
        return response, response.read()
    except http.client.HTTPException as error:
        raise ConnectionError(str(error)) from error


def all_closed(clients: list[socket.socket], within_s: float) -> bool:
    until = time.monotonic() + within_s
    return all(is_closed(client, until - time.monotonic()) for client in clients)


def is_closed(client: socket.socket, within_s: float) -> bool:
    client.settimeout(max(0.01, within_s))
    try:
        while client.recv(65_536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return True


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a server; it ends with the test."""
    running: list[Web] = []

    def begin(**limits: float) -> Web:
        running.append(Web(tmp_path, **limits))
        return running[-1]

    yield begin
    for web in running:
        web.end()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """One server for tests that leave it as it is."""
    web = Web(tmp_path_factory.mktemp("web"))
    yield web
    web.end()


# --- what every server does


def test_a_connection_serves_one_request_after_the_other(shared: Web) -> None:
    with shared.connect() as client:
        for number in range(50):
            body = str(number).encode()
            assert ask(client, "/a", body=body) == b"/a" + body


def test_requests_sent_ahead_are_all_answered_in_order(shared: Web) -> None:
    with shared.connect() as client:
        for path in ("/1", "/2", "/3"):
            client.sendall(head(path, 0))
        said = b""
        while not said.endswith(b"/3"):
            more = client.recv(65_536)
            assert more, said
            said += more
    assert said.index(b"\n/1HTTP") < said.index(b"\n/2HTTP")


def test_threads_start_as_they_are_needed_and_no_more_of_them(start: Start) -> None:
    web = start(threads=12)
    resting = [web.connect() for _ in range(20)]
    assert {ask(client, "/b") for client in resting} == {b"/b"}
    assert web.threads < 8  # the loop, and one or two that served them all
    with ThreadPoolExecutor(14) as pool:
        found = list(pool.map(lambda path: web.get(path, 20), ["/slow"] * 14))
    assert found == [b"/slow"] * 14
    assert web.threads == 13


def test_what_finds_no_free_thread_waits_for_one(shared: Web) -> None:
    began = time.monotonic()
    with ThreadPoolExecutor(THREADS + 1) as pool:
        paths = ["/slow"] * (THREADS + 1)
        assert list(pool.map(lambda path: shared.get(path, 20), paths)) == paths_of(
            paths
        )
    assert time.monotonic() - began >= 4  # two at a time, two seconds each


def paths_of(paths: list[str]) -> list[bytes]:
    return [path.encode() for path in paths]


def test_a_request_that_wants_to_exit_costs_no_thread(shared: Web) -> None:
    for _ in range(THREADS * 2):
        with pytest.raises(ConnectionError):
            shared.get("/exit")
    assert shared.get("/k") == b"/k"


def test_a_client_that_hangs_up_is_noticed_while_its_answer_is_made(
    start: Start,
) -> None:
    web = start()
    with web.connect() as client:
        client.sendall(head("/gone", 0))
        time.sleep(0.3)  # it must have begun
    wait_until(lambda: web.get("/closed") == b"1", SOON_S, "it is noticed")


# --- strangers


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"G",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nX-A: ",
        head("/v1/chat/completions", 2000) + b'{"model":',
        head("/v1/chat/completions", 2000, KEY) + b'{"model":',
        head("/v1/files", 200_000, KEY) + b"--form",
        head("/v1/chat/completions", 200_000) + b'{"model":',
    ],
    ids=["silent", "byte", "header", "no key", "good key", "file", "large, no key"],
)
def test_clients_that_stop_in_the_middle_hold_nobody_up_and_are_closed(
    shared: Web, first: bytes
) -> None:
    strangers = shared.strangers(first)
    for _ in range(5):
        assert shared.get("/here") == b"/here"
    assert all_closed(strangers, 10)
    assert shared.threads <= THREADS + 1


def test_clients_that_send_a_byte_now_and_then_are_closed_by_the_deadline(
    shared: Web,
) -> None:
    strangers = shared.strangers(b"POST / HTTP/1.1\r\nX-A: ")
    until = time.monotonic() + 10
    while strangers and time.monotonic() < until:
        assert shared.answers()
        strangers = [one for one in strangers if not is_closed(one, 0.001)]
        for one in strangers:
            drip(one)
    assert not strangers


def drip(client: socket.socket) -> None:
    try:
        client.send(b"a")
    except ConnectionError:
        client.close()


def test_a_request_that_is_late_hears_why(shared: Web) -> None:
    said = shared.raw(head("/v1/chat/completions", 100) + b"{")
    assert said.startswith(b"HTTP/1.1 408 ")
    fault = json.loads(said.partition(b"\r\n\r\n")[2])["error"]
    assert fault["code"] == "request_timeout"
    assert "50 kB/s" in fault["message"]


def test_the_clock_of_a_request_sent_ahead_starts_with_the_answer_before_it(
    start: Start,
) -> None:
    second = head("/second", 0)
    web = start()
    with web.connect() as client:
        client.sendall(head("/slow", 0) + second[:20])  # two seconds, of one to read
        assert answer(client)[1] == b"/slow"
        time.sleep(0.3)  # well within its own time, which starts only now
        client.sendall(second[20:])
        assert answer(client)[1] == b"/second"
    with web.connect() as client:
        client.sendall(head("/slow", 0) + second[:20])
        said = b"".join(iter(lambda: client.recv(65_536), b""))
    assert b"HTTP/1.1 408 " in said


def test_an_upload_at_a_fair_speed_has_as_long_as_it_needs(shared: Web) -> None:
    size, piece = 400_000, b"x" * 20_000
    with shared.connect() as client:
        client.sendall(head("/v1/files", size, KEY))
        for _ in range(size // len(piece)):
            client.sendall(piece)
            time.sleep(0.1)  # 200 kB/s: two seconds in all
        assert answer(client)[1] == b"/v1/files400000"


def test_a_reader_that_reads_nothing_is_cut_and_its_answer_closed(
    start: Start,
) -> None:
    web = start(send_s=1.0)
    with web.connect() as stalled, web.connect() as reading:
        stalled.sendall(head("/stream", 0))
        reading.sendall(head("/stream", 0))
        until = time.monotonic() + 4
        while time.monotonic() < until:
            reading.recv(100_000)
            time.sleep(0.01)
        assert web.get("/closed") == b"1"  # by the one thread that is free again
        assert reading.recv(100_000)


def test_more_connections_than_allowed_wait_until_one_ends(start: Start) -> None:
    web = start(connections=7)  # the listener and a pipe count as well
    inside = [web.connect() for _ in range(4)]
    for client in inside:
        client.sendall(head("/v1/files", 100_000, KEY))  # none of them rests
    outside = [web.connect() for _ in range(3)]
    for client in outside:
        client.sendall(head("/late", 0))
    assert {answer(client)[1] for client in outside} == {b"/late"}


def test_connections_that_rest_make_room_for_others(start: Start) -> None:
    web = start(connections=20, idle_s=60.0)
    resting = [web.connect() for _ in range(30)]
    assert {ask(client, "/i") for client in resting} == {b"/i"}


def test_a_rested_connection_is_closed_in_the_end(start: Start) -> None:
    web = start(idle_s=1.0)
    with web.connect() as client:
        assert ask(client, "/e") == b"/e"
        assert is_closed(client, 5)
    assert web.get("/f") == b"/f"


# --- framing

POST = "POST /v1/echo HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer good\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n"
LENGTH = "Content-Length: 5\r\n"
SECOND = "GET /second HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNK = "5\r\nhello\r\n0\r\n\r\n"

AMBIGUOUS = {
    "two lengths": POST + LENGTH + "Content-Length: 0\r\n\r\nhello" + SECOND,
    "two equal lengths": POST + LENGTH + LENGTH + "\r\nhello" + SECOND,
    "a list of lengths": POST + "Content-Length: 5, 5\r\n\r\nhello" + SECOND,
    "length, then chunked": POST + LENGTH + CHUNKED + "\r\n" + CHUNK + SECOND,
    "chunked, then length": POST + CHUNKED + LENGTH + "\r\n" + CHUNK + SECOND,
    "chunked twice": POST + CHUNKED + CHUNKED + "\r\n" + CHUNK + SECOND,
    "a list of codings": POST
    + "Transfer-Encoding: chunked, chunked\r\n\r\n"
    + CHUNK
    + SECOND,
    "an unknown coding": POST + "Transfer-Encoding: xchunked\r\n\r\nhello" + SECOND,
    "a space before the colon": POST
    + "Transfer-Encoding : chunked\r\n\r\n"
    + CHUNK
    + SECOND,
    "a folded coding": POST + "Transfer-Encoding:\r\n\tx\r\n\r\n" + CHUNK + SECOND,
    "a folded header": "GET / HTTP/1.1\r\nX-A: b\r\n c\r\n\r\n" + SECOND,
    "a signed length": POST + "Content-Length: +5\r\n\r\nhello" + SECOND,
    "a hexadecimal length": POST + "Content-Length: 0x5\r\n\r\nhello" + SECOND,
    "chunked in HTTP/1.0": POST.replace("1.1", "1.0") + CHUNKED + "\r\n" + CHUNK,
    "two hosts": "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + SECOND,
    "HTTP/0.9": "GET /\r\n\r\n" + SECOND,
    "HTTP/1.2": "GET / HTTP/1.2\r\nHost: a\r\n\r\n" + SECOND,
    "HTTP/9.9": "GET / HTTP/9.9\r\nHost: a\r\n\r\n" + SECOND,
    "HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SECOND,
    "a bare line feed": "GET / HTTP/1.1\r\nHost: a\nX-B: c\r\n\r\n" + SECOND,
    "a bare carriage return": "GET / HTTP/1.1\r\nHost: a\rX-B: c\r\n\r\n" + SECOND,
    "a NUL": "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n" + SECOND,
    "a hexadecimal chunk": POST + CHUNKED + "\r\n0x5\r\nhello\r\n0\r\n\r\n" + SECOND,
    "a signed chunk": POST + CHUNKED + "\r\n+5\r\nhello\r\n0\r\n\r\n" + SECOND,
    "a chunk without an end": POST + CHUNKED + "\r\n5\r\nhelloXX0\r\n\r\n" + SECOND,
    "a long header": f"GET / HTTP/1.1\r\nX-A: {'a' * 40_000}\r\n\r\n" + SECOND,
}


@pytest.mark.parametrize("sent", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_what_could_be_read_in_two_ways_is_refused_and_nothing_behind_it_served(
    shared: Web, sent: str
) -> None:
    said = shared.raw(sent.encode())
    line, _, rest = said.partition(b"\r\n")
    assert line.split()[1] in (b"400", b"431", b"501")
    assert b"Connection: close" in rest
    assert b"X-Request-Id: req_" in rest
    assert b"second" not in rest
    fault = json.loads(rest.partition(b"\r\n\r\n")[2])["error"]
    assert fault["code"] == "invalid_request"
    assert fault["message"].endswith("; correct the client.")


def test_a_chunked_body_is_taken(shared: Web) -> None:
    with shared.connect() as client:
        client.sendall((POST + CHUNKED + "\r\n" + CHUNK + SECOND).encode())
        assert answer(client)[1] == b"/v1/echohello"


def test_empty_lines_between_two_requests_are_nothing(shared: Web) -> None:
    with shared.connect() as client:
        for _ in range(3):
            client.sendall(b"\r\n\r\n")
            assert ask(client, "/a") == b"/a"
            client.sendall(b"\r\n")


# --- bodies


def refused(web: Web, path: str, size: int, extra: str = "") -> tuple[int, str | None]:
    """Status and Connection of the answer to a whole body, sent before it is read."""
    with web.connect() as client:
        client.sendall(head(path, size, extra))
        client.sendall(b"x" * size)
        response, _body = answer(client)
        return response.status, response.getheader("Connection")


def test_a_large_body_without_a_good_key_is_refused_before_it_is_there(
    start: Start,
) -> None:
    web = start(read_s=30.0)
    for extra in ("", "Authorization: Bearer bad\r\n"):
        with web.connect() as client:
            client.sendall(head("/v1/files", FREE_BYTES + 1, extra) + b"x")
            response, said = answer(client)
            assert (response.status, said) == (401, b"no key")
            assert response.getheader("Connection") == "close"


def test_a_large_body_whose_key_nobody_can_look_up_is_answered_503(
    shared: Web,
) -> None:
    for size in (FREE_BYTES + 1, 200_000):
        extra = "Authorization: Bearer down\r\n"
        with shared.connect() as client:
            client.sendall(head("/v1/echo", size, extra) + b"x" * FREE_BYTES)
            response, said = answer(client)
        assert response.status == 503
        assert response.getheader("Retry-After")
        assert json.loads(said)["error"]["code"] == "database_unavailable"


@pytest.mark.parametrize("size", [100, 60_000, 1_000_000, 20_000_000])
def test_whoever_sends_a_refused_body_reads_why_and_whether_to_go_on(
    shared: Web, size: int
) -> None:
    expected = None if size < FREE_BYTES else "close"
    for _ in range(3):
        assert refused(shared, "/v1/echo", size) == (
            (401, expected) if size < 1_100_000 else (413, "close")
        )


def test_a_body_is_bounded_by_what_its_path_takes(start: Start) -> None:
    web = start(body_bytes=200_000, file_bytes=400_000)
    assert refused(web, "/v1/echo", 200_000, KEY) == (200, None)
    assert refused(web, "/v1/echo", 200_001, KEY) == (413, "close")
    assert refused(web, "/v1/files", 400_000, KEY) == (200, None)
    assert refused(web, "/v1/files", 500_000, KEY) == (413, "close")
    assert refused(web, "/admin/login", FREE_BYTES + 1) == (413, "close")


def test_a_length_of_many_digits_is_too_large(shared: Web) -> None:
    said = shared.raw(POST.encode() + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 413 ")
    assert b"larger than 1048576 bytes" in said


def test_a_chunked_body_is_bounded_too(start: Start) -> None:
    web = start(body_bytes=200_000)
    chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    with web.connect() as client:
        client.sendall((POST + CHUNKED + "\r\n").encode() + chunk * 20)
        response, said = answer(client)
    assert response.status == 413
    assert json.loads(said)["error"]["message"] == (
        "The body is larger than 200000 bytes; send less in one request."
    )


def test_large_bodies_are_bounded_together_and_small_ones_go_on(start: Start) -> None:
    web = start(body_bytes=1_000_000, bodies_bytes=1_500_000)
    first, second = web.connect(), web.connect()
    for client in (first, second):
        client.sendall(head("/v1/echo", 900_000, KEY))
    first.sendall(b"x" * 899_999)
    time.sleep(0.3)  # it must be there
    second.sendall(b"x" * 900_000)
    response, said = answer(second)
    assert response.status == 503
    assert json.loads(said)["error"]["code"] == "too_many_bodies"
    assert response.getheader("Retry-After")
    assert web.get("/small") == b"/small"
    first.sendall(b"x")
    assert answer(first)[1] == b"/v1/echo900000"
    assert refused(web, "/v1/echo", 900_000, KEY) == (200, None)


def test_a_large_body_whose_client_goes_is_given_back(start: Start) -> None:
    web = start(body_bytes=1_000_000, bodies_bytes=1_500_000)
    for _ in range(5):
        with web.connect() as client:
            client.sendall(head("/v1/echo", 900_000, KEY) + b"x" * 800_000)
            time.sleep(0.2)  # some of it must be there
    wait_until(
        lambda: refused(web, "/v1/echo", 900_000, KEY) == (200, None),
        5,
        "there is room",
    )


# --- the end


def test_a_stopping_server_ends_what_it_has_begun_and_takes_no_more(
    start: Start,
) -> None:
    web = start()
    with web.connect() as busy, web.connect() as resting:
        assert ask(resting, "/g") == b"/g"
        busy.sendall(head("/slow", 0))
        time.sleep(0.5)  # it must have begun
        os.kill(web.process.pid, signal.SIGTERM)
        wait_until(lambda: not lets_in(web), SOON_S, "no connection is taken any more")
        resting.sendall(head("/h", 0))
        response, said = answer(resting)
        assert (response.getheader("Connection"), said) == ("close", b"/h")
        response, said = answer(busy)
        assert (response.getheader("Connection"), said) == ("close", b"/slow")
        wait_until(lambda: not web.process.is_alive, 10, "the server has ended")


def lets_in(web: Web) -> bool:
    try:
        web.connect(1).close()
    except OSError:
        return False
    return True


def test_what_runs_longer_than_the_drain_is_cut(start: Start) -> None:
    web = start(drain_s=1.0)
    with web.connect() as client:
        client.sendall(head("/stream", 0))
        client.recv(1000)
        os.kill(web.process.pid, signal.SIGTERM)
        wait_until(lambda: not web.process.is_alive, 8, "the server has ended")


def test_two_processes_on_one_held_socket_change_over_and_no_request_fails(
    tmp_path: Path,
) -> None:
    with socket.create_server((HOST, 0), backlog=1024) as held:
        old = passed_to(tmp_path, held)
        with Load(held.getsockname()[1]) as load:
            new = passed_to(tmp_path, held)
            os.kill(old.pid, signal.SIGTERM)
            wait_until(lambda: not old.is_alive, 10, "the old one has ended")
            answered = load.answered
            wait_until(lambda: load.answered > answered + 50, 10, "the new one serves")
        for ended in (old, new):
            ended.end(signal.SIGKILL, timeout_s=10)
    assert load.failed == []


def passed_to(folder: Path, held: socket.socket) -> ServerProcess:
    """A server on a socket that is passed as systemd does; returns when it is ready."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        name = str(folder / f"notify-{time.monotonic_ns()}")
        notified.bind(name)
        notified.settimeout(30)
        script = f'LISTEN_FDS=1 LISTEN_PID=$$ exec "$@" 3<&{held.fileno()}'
        started = ServerProcess(
            ["bash", "-c", script, "bash", *command(0, threads=8)],
            folder=folder,
            environ=ENVIRON | {"NOTIFY_SOCKET": name},
            name="web",
            pass_fds=[held.fileno()],
        )
        assert notified.recv(100) == b"READY=1"
    return started


class Load:
    """Clients that ask again and again, half of them on connections they keep."""

    def __init__(self, port: int) -> None:
        self.answered = 0
        self.failed: list[str] = []
        self._port = port
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(number % 2 == 0,))
            for number in range(6)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(timeout=20)

    def _ask(self, keeps: bool) -> None:
        client = http.client.HTTPConnection(HOST, self._port, timeout=20)
        headers = {} if keeps else {"Connection": "close"}
        while not self._is_over.wait(0.02):
            try:
                client.request("POST", "/r", headers=headers)
                assert client.getresponse().read() == b"/r"
                self.answered += 1
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(repr(error))
                client.close()
        client.close()
