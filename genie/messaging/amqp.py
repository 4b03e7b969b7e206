"""Links to RabbitMQ by pika, all of a process in one thread."""

import contextlib
import functools
import itertools
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pika
from pika import frame, spec
from pika.channel import Channel
from pika.exceptions import AMQPError, ChannelClosedByBroker

from genie import logs
from genie.messaging import frames, iothread
from genie.messaging.broker import HEARTBEAT_S, parameters
from genie.messaging.declaration import Declaration
from genie.messaging.frames import METHOD, Coming, encoded
from genie.messaging.link import (
    BrokerBlocked,
    Counted,
    Done,
    Hear,
    Link,
    LinkError,
    LinkEvents,
    LinkLost,
    Publication,
    Received,
    Refused,
    Unroutable,
)
from genie.messaging.queues import QueueSpec
from genie.messaging.wire import Services, Wire

RECONNECT_FIRST_S, RECONNECT_MOST_S = 0.1, 5.0
CONFIRM_S = 10.0
"""A broker that confirms nothing for so long is given up, and another link opened."""

LOOK_S = 1.0
_random = random.SystemRandom()

log = logs.logger("messaging.amqp")
# It tells of each loss in several tracebacks; here it is logged once.
logging.getLogger("pika").setLevel(logging.CRITICAL)


class AmqpBroker:
    """RabbitMQ at one address."""

    def __init__(self, url: str) -> None:
        self._url = url

    def link(
        self,
        name: str,
        events: LinkEvents | None = None,
        *,
        vhost: str | None = None,
    ) -> Link:
        """A connection to a virtual host (the URL's unless told); `start` opens it."""
        found = parameters(self._url, name, HEARTBEAT_S)
        if vhost is not None:
            found.virtual_host = vhost
        return AmqpLink(found, name, events or LinkEvents())


@dataclass(slots=True, kw_only=True)
class _Unconfirmed:
    """What was published and not yet confirmed."""

    publication: Publication
    done: Done
    at: float
    was_returned: bool = False


