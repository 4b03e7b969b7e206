"""A publishing thread with connections of its own: in order, retried, never lost.

Callers hand over bytes and go on; an engine's thread must not wait for a broker.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import kombu

from genie import logs
from genie.messaging import broker
from genie.messaging.envelope import CONTENT_TYPE

log = logs.logger("messaging.publisher")

CONFIRM_TIMEOUT_S = 10.0
RETRY_FIRST_S, RETRY_MOST_S = 0.1, 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One message for the default exchange.

    ``confirmed`` letters are durable, waited for, and sent again until the broker has
    them; then ``on_sent`` runs in the publisher's thread.
    """

    to: str
    body: bytes
    confirmed: bool = False
    headers: Mapping[str, str | int | None] = field(default_factory=dict)
    on_sent: Callable[[], None] | None = None


def failures(connection: kombu.Connection) -> tuple[type[Exception], ...]:
    """What a publish may raise: the broker is away, cut us off, or refused a letter."""
    return (
        *connection.connection_errors,
        *connection.channel_errors,
        *connection.recoverable_connection_errors,  # a negative confirm among them
    )


class Publisher:
    """Publishes letters in the order they were handed over.

    ``queues`` are declared before the first confirmed letter: a broker confirms what
    it drops for want of a queue.
    """

    def __init__(
        self, url: str, *, name: str, queues: Iterable[kombu.Queue] = ()
    ) -> None:
        self._url, self._name, self._queues = url, name, tuple(queues)
        self._letters: queue.SimpleQueue[Letter | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._line: _Line | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread; returns at once."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Send what is already handed over, then close."""
        self._letters.put(None)
        self._thread.join(timeout_s)
        self._stopping.set()

    def send(self, letter: Letter) -> None:
        """Hand over a letter from any thread; never blocks."""
        self._letters.put(letter)

    def _run(self) -> None:
        while (letter := self._letters.get()) is not None:
            self._deliver(letter)
        self._hang_up()

    def _deliver(self, letter: Letter) -> None:
        delay_s = RETRY_FIRST_S
        while not self._stopping.is_set():
            self._line = self._line or _Line(self._url, self._name, self._queues)
            try:
                self._line.publish(letter)
            except self._line.errors as error:
                log.warning("publish_retry", name=self._name, error=repr(error))
                self._hang_up()
                self._stopping.wait(delay_s)
                delay_s = min(delay_s * 2, RETRY_MOST_S)
                continue
            if letter.on_sent is not None:
                letter.on_sent()
            return

    def _hang_up(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.close()


class _Line:
    """One connection with a plain and a confirming channel."""

    def __init__(self, url: str, name: str, queues: tuple[kombu.Queue, ...]) -> None:
        # No heartbeat: nobody reads this socket while there is nothing to publish.
        self._connection = broker.connection(url, name=name, heartbeat_s=0)
        self._queues = queues
        self.errors = failures(self._connection)
        self._channels: dict[bool, kombu.transport.base.StdChannel] = {}

    def publish(self, letter: Letter) -> None:
        channel = self._channel(letter.confirmed)
        message = channel.prepare_message(
            letter.body,
            content_type=CONTENT_TYPE,
            content_encoding="utf-8",
            headers=letter.headers,
            properties={"delivery_mode": 2 if letter.confirmed else 1},
        )
        if letter.confirmed and hasattr(channel, "basic_publish_confirm"):
            channel.basic_publish_confirm(
                message,
                routing_key=letter.to,
                mandatory=True,  # else no queue is no error
                confirm_timeout=CONFIRM_TIMEOUT_S,
            )
            return
        channel.basic_publish(message, exchange="", routing_key=letter.to)

    def _channel(self, confirmed: bool) -> "kombu.transport.base.StdChannel":
        if confirmed not in self._channels:
            self._channels[confirmed] = self._open(confirmed)
        return self._channels[confirmed]

    def _open(self, confirmed: bool) -> "kombu.transport.base.StdChannel":
        channel = self._connection.channel()
        for bound in self._queues if confirmed else ():
            bound(channel).declare()
        return channel

    def close(self) -> None:
        try:
            self._connection.release()
        except self.errors:
            self._connection.collect()
