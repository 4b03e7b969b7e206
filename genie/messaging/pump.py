"""A consumer thread with a connection of its own: wakeable, and it comes back.

The inference data plane, the asker's replies and the cloud's outcomes each run on one.
Why not Celery's own consumer: on the in-memory transport its loop sleeps up to two
seconds before a reopened credit is seen, and its task pool costs 3-7 round trips.
"""

import contextlib
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import kombu

from genie import logs
from genie.messaging import broker, frames
from genie.messaging.bell import Bell

if TYPE_CHECKING:
    from kombu.transport.base import StdChannel

Action = Callable[["StdChannel"], None]
"""Runs in the pump's thread, the only one that may touch its channel."""

log = logs.logger("messaging.pump")

_random = random.SystemRandom()

RECONNECT_FIRST_S, RECONNECT_MOST_S = 0.1, 5.0
HEARTBEAT_CHECK_S = 2.5
POLLED_MOST = 64
"""In-memory messages handled before actions get their turn."""


class Pump:
    """Consumes on one channel; ``on_connect`` subscribes, ``call`` runs an action.

    ``on_connect`` runs at every (re)connection with a fresh channel; ``on_lost`` when
    a connection was lost, before the next attempt; ``on_quiet`` each time all that had
    arrived was handled, and after at most ``rest_s()`` seconds. Actions that wait when
    the connection goes are dropped: their channel, and what they were about, is gone.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        on_connect: Action,
        on_lost: Callable[[], None] | None = None,
        on_quiet: Action | None = None,
        rest_s: Callable[[], float] = lambda: HEARTBEAT_CHECK_S,
        on_blocked: broker.OnBlocked | None = None,
    ) -> None:
        self._url, self._name = url, name
        self._on_connect, self._rest_s = on_connect, rest_s
        self._on_lost, self._on_quiet = on_lost, on_quiet
        self._on_blocked = on_blocked
        self._actions: deque[Action] = deque()
        self._stopping = threading.Event()
        self._connected = threading.Event()
        self._bell = Bell()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread; returns at once."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Run what waits, close the connection and end the thread."""
        self._stopping.set()
        self._bell.ring()
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
        self.wake()

    def wake(self) -> None:
        """Have ``on_quiet`` called soon, from any thread; never blocks."""
        if threading.current_thread() is not self._thread:  # which looks after itself
            self._bell.ring()

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
        connection = broker.connection(
            self._url, name=self._name, on_blocked=self._on_blocked
        )
        errors = connection.connection_errors + connection.channel_errors
        try:
            try:
                self._serve(connection, self._open(connection))
            finally:
                self._drop(connection)
        except (*errors, OSError) as error:
            log.warning("connection_lost", name=self._name, error=repr(error))
        except Exception as error:
            # Border: a consumer that dies leaves a process that looks healthy and
            # hears nothing; what was in hand comes again on the next connection.
            kind = type(error).__name__
            log.critical("consumer_failed", name=self._name, error=kind, exc_info=True)

    def _open(self, connection: kombu.Connection) -> "StdChannel":
        broker.connect(connection)
        channel = connection.channel()
        channel.auto_decode = False  # bodies stay bytes: whoever reads them decodes
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
        turn = self._poll if broker.is_memory(self._url) else self._select
        checked_at = time.monotonic()
        while not self._stopping.is_set():
            turn(connection, channel)
            if time.monotonic() - checked_at >= HEARTBEAT_CHECK_S:
                checked_at = time.monotonic()
                connection.heartbeat_check()
        self._act(channel)

    def _act(self, channel: "StdChannel") -> None:
        while self._actions:
            self._actions.popleft()(channel)
        if self._on_quiet is not None:
            self._on_quiet(channel)

    def _poll(self, connection: kombu.Connection, channel: "StdChannel") -> None:
        self._bell.clear()
        wait_s = broker.POLLING_INTERVAL_S
        with contextlib.suppress(TimeoutError):
            for _ in range(POLLED_MOST):
                connection.drain_events(timeout=wait_s)
                wait_s = 0.0
        self._act(channel)

    def _select(self, connection: kombu.Connection, channel: "StdChannel") -> None:
        has_come = self._wait(connection)
        self._bell.clear()
        with frames.corked(connection):
            # Half a frame so far: the rest is kept for next time.
            with contextlib.suppress(TimeoutError):
                if has_come:
                    frames.drain(connection)
            self._act(channel)

    def _wait(self, connection: kombu.Connection) -> bool:
        """Until somebody rings or something comes; whether something has come."""
        if frames.has_more(connection):
            return True
        wait_s = 0.0 if self._actions else min(self._rest_s(), HEARTBEAT_CHECK_S)
        return self._bell.wait((connection.connection.sock.fileno(),), wait_s)
