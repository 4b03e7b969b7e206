"""A publishing thread with connections of its own: in order, retried, never lost.

Callers hand over bytes and go on; an engine's thread must not wait for a broker.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import kombu
from amqp.exceptions import MessageNacked

from genie import logs
from genie.messaging import broker
from genie.messaging.envelope import CONTENT_TYPE

log = logs.logger("messaging.publisher")

CONFIRM_TIMEOUT_S = 10.0
RETRY_FIRST_S, RETRY_MOST_S = 0.1, 5.0
MOST_AT_ONCE = 64
"""Letters on their way before the first is confirmed: a wait for each alone would
carry no more than one letter per write to the broker's disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One message for the default exchange.

    ``confirmed`` letters are durable, waited for, and sent again until a queue has
    them; then ``on_sent`` runs in the publisher's thread. ``queue`` is declared first:
    a letter to a queue that is not there would hold up all that come after it.
    """

    to: str
    body: bytes
    confirmed: bool = False
    headers: Mapping[str, str | int | None] = field(default_factory=dict)
    on_sent: Callable[[], None] | None = None
    queue: kombu.Queue | None = None


def failures(connection: kombu.Connection) -> tuple[type[Exception], ...]:
    """What a publish may raise: the broker is away, cut us off, or refused a letter."""
    return (
        *connection.connection_errors,
        *connection.channel_errors,
        *connection.recoverable_connection_errors,  # a negative confirm among them
    )


class Publisher:
    """Publishes letters in the order they were handed over."""

    def __init__(self, url: str, *, name: str) -> None:
        self._url, self._name = url, name
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
        is_last = False
        while not is_last:
            letters, is_last = self._take()
            self._deliver(letters)
        self._hang_up()

    def _take(self) -> tuple[list[Letter], bool]:
        """What was handed over so far, at least one; and whether it is the last."""
        letters = []
        letter = self._letters.get()
        while letter is not None:
            letters.append(letter)
            if len(letters) == MOST_AT_ONCE or self._letters.empty():
                return letters, False
            letter = self._letters.get()
        return letters, True

    def _deliver(self, letters: list[Letter]) -> None:
        delay_s = RETRY_FIRST_S
        while letters and not self._stopping.is_set():
            self._line = self._line or _Line(self._url, self._name)
            try:
                for letter in self._line.publish(tuple(letters)):
                    letters.remove(letter)
                    if letter.on_sent is not None:
                        letter.on_sent()
            except self._line.errors as error:
                log.warning("publish_retry", name=self._name, error=repr(error))
                self._hang_up()
                self._stopping.wait(delay_s)
                delay_s = min(delay_s * 2, RETRY_MOST_S)

    def _hang_up(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.close()


class _Line:
    """One connection with a plain and a confirming channel."""

    def __init__(self, url: str, name: str) -> None:
        # No heartbeat: nobody reads this socket while there is nothing to publish.
        self._connection = broker.connection(url, name=name, heartbeat_s=0)
        self._declared: set[str] = set()
        self.errors = failures(self._connection)
        self._channels: dict[bool, kombu.transport.base.StdChannel] = {}
        self._confirms: _Confirms | None = None

    def publish(self, letters: Iterable[Letter]) -> Iterator[Letter]:
        """Send all of them, in order; gives each back once it is surely sent."""
        for letter in letters:
            channel = self._channel(letter.confirmed)
            self._declare(channel, letter)
            message = channel.prepare_message(
                letter.body,
                content_type=CONTENT_TYPE,
                content_encoding="utf-8",
                headers=letter.headers,
                properties={"delivery_mode": 2 if letter.confirmed else 1},
            )
            confirms = self._confirms if letter.confirmed else None
            channel.basic_publish(
                message,
                exchange="",
                routing_key=letter.to,
                mandatory=confirms is not None,  # else no queue is no error
            )
            if confirms is None:
                yield letter
                continue
            confirms.expect(letter)
        if self._confirms is not None:
            yield from self._confirms.wait(self._connection)

    def _channel(self, confirmed: bool) -> "kombu.transport.base.StdChannel":
        if confirmed not in self._channels:
            self._channels[confirmed] = self._open(confirmed)
        return self._channels[confirmed]

    def _open(self, confirmed: bool) -> "kombu.transport.base.StdChannel":
        channel = self._connection.channel()
        if confirmed and hasattr(channel, "confirm_select"):  # in memory there is none
            self._confirms = _Confirms(channel)
        return channel

    def _declare(
        self, channel: "kombu.transport.base.StdChannel", letter: Letter
    ) -> None:
        if letter.queue is not None and letter.to not in self._declared:
            letter.queue(channel).declare()
            self._declared.add(letter.to)

    def close(self) -> None:
        try:
            self._connection.release()
        except self.errors:
            self._connection.collect()


class _Confirms:
    """The letters on their way on one channel; the broker numbers them from 1."""

    def __init__(self, channel: "kombu.transport.base.StdChannel") -> None:
        self._sent = self._refused = 0
        self._under_way: dict[int, Letter] = {}
        self._arrived: list[Letter] = []
        channel.confirm_select()
        channel.events["basic_ack"].add(self._accept)
        channel.events["basic_nack"].add(self._refuse)

    def expect(self, letter: Letter) -> None:
        """A letter was just published."""
        self._sent += 1
        self._under_way[self._sent] = letter

    def wait(self, connection: kombu.Connection) -> Iterator[Letter]:
        """Each letter when the broker has it; raises after the last if it refused any,
        and when it is silent too long."""
        yield from self._take()  # confirms that came while others were published
        while self._under_way:
            connection.drain_events(timeout=CONFIRM_TIMEOUT_S)
            yield from self._take()
        if self._refused:
            raise MessageNacked(f"the broker refused {self._refused} letters")

    def _take(self) -> list[Letter]:
        arrived, self._arrived = self._arrived, []
        return arrived

    def _accept(self, tag: int, multiple: bool) -> None:
        self._arrived += self._settled(tag, multiple)

    def _refuse(self, tag: int, multiple: bool) -> None:
        self._refused += len(self._settled(tag, multiple))

    def _settled(self, tag: int, multiple: bool) -> list[Letter]:
        tags = [one for one in self._under_way if one <= tag] if multiple else [tag]
        return [self._under_way.pop(one) for one in tags]
