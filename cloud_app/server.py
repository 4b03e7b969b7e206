"""gunicorn's threads, each of which fetches its own work.

gunicorn's gthread accepts and watches in its main thread and hands each request to a
pool and back: a future, a pipe and two more threads woken for every request. Here all
threads wait at one epoll where each connection is armed for one event at a time, so the
kernel wakes the one thread that serves it. HTTP itself stays gunicorn's.
"""

import select
import socket
import time
from collections.abc import Callable
from threading import Lock, Thread
from typing import Any

from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, TConn, ThreadWorker

from cloud_app import turns

LOOK_S = 1.0
"""How often the main thread says that we live, and closes what rested too long."""

NO_ACCEPT_S = 0.1
"""Pause when no connection can be taken: most likely there is no file number left."""

ONCE = select.EPOLLIN | select.EPOLLONESHOT


class Server(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """A gunicorn worker process; `threads` of them serve, started as they are needed.

    A thread is held by a request and never by a connection: one that has sent nothing
    yet, or rests between two requests, waits at the epoll.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._lock = Lock()
        self._listeners: dict[int, socket.socket] = {}
        self._shut: set[int] = set()
        self._resting: dict[int, TConn] = {}  # the one that rests longest comes first
        self.keepalived_conns = self._resting  # when many rest, gunicorn keeps no more
        self._turns = turns.Turns()
        self._threads = self._idle = 0

    def init_process(self) -> None:
        """Serve until told to stop; called once, after the fork."""
        self._ready = select.epoll()
        super().init_process()

    def run(self) -> None:
        """The main thread: signals, signs of life, and the end of what rests."""
        self.poller.register(
            self.method_queue.fileno(), select.EPOLLIN, self.method_queue.run_callbacks
        )
        self._open()
        with self._lock:
            self._hire()
        while self.alive:
            self.notify()
            self.wait_for_and_dispatch_events(LOOK_S)
            if not self.is_parent_alive():
                break
            self._expire()
        self._close()
        self._drain()

    def _open(self) -> None:
        for listener in self.sockets:
            listener.setblocking(False)  # another process may take it before us
            self._listeners[listener.fileno()] = listener
            self._ready.register(listener.fileno(), ONCE)

    def _close(self) -> None:
        with self._lock:
            listeners, self._listeners = self._listeners, {}
        for number in listeners:
            self._ready.unregister(number)

    def _drain(self) -> None:
        """Let running requests end, and give clients that rest a moment to go on."""
        now = time.monotonic()
        linger = now + STOP_KEEPALIVE_LINGER
        give_up_at = now + self.cfg.graceful_timeout
        with self._lock:
            for conn in self._resting.values():
                conn.timeout = min(conn.timeout, linger)
        while self.nr_conns > 0 and time.monotonic() < give_up_at:
            self.notify()
            self.wait_for_and_dispatch_events(self._next_end_s())
            self._expire()
        self._expire(force=True)
        for listener in self.sockets:
            listener.close()

    def _next_end_s(self) -> float:
        with self._lock:
            ends = [conn.timeout - time.monotonic() for conn in self._resting.values()]
        return float(max(0.0, min([LOOK_S, *ends])))

    def _expire(self, *, force: bool = False) -> None:
        """Close what rested too long."""
        now = time.monotonic()
        with self._lock:
            over = []
            for number, conn in self._resting.items():
                if conn.timeout > now and not force:
                    break
                over.append((number, conn))
            for number, _conn in over:
                del self._resting[number]
        for _number, conn in over:
            self._leave(conn)

    def _hire(self) -> None:
        """One thread more, if the system has one for us; the lock is held."""
        try:
            Thread(target=self._work, name="genie-web", daemon=True).start()
        except RuntimeError as error:
            if not self._threads:
                raise
            # who hires has work in hand, which would be lost with it
            self.log.error("No thread could be started: %s", error)
            return
        self._threads += 1
        self._idle += 1

    def _work(self) -> None:
        while True:
            self._turns.take()
            ready = self._ready.poll(maxevents=1)
            self._turns.begin()
            with self._lock:
                self._idle -= 1
                if not self._idle and self._threads < self.cfg.threads:
                    self._hire()
            for number, _event in ready:
                self._guarded(self._take, number)
            turns.leave()
            with self._lock:
                self._idle += 1

    def _guarded(self, act: Callable[[int], None], number: int) -> None:
        try:
            act(number)
        except BaseException:  # the reason stands below
            # A thread that dies would never serve again, nor say so.
            self.log.exception("Error in a thread")

    def _take(self, number: int) -> None:
        """Serve the connection that has something to say, or that is new."""
        with self._lock:
            conn = self._resting.pop(number, None)
        listener = self._listeners.get(number)
        if listener is not None:
            conn = self._accepted(listener)
        if conn is not None:
            self._serve(conn)

    def _accepted(self, listener: socket.socket) -> TConn | None:
        """A new connection that has sent something; one that has not comes to rest."""
        conn = self._accept_one(listener)
        with self._lock:
            self.nr_conns += conn is not None
            self._shut.add(listener.fileno())
            self._let_in()
        if conn is None or _has_data(conn.sock):
            return conn
        self._rest(conn)
        return None

    def _accept_one(self, listener: socket.socket) -> TConn | None:
        try:
            client, address = listener.accept()
            return TConn(self.cfg, client, address, listener.getsockname())
        except (BlockingIOError, ConnectionAbortedError):
            return None
        except OSError as error:
            self.log.error("No connection could be taken: %s", error)
            time.sleep(NO_ACCEPT_S)
            return None

    def _let_in(self) -> None:
        """Listen where we do not, unless there are too many; the lock is held."""
        if self.nr_conns >= self.worker_connections:
            return
        while self._shut:
            number = self._shut.pop()
            if number in self._listeners:
                self._ready.modify(number, ONCE)

    def _serve(self, conn: TConn) -> None:
        conn.data_ready = True  # so that no thread waits for it
        try:
            while self.handle(conn):
                # What was read ahead is no event of the socket any more.
                if not conn.parser.unreader.buf.getvalue():
                    self._rest(conn)
                    return
        except BaseException:
            self._leave(conn)
            raise
        turns.leave()  # the client closes when it likes, within two seconds
        self._leave(conn, graceful=True)

    def _rest(self, conn: TConn) -> None:
        """Wait for the next request; another thread may serve it when this ends."""
        number = conn.sock.fileno()
        conn.set_timeout()
        if not self.alive:
            linger = time.monotonic() + STOP_KEEPALIVE_LINGER
            conn.timeout = min(conn.timeout, linger)
        with self._lock:
            try:
                self._ready.modify(number, ONCE)
            except FileNotFoundError:
                self._ready.register(number, ONCE)
            self._resting[number] = conn

    def _leave(self, conn: TConn, *, graceful: bool = False) -> None:
        try:
            conn.close(graceful=graceful)
        except OSError:
            conn.close()
        with self._lock:
            self.nr_conns -= 1
            self._let_in()
        if not self.alive:
            self.method_queue.defer(lambda: None)  # the last one ends the process


def _has_data(client: socket.socket) -> bool:
    """True when something can be read, the end included."""
    try:
        client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
