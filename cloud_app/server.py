"""The web server: waitress, and the bounds it lacks.

Waitress reads a request in its own loop and takes a thread only when the request is
complete, so slow clients hold none. Names its manual does not promise have tests.
"""

import re
import resource
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from threading import Lock
from typing import TYPE_CHECKING, Any

from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import create_server
from waitress.task import ThreadedTaskDispatcher, WSGITask
from waitress.utilities import Error

from cloud_app.api import errors
from cloud_app.api.json import encode
from cloud_app.context import Context
from cloud_app.orgs import auth
from cloud_app.store import ids
from genie import logs
from genie.contracts.inference import Fault
from genie.errors import GenieError

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

log = logs.logger("server")

KIB, MIB = 1024, 1024**2
FREE_BYTES = 64 * KIB
"""So much of a body is taken from anyone; for more the key must be good."""

FORM_BYTES = 64 * KIB
"""What a form adds to the file in it, and chunks to a body."""

FILES_AT_ONCE = 4
"""The largest files that may be under way at once; they lie on disk."""

HEADER_BYTES = 32 * KIB
RECEIVE_BYTES = 32 * KIB
SEND_BUFFER_BYTES = 256 * KIB
"""An answer is written no further ahead of its reader."""

SLOWEST_BYTES_S = 50_000
LOOK_S = 1.0
KEPT_S = 2.0
"""A server that ends serves kept connections for so long, each once more."""

LINGER_S = 5.0
"""A refused client may send on so long: a reset loses the answer (RFC 9112, 9.6)."""

CANCEL_S = 3.0  # requests that are cut at the end cancel their jobs meanwhile

STARTS = 3
"""Requests that begin: one computes, one waits for the database, one for the broker."""

START_S = 0.1
"""Whoever works longer, or reads a large body, loses its start to the next one."""