class AmqpLink:
    """One connection that comes back by itself; see `Link`."""

    def __init__(
        self, parameters: pika.ConnectionParameters, name: str, events: LinkEvents
    ) -> None:
        self._parameters, self._name, self._events = parameters, name, events
        self._session: _Session | None = None  # of this moment
        self._news = threading.Condition()
        self._failures = 0
        self._delay_s = RECONNECT_FIRST_S
        self._is_started = self._is_closing = self._is_waiting = False

    @functools.cached_property
    def _thread(self) -> iothread.IoThread:
        return iothread.thread()  # at first use: after any fork

    def start(self) -> None:
        """Connect; returns at once."""
        with self._news:
            if self._is_started:
                return
            self._is_started = True
        self._thread.call(self._connect)

    def close(self, timeout_s: float = 5.0) -> None:
        """Send what was given, then close."""
        if not self._is_started or self._is_closing:
            return
        self._is_closing = True
        closed = threading.Event()
        self._thread.call(lambda: self._end(closed.set))
        if not self._thread.is_here:
            closed.wait(timeout_s)

    def reset(self) -> None:
        """Give this connection up and open another one."""
        self._thread.call(self._give_up)

    @property
    def is_up(self) -> bool:
        """True while connected."""
        session = self._session
        return session is not None and session.is_open

    @property
    def is_writing(self) -> bool:
        """True while something was sent that has not left for the broker."""
        session = self._session
        is_open = session is not None and session.is_open
        return is_open and bool(session and session.wire.is_behind)

    def wait_up(self, timeout_s: float) -> bool:
        """Connect now if need be; False when that fails or takes longer."""
        if self.is_up:
            return True
        failures = self._failures
        self.start()
        self._thread.call(self._hurry)
        with self._news:
            self._news.wait_for(
                lambda: self.is_up or self._failures != failures, timeout_s
            )
        return self.is_up

    def call(self, action: Callable[[], None]) -> None:
        """Run ``action`` soon, in the broker's thread."""
        self._thread.call(action)

    def call_later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Run ``action`` after a time, in the broker's thread."""
        self._thread.call_later(delay_s, action)

    def declare(self, queue: QueueSpec, done: Counted) -> None:
        """Make sure of a queue, and count it."""

        def declare() -> None:
            session = self._session
            if session is None or not session.is_open:
                done(LinkLost("the broker is away"))
            else:
                session.declare(queue, done)

        self._thread.call(declare)

    def consume(
        self,
        queue: str,
        hear: Hear,
        *,
        places: int = 0,
        priority: int | None = None,
        is_background: bool = False,
        ready: Callable[[], None] | None = None,
    ) -> str:
        """Take messages; see `Link.consume`."""
        session = self._session
        if session is None or not session.is_open:
            return ""  # whoever asks will ask again when the link is up
        return session.consume(queue, hear, places, priority, is_background, ready)

    def cancel(self, tag: str, done: Callable[[], None] | None = None) -> None:
        """Take no more; what is under way goes back to its queue."""
        session = self._session
        if session is not None and session.is_open:
            session.cancel(tag, done)

    def ack(self, received: Received) -> None:
        """It is done with. After a lost connection somebody else has it: no news."""
        self._settle(received, spec.Basic.Ack(received.tag))

    def reject(self, received: Received, *, requeue: bool) -> None:
        """Give it back, or set it aside with the dead letters."""
        self._settle(received, spec.Basic.Reject(received.tag, requeue=requeue))

    def _settle(self, received: Received, method: Any) -> None:
        session = self._session
        if session is not None and session.has(received.channel):
            number = received.channel.channel_number  # type: ignore[attr-defined]
            session.wire.write(frame.Method(number, method).marshal())

    def send(self, publication: Publication, done: Done | None = None) -> bool:
        """Publish; False when that cannot be done now, and then it was not."""
        session = self._session
        if session is None or not session.is_open or session.is_blocked:
            return False
        return session.send(publication, done or (lambda _error: None))

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """Let what is written within leave in one write at the end."""
        session = self._session
        if session is None or not session.is_open:
            yield
            return
        with session.wire.corked():
            yield

    def _connect(self) -> None:
        self._is_waiting = False
        if not self._is_closing and self._session is None:
            self._session = _Session(self._thread, self._parameters, self._owner())

    def _owner(self) -> "_Owner":
        return _Owner(opened=self._opened, ended=self._ended, events=self._events)

    def _hurry(self) -> None:
        if self._is_waiting:
            self._connect()

    def _opened(self) -> None:
        self._delay_s = RECONNECT_FIRST_S
        with self._news:
            self._news.notify_all()
        self._events.up()
        self._look(self._session)

    def _look(self, session: "_Session | None") -> None:
        if session is None or session is not self._session:
            return
        if session.oldest_s() > CONFIRM_S:
            log.warning("no_confirms", name=self._name)
            self._give_up()
            return
        self._thread.call_later(LOOK_S, lambda: self._look(session))

    def _give_up(self) -> None:
        if self._session is not None:
            self._session.abort()

    def _ended(self, was_open: bool, error: BaseException) -> None:
        session, self._session = self._session, None
        with self._news:
            self._failures += 1
            self._news.notify_all()
        if not self._is_closing:
            log.warning("connection_lost", name=self._name, error=repr(error))
            # Spread over half of it: a whole fleet lost the same broker.
            self._is_waiting = True
            delay_s = self._delay_s * _random.uniform(0.5, 1.0)
            self._delay_s = min(self._delay_s * 2, RECONNECT_MOST_S)
            self._thread.call_later(delay_s, self._hurry)
        if session is not None:
            session.drop()
        if was_open:
            self._events.down()

    def _end(self, closed: Callable[[], None]) -> None:
        if self._session is None:
            closed()
        else:
            self._session.close(closed)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Owner:
    """Who hears of a session."""

    opened: Callable[[], None]
    ended: Callable[[bool, BaseException], None]
    events: LinkEvents


_MAIN, _CONFIRMED, _BACKGROUND = _LANES = "main", "confirmed", "background"


