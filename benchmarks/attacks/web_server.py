"""Clients that mean no good, or no harm, against the web server: what becomes of them,
and of one good client beside them.

    python benchmarks/attacks/web_server.py production strangers streams leaving …
    python benchmarks/attacks/web_server.py up strangers …

``production`` is a fleet on private nodes, ``up`` is `genie up`; both serve echo models
with their defaults, but 1,000 slots. The docs' table is from here; what has one right
answer is a test in tests/integration/test_web_server.py.
"""

import collections
import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(1, str(Path(__file__).parents[2] / "tests"))

import psutil

from benchmarks.common import site
from fixtures.fleet import BIN, Fleet, wait_until
from fixtures.nodes import PostgresNode, RabbitNode
from fixtures.ports import free_port

HOST = "127.0.0.1"
COUNT = 1000
STRANGERS_S = 40.0
KINDS = ("header", "no key", "wrong key", "good key", "drip", "silent")
CHAT = "/v1/chat/completions"

CATALOG = """
[[models]]
id = "echo:{name}"
family = "echo"
parameters = 1_000_000
license = "Apache-2.0"
source = "echo:?ms_per_token={ms}&slots={slots}"
context_max = 2048
layers = 2
kv_heads = 1
head_dim = 16
engine = "echo"
quants = [{{ name = "none", dtype = "float32" }}]

[[personas]]
name = "{name}"
tier = "{tier}"
ladder = ["echo:{name}"]
standing = true
"""
SPEEDS = {"chat": 0, "ten": 10, "slow": 100}
TIERS = ("lite", "standard", "heavy")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A server, a key, and where it runs."""

    port: int
    key: str
    pid: int
    fleet: Fleet | None = None

    def connect(self, timeout_s: float = 5.0) -> socket.socket:
        """A new connection."""
        return socket.create_connection((HOST, self.port), timeout=timeout_s)

    def head(
        self, path: str, length: int, key: str | None = "", extra: str = ""
    ) -> bytes:
        """The header of a request that says who asks."""
        key = self.key if key == "" else key
        bearer = f"Authorization: Bearer {key}\r\n" if key else ""
        lines = f"POST {path} HTTP/1.1\r\nHost: a\r\n{bearer}{extra}"
        return f"{lines}Content-Length: {length}\r\n\r\n".encode()

    def chat(self, model: str, tokens: int = 2, **more: object) -> bytes:
        """A whole chat request."""
        body = {
            "model": f"echo:{model}",
            "max_tokens": tokens,
            "messages": [{"role": "user", "content": "one two three"}],
        }
        data = json.dumps(body | more).encode()
        return self.head(CHAT, len(data)) + data

    def ask(self, request: bytes, timeout_s: float = 5.0) -> tuple[str, float]:
        """Status, or what went wrong, and the seconds until the whole answer."""
        began = time.monotonic()
        try:
            with self.connect(timeout_s) as client:
                client.sendall(request)
                response = http.client.HTTPResponse(client)
                response.begin()
                response.read()
                said = str(response.status)
        except (OSError, http.client.HTTPException) as error:
            said = type(error).__name__
        return said, time.monotonic() - began

    def livez(self, timeout_s: float = 5.0) -> tuple[str, float]:
        """The same for a look whether it lives."""
        request = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
        return self.ask(request, timeout_s)

    def json(self, path: str) -> dict[str, object]:
        """What the API says."""
        client = http.client.HTTPConnection(HOST, self.port, timeout=20)
        client.request("GET", path, headers={"Authorization": f"Bearer {self.key}"})
        found: dict[str, object] = json.loads(client.getresponse().read())
        client.close()
        return found

    def jobs(self, state: str) -> list[str]:
        """Ids of the newest jobs in this state."""
        page = self.json(f"/v1/jobs?limit=200&state={state}")
        data = page["data"]
        return [job["id"] for job in data] if isinstance(data, list) else []

    def pss_mb(self) -> float:
        """Memory of the process, shared pages by their share."""
        return float(psutil.Process(self.pid).memory_full_info().pss) / 1e6

    def threads(self) -> int:
        """How many it has."""
        return int(psutil.Process(self.pid).num_threads())


@contextmanager
def production() -> Iterator[Target]:
    """A fleet on private nodes."""
    with (
        tempfile.TemporaryDirectory(prefix="genie-attack-") as folder,
        RabbitNode() as rabbit,
        PostgresNode() as postgres,
    ):
        database_url = postgres.create_database()
        environ = {"GENIE_CATALOG": str(catalog(folder)), "GENIE_LOG_LEVEL": "WARNING"}
        with Fleet(
            broker_url=rabbit.vhost("bench"),
            database_url=database_url,
            environ=environ | {"PYTHONPATH": str(site.ROOT)},
            heartbeat_s=2.0,
        ) as fleet:
            fleet.start_worker("atlas")
            for name in SPEEDS:
                fleet.wait_ready(f"echo:{name}")
            port = int(fleet.url.rpartition(":")[2])
            pid = fleet.pid("web")
            yield Target(port=port, key=fleet.api_key, pid=pid, fleet=fleet)


@contextmanager
def up() -> Iterator[Target]:
    """`genie up` with the same models."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="genie-attack-") as folder:
        environ = {**os.environ, "GENIE_HOME": folder, "OMP_NUM_THREADS": "1"}
        command = [str(BIN / "genie"), "up", "--port", str(port)]
        running = subprocess.Popen(
            [*command, "--catalog", str(catalog(folder))],
            env={**environ, "PYTHONPATH": str(site.ROOT), "GENIE_SLOTS": str(COUNT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert running.stderr is not None
            key = next(
                found.group()
                for line in running.stderr
                if (found := re.search(r"sk-genie-\S+", line))
            )
            target = Target(port=port, key=key, pid=running.pid)
            for name in SPEEDS:
                request = target.chat(name)
                wait_until(lambda it=request: target.ask(it)[0] == "200", 60, name)  # type: ignore[misc]
            yield target
        finally:
            running.send_signal(signal.SIGTERM)
            running.wait(30)


def catalog(folder: str) -> Path:
    """Models that take no time, 10 ms and 100 ms for a token."""
    file = Path(folder) / "catalog.toml"
    models = zip(SPEEDS.items(), TIERS, strict=True)
    parts = [
        CATALOG.format(name=n, ms=ms, slots=COUNT, tier=tier)
        for (n, ms), tier in models
    ]
    file.write_text("".join(parts))
    return file


# --- a. strangers


def strangers(target: Target) -> None:
    """Clients that stop in the middle, by the thousand, and a good one beside them."""
    for kind in KINDS:
        _strangers(target, kind)


def _first(target: Target, kind: str) -> bytes:
    if kind == "silent":
        return b""
    if kind in ("header", "drip"):
        return f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nX-A: ".encode()
    key = {"no key": None, "wrong key": "sk-genie-wrong"}.get(kind, "")
    return target.head(CHAT, 2000, key) + b'{"model":'


def _strangers(target: Target, kind: str) -> None:
    began = time.monotonic()
    clients = {one.fileno(): one for one in _many(target, _first(target, kind))}
    opened_s = time.monotonic() - began
    lives, chats = Probe(target.livez), Probe(lambda: target.ask(target.chat("chat")))
    closed = _watch(clients, drips=kind == "drip")
    lives.stop()
    chats.stop()
    for one in clients.values():
        one.close()
    when = f"{closed[0]:.0f} to {closed[-1]:.0f} s" if closed else "never"
    print(
        f"{kind}: {COUNT} opened in {opened_s:.1f} s; livez {lives}; chat {chats}; "
        f"{len(closed)} closed after {when}; threads {target.threads()}",
        flush=True,
    )


def _many(target: Target, first: bytes) -> Iterator[socket.socket]:
    for _ in range(COUNT):
        client = target.connect(10)
        client.sendall(first)
        client.setblocking(False)
        yield client


def _watch(clients: dict[int, socket.socket], *, drips: bool) -> list[float]:
    """When each was closed, until all are or the time is over."""
    began, dripped, closed = time.monotonic(), time.monotonic(), list[float]()
    poll = select.epoll()
    for number in clients:
        poll.register(number, select.EPOLLIN | select.EPOLLRDHUP)
    while clients and time.monotonic() - began < STRANGERS_S:
        for number, event in poll.poll(0.2, 200):
            if _is_over(clients[number], event):
                closed.append(time.monotonic() - began)
                poll.unregister(number)
                clients.pop(number).close()
        if drips and time.monotonic() - dripped > 4:
            dripped = time.monotonic()
            for client in clients.values():
                with suppress(OSError):
                    client.send(b"a")
    return closed


def _is_over(client: socket.socket, event: int) -> bool:
    try:
        data = client.recv(4096)
    except OSError:
        return True
    return not data or bool(event & (select.EPOLLHUP | select.EPOLLRDHUP))


class Probe:
    """A good client that asks each second."""

    def __init__(self, ask: Callable[[], tuple[str, float]]) -> None:
        self._ask, self._said = ask, list[tuple[str, float]]()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        """Ask no more."""
        self._is_over.set()
        self._thread.join()

    def __str__(self) -> str:
        good = [took for said, took in self._said if said == "200"]
        worst = max(good, default=0.0)
        return f"{len(good)} of {len(self._said)}, worst {worst:.2f} s"

    def _run(self) -> None:
        while not self._is_over.is_set():
            self._said.append(self._ask())
            self._is_over.wait(1)


# --- b. a thousand streams


def streams(target: Target) -> None:
    """A thousand streams at once: how many are whole, and what they cost."""
    before_mb, before = target.pss_mb(), target.threads()
    tokens = 100 if target.fleet else 10  # all of `genie up` is one Python
    request = target.chat("slow", tokens, stream=True)
    lives, ends = Probe(target.livez), collections.Counter[str]()
    began = time.monotonic()
    peak = [0.0, 0.0]

    def read() -> None:
        try:
            with target.connect(120) as client:
                client.sendall(request)
                data = b"".join(iter(lambda: client.recv(65_536), b""))
            ends["whole" if b"[DONE]" in data else data[9:12].decode()] += 1
        except OSError as error:
            ends[type(error).__name__] += 1

    readers = [threading.Thread(target=read) for _ in range(COUNT)]
    for one in readers:
        one.start()
    while any(one.is_alive() for one in readers):
        peak = [max(peak[0], target.pss_mb()), max(peak[1], target.threads())]
        time.sleep(1)
    lives.stop()
    took_s = time.monotonic() - began
    each_kb = (peak[0] - before_mb) * 1000 / COUNT
    print(
        f"streams: {dict(ends)} of {COUNT} ({tokens} tokens each) in {took_s:.0f} s; "
        f"PSS {before_mb:.0f} to {peak[0]:.0f} MB ({each_kb:.0f} kB each), threads "
        f"{before} to {peak[1]:.0f}; livez {lives}",
        flush=True,
    )


# --- c. clients that leave, or do not read


def leaving(target: Target) -> None:
    """How soon the job of a client that hung up is cancelled."""
    for kind in ("plain", "stream"):
        print(f"hang-up, {kind}: {_left(target, kind):.1f} s", flush=True)
    _stalled(target)


def _left(target: Target, kind: str) -> float:
    known = set(target.jobs("cancelled"))
    with target.connect() as client:
        client.sendall(target.chat("slow", 100, stream=kind == "stream"))
        time.sleep(2)
    began = time.monotonic()
    wait_until(lambda: set(target.jobs("cancelled")) > known, 20, "cancelled")
    return time.monotonic() - began


def _stalled(target: Target) -> None:
    known = set(target.jobs("cancelled") + target.jobs("failed"))
    words = " ".join("w" * 1500 + str(number) for number in range(40))
    message = [{"role": "user", "content": words}]
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((HOST, target.port))
    client.sendall(target.chat("ten", 6000, stream=True, messages=message))
    chats = Probe(lambda: target.ask(target.chat("chat")))
    began, memory = time.monotonic(), target.pss_mb()
    with suppress(TimeoutError):
        wait_until(
            lambda: set(target.jobs("cancelled") + target.jobs("failed")) > known,
            80,
            "the job ends",
        )
    took_s = time.monotonic() - began
    chats.stop()
    client.close()
    print(
        f"stalled reader: its job ended after {took_s:.0f} s; chats {chats}; PSS "
        f"{memory:.0f} to {target.pss_mb():.0f} MB",
        flush=True,
    )


# --- d. one process after the other


def changeover(target: Target) -> None:
    """50 chats a second while the next process takes over on a held socket."""
    fleet = target.fleet
    if fleet is None:
        print("changeover: `genie up` has no next process", flush=True)
        return
    with socket.create_server((HOST, 0), backlog=1024) as held:
        fleet.start_web_on("old", held)
        port = held.getsockname()[1]
        served = Target(port=port, key=target.key, pid=fleet.pid("old"))
        wait_until(lambda: served.livez()[0] == "200", 60, "the old one serves")
        chats = Chats(served)
        time.sleep(4)
        fleet.start_web_on("new", held)
        time.sleep(6)  # it has started; both serve
        os.kill(fleet.pid("old"), signal.SIGTERM)
        chats.join()
        fleet.kill("old")
        fleet.kill("new")
    print(f"changeover: {chats}", flush=True)


class Chats:
    """800 chats in 16 seconds, half of them on connections that are kept."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._ends = collections.Counter[str]()
        self._slowest = 0.0
        self._kept = list[socket.socket]()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def join(self) -> None:
        """Until all have ended."""
        self._thread.join()

    def __str__(self) -> str:
        return f"{dict(self._ends)}, slowest {self._slowest:.1f} s"

    def _run(self) -> None:
        began, running = time.monotonic(), list[threading.Thread]()
        for number in range(800):
            time.sleep(max(0.0, began + number / 50 - time.monotonic()))
            running.append(threading.Thread(target=self._one, args=(number % 2 == 0,)))
            running[-1].start()
        for one in running:
            one.join()
        for client in self._kept:
            client.close()

    def _one(self, keeps: bool) -> None:
        began = time.monotonic()
        try:
            client = self._kept.pop() if keeps and self._kept else None
        except IndexError:
            client = None
        how = "new" if client is None else "kept"
        client = client or self._target.connect(20)
        try:
            client.sendall(self._target.chat("chat"))
            response = http.client.HTTPResponse(client)
            response.begin()
            response.read()
            self._ends[str(response.status)] += 1
            if keeps and not response.will_close:
                self._kept.append(client)
                client = None
        except (OSError, http.client.HTTPException) as error:
            self._ends[f"{how}: {type(error).__name__}"] += 1
        if client is not None:
            client.close()
        self._slowest = max(self._slowest, time.monotonic() - began)


# --- e. refused bodies


def refused(target: Target) -> None:
    """A refused body on a kept connection: is the answer read, and what comes next?"""
    for size, key in (
        (100_000, None),
        (1_000_000, None),
        (2_000_000, ""),
        (20_000_000, ""),
    ):
        ends = collections.Counter(_refused(target, size, key) for _ in range(6))
        print(f"refused body of {size} bytes: {dict(ends)}", flush=True)


def _refused(target: Target, size: int, key: str | None) -> str:
    try:
        with target.connect(10) as client:
            client.sendall(target.head(CHAT, size, key))
            client.sendall(b"x" * size)
            response = http.client.HTTPResponse(client)
            response.begin()
            response.read()
            if response.will_close:
                return f"{response.status}, says close"
            client.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
            return f"{response.status}, next {client.recv(12).decode()}"
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__


ROWS: dict[str, Callable[[Target], None]] = {
    "strangers": strangers,
    "streams": streams,
    "leaving": leaving,
    "changeover": changeover,
    "refused": refused,
}


def main(shape: str, rows: list[str]) -> int:
    """Run some rows, or all of them."""
    with {"production": production, "up": up}[shape]() as target:
        for row in rows or ROWS:
            ROWS[row](target)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], sys.argv[2:]))