WAITS = "genie.waits"
"""In a request's environment: what to call when it only waits from now on."""
VERSIONS = ("1.0", "1.1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """What a web server takes, in bytes and seconds."""

    threads: int
    connections: int = 4096
    """At most half of the files that the process may have open."""
    body_bytes: int = MIB
    file_bytes: int = 1024 * MIB
    bodies_bytes: int = 256 * MIB
    """Bodies above `FREE_BYTES` that may be under way at once, all together."""
    read_s: float = 20.0
    """A whole request must be here after so long, and its bytes at 50 kB/s."""
    send_s: float = 20.0
    """A client that has not read a byte for so long is gone."""
    idle_s: float = 75.0
    """A kept connection rests no longer; proxies usually close earlier."""
    drain_s: float = 30.0
    """Running requests may end after `WebServer.stop`."""

    def of_path(self, path: str) -> int:
        """The largest body for this path."""
        if path.startswith("/v1/files"):
            return self.file_bytes + FORM_BYTES
        has_keys = path.startswith(("/v1/", "/fleet/"))
        return self.body_bytes if has_keys else FREE_BYTES


class ByteBudget:
    """Bytes that may be in use at once, by any thread."""

    def __init__(self, most: int) -> None:
        self.most, self.used = most, 0
        self._lock = Lock()

    def take(self, count: int) -> bool:
        """Use so many more; False, and none is used, when they are not left."""
        with self._lock:
            fits = self.used + count <= self.most
            self.used += count if fits else 0
        return fits

    def give_back(self, count: int) -> None:
        """Use so many less."""
        with self._lock:
            self.used -= count


class Starts:
    """Lets few requests begin at once, in order; an overdue one loses its start."""

    def __init__(self) -> None:
        self._lock, self._free = Lock(), STARTS
        self._waiting: deque[Lock] = deque()
        self._began: dict[object, float] = {}

    def begin(self, who: object) -> None:
        """Wait for a start."""
        turn = Lock()
        turn.acquire()
        self._give(0, turn)
        while not turn.acquire(timeout=START_S):
            overdue = time.monotonic() - START_S
            began = self._began.copy().items()
            self.end(next((one for one, at in began if at <= overdue), None))
        self._began[who] = time.monotonic()

    def end(self, who: object) -> None:
        """The next one's start, unless it was taken over."""
        if self._began.pop(who, None) is not None:
            self._give(1)

    def _give(self, more: int, *turns: Lock) -> None:
        with self._lock:
            self._free += more
            self._waiting.extend(turns)
            while self._free and self._waiting:
                self._free -= 1
                self._waiting.popleft().release()


class RequestRefusal(Error):  # type: ignore[misc]  # waitress has no types
    """Why the application never sees a request."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.fault = status, Fault(code=code, message=message)

    def to_response(
        self, ident: str | None = None
    ) -> tuple[str, list[tuple[str, str]], bytes]:
        """The answer, in the API's one shape for errors."""
        request_id = f"req_{ids.new_id()}"
        log.info("request_refused", request_id=request_id, status=self.code)
        headers = [("Content-Type", "application/json"), ("X-Request-Id", request_id)]
        if self.code == 503:
            headers.append(("Retry-After", "2"))
        status = f"{self.code} {HTTPStatus(self.code).phrase}"
        return status, headers, encode(errors.body(self.fault, self.code))


class RequestParser(HTTPRequestParser):  # type: ignore[misc]
    """Reads one request; refuses what could be read in two ways, or is too large."""

    error: Error | None

    def __init__(self, connection: "Connection", adj: object) -> None:
        super().__init__(adj)
        self._connection = connection
        self._limits = connection.web.limits
        self._stored = 0
        self.began_at = time.monotonic()
        self.most_bytes = FREE_BYTES
        self.budget = connection.web.bodies
        self.is_key_known: bool | None = None

    def is_large(self) -> bool:
        """True when the key must be looked at before the body is read on."""
        size = max(self.content_length, self.body_bytes_received)
        return self.error is None and bool(size > FREE_BYTES)

    def is_late(self, after_s: float) -> bool:
        """True when it should be complete after so long."""
        slow_s = self.body_bytes_received / SLOWEST_BYTES_S
        return bool(after_s > self._limits.read_s + slow_s)

    def parse_header(self, header_plus: bytes) -> None:
        """Read the header; raises `ParsingError` where two readers could differ."""
        super().parse_header(header_plus)
        if wrong := self._ambiguity(header_plus):
            raise ParsingError(wrong)
        self.most_bytes = self._limits.of_path(self.path)
        if self.path.startswith("/v1/files"):
            self.budget = self._connection.web.files

    def received(self, data: bytes) -> int:
        """Take in what came; the count of bytes that belong to this request."""
        taken = int(super().received(data))
        if self.body_rcv is not None and (not self.error or self.error.code == 413):
            self.error = self._refusal()
        elif self.error is not None:
            reason = self.error.body.rstrip(".")
            self.error = RequestRefusal(
                self.error.code,
                "invalid_request",
                f"This request cannot be read: {reason}; correct the client.",
            )
        if self.error is not None:
            self.completed, self.expect_continue = True, False
            self._connection.refuse()
        return taken

    def close(self) -> None:
        """Let go of the body."""
        super().close()
        stored, self._stored = self._stored, 0
        self.budget.give_back(stored)

    def _ambiguity(self, header_plus: bytes) -> str | None:
        """What waitress takes and another server on the way may read differently."""
        codings = re.findall(rb"(?m)^transfer-encoding:(.*)", header_plus.lower())
        found = {
            "a header goes on in the next line": re.search(rb"\r\n[ \t]", header_plus),
            "the version is not HTTP/1.0 or HTTP/1.1": self.version not in VERSIONS,
            "there are two Host headers": "," in self.headers.get("HOST", ""),
            "there are two transfer encodings": len(b",".join(codings).split(b",")) > 1,
            "there are both Content-Length and Transfer-Encoding": codings
            and "CONTENT_LENGTH" in self.headers,
            "HTTP/1.0 has no Transfer-Encoding": codings and self.version == "1.0",
        }
        return next((what for what, is_so in found.items() if is_so), None)

    def _refusal(self) -> RequestRefusal | None:
        received = self.body_bytes_received
        if self.content_length > self.most_bytes or (
            received > self.most_bytes + FORM_BYTES  # chunks have a frame around them
        ):
            return RequestRefusal(
                413,
                "message_too_large",
                f"The body is larger than {self.most_bytes} bytes; send less in one "
                "request.",
            )
        more = received - self._stored if received > FREE_BYTES else 0
        if not self.budget.take(more):
            return RequestRefusal(
                503,
                "too_many_bodies",
                "Too many large bodies are being sent at once; try again in a moment.",
            )
        self._stored += more
        return None


class RequestTask(WSGITask):  # type: ignore[misc]
    """Serves one request by the application."""

    def get_environment(self) -> dict[str, object]:
        """What the application is given: also how to say that it only waits now."""
        environ: dict[str, object] = super().get_environment()
        environ[WAITS] = partial(self.channel.web.starts.end, self.channel)
        return environ


@dataclass(frozen=True, slots=True)
class KeyCheck:
    """Looks at the key of a request whose large body is not read yet, in a thread."""

    connection: "Connection"
    request: RequestParser

    def service(self) -> None:
        """Let the body be read on, or answer now: what serves us refuses the key."""
        kind, _, key = self.request.headers.get("AUTHORIZATION", "").partition(" ")
        is_good, is_bearer = False, kind.lower() == "bearer"
        try:
            is_good = is_bearer and self.connection.web.is_key_known(key.strip())
            self.request.is_key_known = is_good
        except GenieError as error:  # nobody can say: the database is down
            self.request.error = RequestRefusal(
                error.http_status, error.error_code, error.message
            )
        finally:  # whatever happened, the connection must go on
            if not is_good:
                self.connection.answer_now(self.request)
            del self.connection.readable
            self.connection.server.pull_trigger()

    def cancel(self) -> None:
        """Nothing was begun."""


class Connection(HTTPChannel):  # type: ignore[misc]
    """One client: its deadlines, and how it ends."""

    task_class = RequestTask
    request: RequestParser | None
    """The one that is not complete yet."""

    def __init__(self, web: "WebServer", *arguments: Any, **options: Any) -> None:
        self.web = web
        self.parser_class = partial(RequestParser, self)
        self.is_refused = False
        self._ends_at: float | None = None
        self._rests_since = time.monotonic()
        self._rest_s = web.limits.read_s  # until its first request
        self._stuck: tuple[float, float] | None = None
        super().__init__(*arguments, **options)

    def received(self, data: bytes) -> bool:
        """Take in what came."""
        if self.is_refused:
            return True
        if self.request is None:
            data = data.lstrip(b"\r\n")  # some clients end a body so
        taken = bool(super().received(data))
        reading = self.request
        if reading is not None and reading.is_large() and reading.is_key_known is None:
            reading.is_key_known = False
            # of the connection alone: the loop asks all of them at each turn
            self.readable = lambda: False
            self.server.add_task(KeyCheck(self, reading))
        return taken

    def service(self) -> None:
        """Serve the first request that is complete; called in a thread of its own."""
        if self.web.is_stopping:
            self.close_after_answers()
        self.web.starts.begin(self)
        try:
            super().service()
        except BaseException:
            self.will_close = True
            self.server.pull_trigger()
            raise
        finally:
            self.web.starts.end(self)
        self._rests_since, self._rest_s = time.monotonic(), self.web.limits.idle_s

    def handle_close(self) -> None:
        """Close, from the loop."""
        super().handle_close()
        reading, self.request = self.request, None
        if reading is not None:
            reading.close()

    def refuse(self) -> None:
        """Take in no more; what the client sends until it has its answer is dropped."""
        self.is_refused = True
        self.writable = self._must_close

    def close_after_answers(self) -> None:
        """Say with each answer that it is the last one."""
        for request in self.requests:
            request.headers["CONNECTION"] = "close"

    def answer_now(self, request: RequestParser) -> None:
        """Answer a request that is not complete; the connection ends with it."""
        self.refuse()
        request.completed = True
        request.headers["CONNECTION"] = "close"
        with self.requests_lock:
            self.request = None
            self.requests.append(request)
            if len(self.requests) == 1:
                self.server.add_task(self)

    def look(self, now: float) -> None:
        """Close, or refuse, what is over; called each second, from the loop."""
        if self._is_stuck(now) or (self._ends_at is not None and now > self._ends_at):
            self.handle_close()
        elif self.requests or self.total_outbufs_len:
            self._rests_since = now
        elif self._ends_at is not None:
            return
        elif self.request is not None:
            self._refuse_late(self.request, now)
        elif self.rested_s(now) > self._rest_s:
            self.handle_close()

    def rested_s(self, now: float) -> float:
        """Seconds without a request."""
        is_busy = self.requests or self.request is not None or self.total_outbufs_len
        return 0.0 if is_busy else now - self._rests_since

    def _is_stuck(self, now: float) -> bool:
        """True when there was something to send at every look, and none of it went."""
        if not self.total_outbufs_len:
            self._stuck = None
        elif self._stuck is None or self._stuck[0] != self.last_activity:
            self._stuck = self.last_activity, now
        return self._stuck is not None and now - self._stuck[1] > self.web.limits.send_s

    def _refuse_late(self, reading: RequestParser, now: float) -> None:
        """Refuse it, from the loop: many are late at once.

        Its clock starts when the answers before it are done.
        """
        after_s = now - max(reading.began_at, self._rests_since)
        if not reading.is_late(after_s) or reading.is_key_known is False:
            return
        self.refuse()
        self.request = None
        reading.close()
        reading.version = "1.1"
        reading.error = RequestRefusal(
            408,
            "request_timeout",
            f"The request was not complete after {after_s:.0f} s; send it faster, "
            f"with more than {SLOWEST_BYTES_S // 1000} kB/s.",
        )
        self.error_task_class(self, reading).service()
        self.close_when_flushed = True

    def _must_close(self) -> bool:
        if self.close_when_flushed and not self.total_outbufs_len:
            self._linger()
        return bool(super().writable())

    def _linger(self) -> None:
        if self.socket is None:  # the client went while it was told
            return
        self.close_when_flushed = False
        self._ends_at = time.monotonic() + LINGER_S
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.will_close = True


class RequestThreads(ThreadedTaskDispatcher):  # type: ignore[misc]
    """Threads that start as requests need them, up to a bound."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def add_task(self, task: object) -> None:
        """Serve the task in a thread that is free, or new, or the next free one."""
        with self.lock:
            self.queue.append(task)
            idle = len(self.threads) - self.active_count
            if len(self.queue) > idle and len(self.threads) < self._most:
                self._start()
            self.queue_cv.notify()

    def _start(self) -> None:
        number = len(self.threads)
        try:
            self.start_new_thread(self.handler_thread, number)
        except RuntimeError as error:
            log.error("no_thread", running=number, error=str(error))
            return
        self.threads.add(number)
        self.active_count += 1


class WebServer:
    """Serves an application on sockets that may be held by others as well."""

    def __init__(
        self,
        app: "WSGIApplication",
        sockets: Sequence[socket.socket],
        limits: ServerLimits,
        is_key_known: Callable[[str], bool],
    ) -> None:
        self.limits, self.is_key_known = limits, is_key_known
        self.bodies = ByteBudget(limits.bodies_bytes)
        self.starts = Starts()
        self.files = ByteBudget(FILES_AT_ONCE * limits.of_path("/v1/files"))
        self.is_stopping = False
        self._ends_at = self._looked_at = 0.0
        self._threads = RequestThreads(limits.threads)
        self._map: dict[int, Any] = {}
        options = _options(min(limits.connections, _open_files() // 2))
        create_server(app, map=self._map, sockets=list(sockets), **options)
        self._listeners = [one for one in self._map.values() if one.accepting]
        for one in self._listeners:
            one.channel_class = partial(Connection, self)
            one.task_dispatcher = self._threads

    @property
    def connections(self) -> list[Connection]:
        """Those that are open."""
        return [
            connection
            for listener in self._listeners
            for connection in list(listener.active_channels.values())
        ]

    def run(self) -> None:
        """Serve until `stop`, and then until what runs has ended."""
        while not self.is_stopping:
            self._turn()
        self._stop_accepting()
        until = time.monotonic() + KEPT_S
        while self._is_busy(until) and time.monotonic() < self._ends_at:
            self._turn()
        for connection in self.connections:
            connection.handle_close()
        self._threads.shutdown(timeout=CANCEL_S)
        wasyncore.close_all(self._map)

    def stop(self, drain_s: float | None = None) -> None:
        """Take no more connections, and end; for any thread and signal handlers."""
        drain_s = self.limits.drain_s if drain_s is None else drain_s
        self._ends_at = time.monotonic() + drain_s
        self.is_stopping = True
        if self._map:  # else it has ended
            self._listeners[0].pull_trigger()

    def _turn(self) -> None:
        wasyncore.loop(timeout=LOOK_S, use_poll=True, map=self._map, count=1)
        now = time.monotonic()
        if now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        for connection in self.connections:
            connection.look(now)
        if any(one.in_connection_overflow for one in self._listeners):
            self._make_room(now)

    def _make_room(self, now: float) -> None:
        """Close half of the connections that rest: they must keep nobody out."""
        resting = [one for one in self.connections if one.rested_s(now) > 0]
        resting.sort(key=lambda one: one.rested_s(now), reverse=True)
        for connection in resting[: (len(resting) + 1) // 2]:
            connection.handle_close()

    def _stop_accepting(self) -> None:
        for listener in self._listeners:
            wasyncore.dispatcher.close(listener)  # its own would end the trigger too
        for connection in self.connections:
            connection.close_after_answers()

    def _is_busy(self, kept_until: float) -> bool:
        now = time.monotonic()
        if now < kept_until:
            return bool(self.connections)
        return any(not one.rested_s(now) for one in self.connections)


def serve(
    app: "WSGIApplication", ctx: Context, sockets: Sequence[socket.socket]
) -> WebServer:
    """A server of the cloud's application, with the bounds of its settings."""
    limits = ServerLimits(
        threads=ctx.settings.web_threads,
        body_bytes=ctx.settings.max_body_bytes,
        file_bytes=ctx.settings.max_file_bytes,
    )
    return WebServer(app, sockets, limits, partial(auth.is_known, ctx))


def _open_files() -> int:
    """How many files this process may have open, after asking for all it can have."""
    _soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most if most != resource.RLIM_INFINITY else 2**20


def _options(connections: int) -> dict[str, object]:
    """What waitress is told."""
    never = 10**9  # `Connection.look` closes what is over
    return {
        "threads": 0,
        "connection_limit": connections,
        "channel_request_lookahead": 1,  # else it cannot tell who has hung up
        "max_request_body_size": never * KIB,
        "max_request_header_size": HEADER_BYTES,
        "outbuf_high_watermark": SEND_BUFFER_BYTES,
        "recv_bytes": RECEIVE_BYTES,
        "channel_timeout": never,
        "cleanup_interval": never,
        "ident": None,
        "log_socket_errors": False,
        "trusted_proxy": "127.0.0.1",
        "trusted_proxy_headers": "x-forwarded-proto",
    }
