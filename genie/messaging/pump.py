"""A consumer thread with a connection of its own: wakeable, and it comes back.

The inference data plane, the asker's replies and the cloud's outcomes each run on one.
Why not Celery's own consumer: on the in-memory transport its loop sleeps up to two
seconds before a reopened credit is seen, and its task pool costs 3-7 round trips.
"""

import os
import random
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import kombu

from genie import logs
from genie.messaging import broker

if TYPE_CHECKING:
    from kombu.transport.base import StdChannel

Action = Callable[["StdChannel"], None]
"""Runs in the pump's thread, the only one that may touch its channel."""

log = logs.logger("messaging.pump")

_random = random.SystemRandom()

RECONNECT_FIRST_S, RECONNECT_MOST_S = 0.1, 5.0
HEARTBEAT_CHECK_S = 2.5


class Pump:
    """Consumes on one channel; ``on_connect`` subscribes, ``call`` runs an action.

    ``on_connect`` runs at every (re)connection with a fresh channel; ``on_lost`` when
    a connection was lost, before the next attempt. Actions that wait when the
    connection goes are dropped: their channel, and what they were about, is gone.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        on_connect: Action,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        self._url, self._name = url, name
        self._on_connect = on_connect
        self._on_lost = on_lost
        self._actions: deque[Action] = deque()
        self._stopping = threading.Event()
        self._connected = threading.Event()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread; returns at once."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Run what waits, close the connection and end the thread."""
        self._stopping.set()
        self._wake()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def wait_connected(self, timeout_s: float) -> bool:
        """True once subscribed; False when that took longer."""
        return self._connected.wait(timeout_s)

    @property
    def is_connected(self) -> bool:
        """True while subscribed to a live connection."""
        return self._connected.is_set()

    def call(self, action: Action) -> None:
        """Run ``action`` with the channel soon, from any thread; never blocks."""
        self._actions.append(action)
        self._wake()

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"x")
        except BlockingIOError:  # the pipe is full: a wake-up is already under way
            return

    def _run(self) -> None:
        delay_s = RECONNECT_FIRST_S
        while not self._stopping.is_set():
            began = time.monotonic()
            self._connection()
            if time.monotonic() - began > RECONNECT_MOST_S:
                delay_s = RECONNECT_FIRST_S  # it worked for a while
            # Spread over half of it: a whole fleet lost the same broker.
            self._stopping.wait(delay_s * _random.uniform(0.5, 1.0))
            delay_s = min(delay_s * 2, RECONNECT_MOST_S)

    def _connection(self) -> None:
        """One connection from its opening to its end."""
        connection = broker.connection(self._url, name=self._name)
        errors = connection.connection_errors + connection.channel_errors
        try:
            self._serve(connection, self._open(connection))
        except (*errors, OSError) as error:
            log.warning("connection_lost", name=self._name, error=repr(error))
        except Exception as error:
            # Border: a consumer that dies leaves a process that looks healthy and
            # hears nothing; what was in hand comes again on the next connection.
            kind = type(error).__name__
            log.critical("consumer_failed", name=self._name, error=kind, exc_info=True)
        finally:
            self._drop(connection)

    def _open(self, connection: kombu.Connection) -> "StdChannel":
        broker.connect(connection)
        channel = connection.channel()
        self._on_connect(channel)
        self._connected.set()
        return channel

    def _drop(self, connection: kombu.Connection) -> None:
        was_connected = self._connected.is_set()
        self._connected.clear()
        self._actions.clear()
        try:
            connection.release()
        except (*connection.connection_errors, OSError):
            connection.collect()
        if was_connected and self._on_lost is not None:
            self._on_lost()

    def _serve(self, connection: kombu.Connection, channel: "StdChannel") -> None:
        wait = self._poll if broker.is_memory(self._url) else self._select
        checked_at = time.monotonic()
        while not self._stopping.is_set():
            self._act(channel)
            wait(connection)
            if time.monotonic() - checked_at >= HEARTBEAT_CHECK_S:
                checked_at = time.monotonic()
                connection.heartbeat_check()
        self._act(channel)

    def _act(self, channel: "StdChannel") -> None:
        while self._actions:
            self._actions.popleft()(channel)

    def _poll(self, connection: kombu.Connection) -> None:
        self._clear_wake()
        try:
            connection.drain_events(timeout=broker.POLLING_INTERVAL_S)
        except TimeoutError:
            return

    def _select(self, connection: kombu.Connection) -> None:
        sock: socket.socket = connection.connection.sock
        pending = getattr(sock, "pending", int)  # TLS may hold decrypted bytes
        readable = sock.fileno()
        ready = [readable]
        if not pending():
            watched = [readable, self._wake_read]
            ready = select.select(watched, [], [], HEARTBEAT_CHECK_S)[0]
        self._clear_wake()
        if readable in ready:
            try:
                connection.drain_events(timeout=1)
            except TimeoutError:  # half a frame so far: the rest is kept for next time
                return

    def _clear_wake(self) -> None:
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            return
