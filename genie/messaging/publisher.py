"""A publishing thread with a connection of its own: in order, retried, never lost.

Callers hand over bytes and go on; an engine's thread must not wait for a broker.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import kombu
from amqp.exceptions import RecoverableConnectionError

from genie import logs
from genie.messaging import broker, frames, light
from genie.messaging.bell import Bell
from genie.messaging.confirms import Confirms

if TYPE_CHECKING:
    from kombu.transport.base import StdChannel

log = logs.logger("messaging.publisher")

RETRY_FIRST_S, RETRY_MOST_S = 0.1, 5.0
LOOK_S = 2.0
"""How often an idle publisher looks at its connection."""

KEPT_S = 1.0
"""How long a plain letter is kept after its write: what the kernel took, a connection
that broke meanwhile may not have brought. The broker reads nothing of a connection that
it closes, and whoever writes hears of that a moment late."""

MOST_AT_ONCE = 64
"""Letters of one write; more would make the first of them wait for the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One message for the default exchange.

    ``confirmed`` letters are durable, waited for, and sent again until a queue has
    them; then ``on_sent`` runs in the publisher's thread. ``queue`` is declared first:
    a letter to a queue that is not there would hold up all that come after it.
    Plain ones may come twice where a connection was lost: readers drop the second.
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
    """Publishes letters in the order they were handed over.

    A letter that is not confirmed goes out without waiting for one that is: a chunk of
    text never waits until the broker has another job's outcome on its disk.
    """

    def __init__(self, url: str, *, name: str) -> None:
        self._url, self._name = url, name
        self._letters: deque[Letter] = deque()
        self._busy = threading.RLock()
        self._bell = Bell()
        self._ending = threading.Event()
        self._stopping = threading.Event()
        self._line: _Line | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread; returns at once."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Send what is already handed over, then close."""
        self._ending.set()
        self._bell.ring()
        self._thread.join(timeout_s)
        self._stopping.set()
        self._bell.ring()

    def send(self, letter: Letter) -> None:
        """Hand over a letter from any thread; never blocks.

        Where nothing waits before it, it is written in the caller's thread: waking ours
        takes longer than that.
        """
        if not self._is_sent(letter):
            self._letters.append(letter)
            self._bell.ring()

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """Let the letters this thread sends within leave in one write at the end.

        Never blocks either: whoever finds the line busy sends them one by one.
        """
        if not self._busy.acquire(blocking=False):
            yield
            return
        wire = self._line.wire if self._line is not None else None
        try:
            if wire is None:
                yield
                return
            wire.cork()
            try:
                yield
            finally:
                self._let_out(wire)
        finally:
            self._busy.release()

    def _let_out(self, wire: frames.BufferedTransport) -> None:
        try:
            is_out = wire.uncork_soon()
        except OSError:
            is_out = False
        if not is_out:
            self._bell.ring()  # what is left, or broken, is our thread's

    def _is_sent(self, letter: Letter) -> bool:
        if self._letters or not self._busy.acquire(blocking=False):
            return False
        try:
            line = self._line
            if line is None or self._letters or not line.can_send(letter):
                return False
            if not line.send(letter):
                self._bell.ring()  # what is left, or broken, is our thread's
        except (OSError, RecoverableConnectionError):
            return False
        finally:
            self._busy.release()
        return True

    def _run(self) -> None:
        delay_s = RETRY_FIRST_S
        while not self._stopping.is_set() and not self._is_done():
            try:
                if self._turn(has_come=self._wait()):
                    delay_s = RETRY_FIRST_S
            except _Cut as cut:
                log.warning("publish_retry", name=self._name, error=cut.reason)
                self._stopping.wait(delay_s)
                delay_s = min(delay_s * 2, RETRY_MOST_S)
        self._hang_up()

    def _is_done(self) -> bool:
        is_owing = self._line is not None and self._line.is_owing
        return self._ending.is_set() and not self._letters and not is_owing

    def _wait(self) -> bool:
        """Until there is a letter or the broker says something; true if it did."""
        line = self._line
        if line is not None and line.has_more:
            return True
        sockets = line.filenos if line is not None else ()
        is_urgent = bool(self._letters) or (line is not None and line.is_refused)
        wait_s = 0 if is_urgent else LOOK_S
        return self._bell.wait(sockets, wait_s)

    def _turn(self, *, has_come: bool) -> bool:
        """Listen and send; true when something is surely sent now."""
        self._bell.clear()
        if self._line is None and not self._letters:
            return False  # nothing to say, so nobody to call
        with self._busy:
            line = self._line = self._line or _Line(self._url, self._name)
            try:
                sent = line.exchange(self._take(), has_come=has_come)
            except line.errors as error:
                self._letters.extendleft(reversed(line.owed))
                self._hang_up()
                raise _Cut(repr(error)) from error
        for letter in sent:
            if letter.on_sent is not None:
                letter.on_sent()
        return bool(sent)

    def _take(self) -> list[Letter]:
        """What was handed over so far."""
        count = min(len(self._letters), MOST_AT_ONCE)
        return [self._letters.popleft() for _ in range(count)]

    def _hang_up(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.close()


class _Cut(Exception):
    """The line failed; what it still owed will be sent on the next one."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Line:
    """One connection with a plain and a confirming channel."""

    def __init__(self, url: str, name: str) -> None:
        self._connection = broker.connection(url, name=name)
        self.errors = failures(self._connection)
        self._is_memory = broker.is_memory(url)
        self._declared: set[str] = set()
        self._channels: dict[bool, StdChannel] = {}
        self._confirms: Confirms[Letter] | None = None
        self._rest: list[Letter] = []
        self._plain: list[Letter] = []
        self._kept: deque[tuple[Letter, float]] = deque()
        self._checked_at = time.monotonic()

    @property
    def owed(self) -> list[Letter]:
        """Letters the broker may not have, in order."""
        waiting = self._confirms.waiting if self._confirms else []
        known = set(map(id, waiting))  # the one whose writing failed stands in both
        rest = [letter for letter in self._rest if id(letter) not in known]
        kept = [letter for letter, _at in self._kept]
        return [*waiting, *kept, *self._plain, *rest]

    @property
    def is_owing(self) -> bool:
        """True while a confirmation is waited for."""
        return self._confirms is not None and bool(self._confirms.waiting)

    @property
    def is_refused(self) -> bool:
        """True when the broker has refused all that it has not confirmed."""
        return self._confirms is not None and self._confirms.is_refused

    @property
    def has_more(self) -> bool:
        """True when the broker's word was read already and not looked at."""
        return self._is_open and frames.has_more(self._connection)

    @property
    def filenos(self) -> tuple[int, ...]:
        """What to wait for besides new letters."""
        return (self._connection.connection.sock.fileno(),) if self._is_open else ()

    @property
    def wire(self) -> frames.BufferedTransport | None:
        """What letters are written to, where any thread may do that."""
        shared = filter(light.is_shared, self._channels.values())
        return next((channel.wire for channel in shared), None)

    @property
    def _is_open(self) -> bool:
        return not self._is_memory and bool(self._connection.connected)

    def can_send(self, letter: Letter) -> bool:
        """True when a letter needs nothing but to be written."""
        channel = self._channels.get(letter.confirmed)
        is_small = len(letter.body) <= light.SMALL_BYTES
        is_declared = letter.queue is None or letter.to in self._declared
        return is_small and is_declared and light.is_shared(channel)

    def send(self, letter: Letter) -> bool:
        """Write one letter from any thread, at once; False when some of it is left, or
        when it will have to be sent again, on another line."""
        channel = self._channels[letter.confirmed]
        if self._confirms is None or not letter.confirmed:
            is_out = self._write(channel, letter, waits=False)
            self._keep([letter])
            return is_out
        try:
            write = partial(self._write, channel, letter, waits=False)
            return self._confirms.send(letter, write)
        except (OSError, RecoverableConnectionError):
            return False  # it counts as under way, and owed

    def exchange(self, letters: list[Letter], *, has_come: bool) -> list[Letter]:
        """Take what the broker says and send ``letters``, in one write; what is sent
        for sure."""
        self._rest = letters
        if not self._connection.connected:
            broker.connect(self._connection)
        self._check()
        with frames.corked(self._connection):
            if has_come:
                self._listen()
            while self._rest:
                self._publish(self._rest[0])
                del self._rest[0]
        sent, self._plain = self._plain, []
        self._keep(letter for letter in sent if not letter.confirmed)
        if self._confirms is not None:
            sent += self._confirms.take()
        return sent

    def close(self) -> None:
        """Close the connection, politely if that is possible."""
        try:
            self._connection.release()
        except self.errors:
            self._connection.collect()

    def _keep(self, letters: Iterable[Letter]) -> None:
        if self._is_memory:
            return
        now = time.monotonic()
        wire = getattr(self._channels.get(False), "wire", None)
        is_out = not (isinstance(wire, frames.BufferedTransport) and wire.is_holding)
        while is_out and self._kept and now - self._kept[0][1] > KEPT_S:
            self._kept.popleft()
        self._kept.extend((letter, now) for letter in letters)

    def _listen(self) -> None:
        with contextlib.suppress(TimeoutError):  # half a frame: the rest will come
            frames.drain(self._connection)

    def _publish(self, letter: Letter) -> None:
        channel = self._channel(letter.confirmed)
        self._declare(channel, letter)
        write = partial(self._write, channel, letter)
        if letter.confirmed and self._confirms is not None:
            self._confirms.send(letter, write)
        else:
            write()
            self._plain.append(letter)

    def _write(
        self, channel: "StdChannel", letter: Letter, *, waits: bool = True
    ) -> bool:
        return light.publish(
            channel,
            letter.body,
            key=letter.to,
            confirmed=letter.confirmed,
            headers=letter.headers,
            waits=waits,
        )

    def _check(self) -> None:
        if self._confirms is not None:
            self._confirms.check()
        if not self._is_memory and time.monotonic() - self._checked_at >= LOOK_S:
            self._checked_at = time.monotonic()
            self._connection.heartbeat_check()

    def _channel(self, confirmed: bool) -> "StdChannel":
        if confirmed not in self._channels:
            self._channels[confirmed] = self._open(confirmed)
        return self._channels[confirmed]

    def _open(self, confirmed: bool) -> "StdChannel":
        channel = self._connection.channel()
        if confirmed and hasattr(channel, "confirm_select"):  # in memory there is none
            self._confirms = Confirms(channel)
        return channel

    def _declare(self, channel: "StdChannel", letter: Letter) -> None:
        if letter.queue is not None and letter.to not in self._declared:
            letter.queue(channel).declare()
            self._declared.add(letter.to)