class _Session:
    """A link's connection from its opening to its end, and all that ends with it.

    Background queues have a channel of their own: they are quorum queues, which may be
    silent for many seconds after a crash of the broker, and the broker handles what
    comes on one channel strictly in order.
    """

    def __init__(
        self,
        thread: iothread.IoThread,
        parameters: pika.ConnectionParameters,
        owner: _Owner,
    ) -> None:
        self._owner, self._thread = owner, thread
        self.is_open = self.is_blocked = False
        self._channels: dict[str, Channel] = {}
        self._places: dict[str, int] = {}
        self._consuming: dict[str, _Consuming] = {}
        self._coming: dict[int, Coming] = {}
        self._tags = itertools.count()
        self._sent = 0
        self._unconfirmed: dict[int, _Unconfirmed] = {}
        self._closed: list[Callable[[], None]] = []
        self._services = Services(thread, self)
        self._connection = pika.SelectConnection(
            parameters,
            on_open_callback=lambda _connection: self._open_channels(),
            on_open_error_callback=lambda _connection, error: self._end(error),
            on_close_callback=lambda _connection, error: self._end(error),
            custom_ioloop=self._services,
        )
        self._connection.add_on_connection_blocked_callback(self._block)
        self._connection.add_on_connection_unblocked_callback(self._unblock)

    @property
    def wire(self) -> Wire:
        """What is written to."""
        wire = self._services.wire
        if wire is None:
            raise LinkLost("the connection is not open yet")
        return wire

    def has(self, channel: object) -> bool:
        """True for a channel of this connection, while it is open."""
        return self.is_open and channel in self._channels.values()

    def oldest_s(self) -> float:
        """How long the oldest publication has waited for its confirmation."""
        with self.wire.lock:
            oldest = next(iter(self._unconfirmed.values()), None)
        if oldest is None or self.is_blocked:
            return 0.0
        return time.monotonic() - oldest.at

    def send(self, publication: Publication, done: Done) -> bool:
        """Publish from any thread; count and write in one: the broker counts as we."""
        lane = _CONFIRMED if publication.confirmed else _MAIN
        number = self._channels[lane].channel_number
        coded = encoded(number, publication, self._connection.params.frame_max)
        wire = self.wire
        with wire.lock:
            if not self.is_open:
                return False
            if publication.confirmed:
                self._sent += 1
                self._unconfirmed[self._sent] = _Unconfirmed(
                    publication=publication, done=done, at=time.monotonic()
                )
            wire.write(coded)
        return True

    def declare(self, queue: QueueSpec, done: Counted) -> None:
        """On a channel of its own, which alone ends if the broker refuses."""
        try:
            Declaration(self._connection, queue, done)
        except AMQPError as error:  # it is closing, or has no channel left
            name = type(error).__name__
            done(LinkLost(f"no channel can be opened now ({name})"))

    def consume(
        self,
        queue: str,
        hear: Hear,
        places: int,
        priority: int | None,
        is_background: bool,
        ready: Callable[[], None] | None,
    ) -> str:
        """Every subscription has a tag of its own: RabbitMQ counts acks by tag, and
        would give a later consumer of that name more than its places."""
        lane = _BACKGROUND if is_background else _MAIN
        channel, tag = self._channels[lane], f"c{next(self._tags)}"
        if places and self._places.get(lane) != places:
            self._places[lane] = places  # of consumers that come from now on
            self._say(channel, spec.Basic.Qos(prefetch_count=places))
        self._consuming[tag] = _Consuming(channel=channel, hear=hear, ready=ready)
        arguments = {} if priority is None else {"x-priority": priority}
        self._say(
            channel,
            spec.Basic.Consume(
                queue=queue,
                consumer_tag=tag,
                no_ack=not places,
                arguments=arguments,
                # With an answer RabbitMQ 3.10 ends the channel of a quorum queue whose
                # consumer is cancelled at once, by its first message.
                nowait=ready is None,
            ),
        )
        return tag

    def cancel(self, tag: str, done: Callable[[], None] | None) -> None:
        """Take no more."""
        consuming = self._consuming.get(tag)
        if consuming is None:
            return
        consuming.gone = done
        if done is None:
            del self._consuming[tag]
        cancel = spec.Basic.Cancel(consumer_tag=tag, nowait=done is None)
        self._say(consuming.channel, cancel)

    def _say(self, channel: Channel, method: Any) -> None:
        # By ourselves: pika does one such thing at a time, and gives back, marked as
        # redelivered, what is under way to a consumer that it cancels.
        self.wire.write(frame.Method(channel.channel_number, method).marshal())

    def wants(self, kind: int, number: int, payload: bytes) -> bool:
        """True for frames of messages, and the broker's answers to `_say`."""
        return payload[:4] in frames.OURS if kind == METHOD else number in self._coming

    def take(self, kind: int, number: int, payload: bytes) -> None:
        """Read one of these frames."""
        self._connection.bytes_received += len(payload)  # a sign of life
        if kind != METHOD:
            coming = self._coming[number]
            if coming.add(kind, payload):
                del self._coming[number]
                self._arrived(number, coming)
        elif payload[:4] == frames.DELIVER:
            self._coming[number] = Coming(payload)
        elif payload[:4] in (frames.ACK, frames.NACK):
            self._confirmed(payload)
        elif payload[:4] == frames.CANCEL:
            self._cancelled(frames.text(payload, 4)[0])
        elif payload[:4] != frames.QOS_OK:
            self._answered(frames.text(payload, 4)[0], payload[:4] == frames.CANCEL_OK)

    def quiet(self) -> None:
        """All that was read is handled."""
        if self.is_open:
            self._thread.guard(self._owner.events.quiet)

    def _arrived(self, number: int, coming: Coming) -> None:
        consuming = self._consuming.get(coming.consumer)
        if consuming is None:  # nothing can be under way to it
            return
        received = Received(
            body=b"".join(coming.parts),
            redelivered=coming.redelivered,
            headers=functools.partial(frames.headers, coming.head),
            channel=consuming.channel,
            tag=coming.tag,
        )
        self._thread.guard(functools.partial(consuming.hear, received))

    def _answered(self, tag: str, is_gone: bool) -> None:
        consuming = self._consuming.get(tag)
        if consuming is None:
            return
        if is_gone:
            del self._consuming[tag]
        done = consuming.gone if is_gone else consuming.ready
        if done is not None:
            self._thread.guard(done)

    def _cancelled(self, tag: str) -> None:
        # By the broker: its queue was deleted or moved. Only a new connection declares
        # it again, and a consumer that is gone would be missed by nobody.
        if tag in self._consuming:
            log.error("consumer_cancelled", tag=tag)
            self._thread.guard(self._owner.events.refused)
            self.abort()

    def abort(self) -> None:
        """End it now, whatever the broker says."""
        if self._services.wire is not None:
            self._services.wire.cut()

    def close(self, closed: Callable[[], None]) -> None:
        """End it in good order."""
        self._closed.append(closed)
        if not self._connection.is_closing and not self._connection.is_closed:
            self._connection.close()

    def drop(self) -> None:
        """Tell whoever waits for a confirmation that there will be none."""
        self._fail(LinkLost("the connection was lost before the confirmation came"))

    def _fail(self, error: LinkError) -> None:
        if self._services.wire is None:
            return
        with self.wire.lock:
            waiting = tuple(self._unconfirmed.values())
            self._unconfirmed.clear()
        for one in waiting:
            self._thread.guard(functools.partial(one.done, error))

    def _open_channels(self) -> None:
        for lane in _LANES:  # all at once, so that it takes one round trip
            self._connection.channel(
                on_open_callback=functools.partial(self._opened, lane)
            )

    def _opened(self, lane: str, channel: Channel) -> None:
        channel.add_on_close_callback(self._channel_closed)
        if lane == _CONFIRMED:
            channel.add_on_return_callback(self._returned)
            channel.confirm_delivery(
                lambda _frame: None,  # they are read here
                callback=lambda _frame: self._ready(lane, channel),
            )
        else:
            self._ready(lane, channel)

    def _ready(self, lane: str, channel: Channel) -> None:
        self._channels[lane] = channel
        if len(self._channels) == len(_LANES):
            self.is_open = True
            self._thread.guard(self._owner.opened)

    def _channel_closed(self, _channel: Channel, error: Exception) -> None:
        # The broker refused something on it: only a new connection knows where it is.
        if isinstance(error, ChannelClosedByBroker) and self._connection.is_open:
            log.error("channel_closed", error=repr(error))
            self._thread.guard(self._owner.events.refused)
            self._connection.close()

    def _confirmed(self, payload: bytes) -> None:
        tag, bits = frames.TAG.unpack_from(payload, 4)
        with self.wire.lock:
            tags = self._up_to(tag) if bits & 1 else [tag]
            found = [self._unconfirmed.pop(one, None) for one in tags]
        is_taken = payload[:4] == frames.ACK
        for one in found:
            if one is not None:
                self._thread.guard(functools.partial(one.done, _why(one, is_taken)))

    def _up_to(self, tag: int) -> list[int]:
        return list(itertools.takewhile(lambda one: one <= tag, self._unconfirmed))

    def _returned(
        self, _channel: Channel, method: Any, _properties: Any, body: bytes
    ) -> None:
        # It comes before its confirmation, and does not say its number.
        with self.wire.lock:
            for one in self._unconfirmed.values():
                asked = one.publication
                where = method.exchange, method.routing_key
                if where == (asked.exchange, asked.key) and asked.body == body:
                    one.was_returned = True
                    return

    def _block(self, _connection: object, told: Any) -> None:
        self.is_blocked = True
        self._fail(BrokerBlocked(f"the broker blocks publishes: {told.method.reason}"))

    def _unblock(self, _connection: object, _told: object) -> None:
        self.is_blocked = False
        self._thread.guard(self._owner.events.unblocked)

    def _end(self, error: BaseException) -> None:
        was_open, self.is_open = self.is_open, False
        self._services.drop()
        self._consuming.clear()  # channels stay: another thread may be sending
        self._owner.ended(was_open, error)
        for closed in self._closed:
            closed()


def _why(one: _Unconfirmed, is_taken: bool) -> LinkError | None:
    """Why it has not arrived; None if it has."""
    if one.was_returned:
        return Unroutable(f"no queue takes {one.publication.key!r}")
    if not is_taken:
        return Refused(f"the broker took nothing for {one.publication.key!r}")
    return None


@dataclass(slots=True, kw_only=True)
class _Consuming:
    """A consumer, and who hears what comes to it, that it is known, that it is gone."""

    channel: Channel
    hear: Hear
    ready: Callable[[], None] | None
    gone: Callable[[], None] | None = None
