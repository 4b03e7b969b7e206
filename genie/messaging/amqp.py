"""Links to RabbitMQ by pika, all of a process in one thread."""

import itertools
import logging
import random
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Unpack

import pika
from pika import frame, spec
from pika.channel import Channel
from pika.exceptions import AMQPError, ChannelClosedByBroker, ChannelClosedByClient

from genie import logs
from genie.messaging import frames, iothread
from genie.messaging.frames import METHOD, PartialMessage
from genie.messaging.link import (
    BrokerBlocked,
    BrokerMessage,
    ConsumeOptions,
    Link,
    LinkError,
    LinkEvents,
    LinkLost,
    OnConfirm,
    OnCount,
    OnMessage,
    Publication,
    QueueCount,
    Refused,
    Unroutable,
    nobody,
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


def link(parameters: pika.ConnectionParameters, name: str, events: LinkEvents) -> Link:
    """A link to RabbitMQ; it connects when it is started."""
    return _AmqpLink(parameters, name, events)


class _AmqpLink:
    """See `Link`."""

    def __init__(
        self, parameters: pika.ConnectionParameters, name: str, events: LinkEvents
    ) -> None:
        self._parameters, self._name, self.events = parameters, name, events
        self._session: _Session | None = None  # of this moment
        self._news = threading.Condition()
        self._failures = 0
        self._delay_s = RECONNECT_FIRST_S
        self._retry_at = 0.0
        self._is_started = self._is_closing = False
        self._closed = threading.Event()

    @cached_property
    def thread(self) -> iothread.IoThread:
        return iothread.thread()  # at first use: after any fork

    @property
    def _open(self) -> "_Session | None":
        session = self._session
        return session if session is not None and session.is_open else None

    def start(self) -> None:
        if not self._is_started:
            self._hurry()

    def _hurry(self) -> None:
        self._is_started = True
        self.thread.call(self._connect)

    def close(self, timeout_s: float = 5.0) -> None:
        if not self._is_started or self._is_closing:
            return
        self._is_closing = True
        self.thread.call(self._close)
        if not self.thread.is_here:
            self._closed.wait(timeout_s)

    def _close(self) -> None:
        if self._session is None:
            self._closed.set()
        else:
            self._session.close()

    def reset(self) -> None:
        self.thread.call(self._give_up)

    def _give_up(self) -> None:
        if self._session is not None:
            self._session.abort()

    @property
    def is_up(self) -> bool:
        return self._open is not None

    @property
    def is_writing(self) -> bool:
        session = self._open
        return session is not None and session.wire.is_behind

    def wait_up(self, timeout_s: float) -> bool:
        if self.is_up:
            return True
        failures = self._failures
        self._hurry()
        with self._news:
            self._news.wait_for(
                lambda: self.is_up or self._failures != failures, timeout_s
            )
        return self.is_up

    def call(self, action: Callable[[], None]) -> None:
        self.thread.call(action)

    def call_later(self, delay_s: float, action: Callable[[], None]) -> None:
        self.thread.call_later(delay_s, action)

    def declare(self, queue: QueueSpec, done: OnCount) -> None:
        def declare() -> None:
            if session := self._open:
                session.declare(queue, done)
            else:
                done(LinkLost("the broker is away"))

        self.thread.call(declare)

    def consume(
        self, queue: str, hear: OnMessage, **wanted: Unpack[ConsumeOptions]
    ) -> str:
        session = self._open
        # Without one whoever asks will ask again when the link is up.
        return "" if session is None else session.consume(queue, hear, wanted)

    def cancel(self, tag: str, done: Callable[[], None] | None = None) -> None:
        if session := self._open:
            session.cancel(tag, done)

    def ack(self, message: BrokerMessage) -> None:
        self._settle(message.channel, spec.Basic.Ack(message.tag))

    def reject(self, message: BrokerMessage, *, requeue: bool) -> None:
        method = spec.Basic.Reject(message.tag, requeue=requeue)
        self._settle(message.channel, method)

    def _settle(self, channel: object, method: Any) -> None:
        session = self._open
        if session is not None and channel in session.channels.values():
            session.say(channel, method)

    def send(self, publication: Publication, done: OnConfirm = nobody) -> bool:
        session = self._open
        return session is not None and session.send(publication, done)

    def gathered(self) -> AbstractContextManager[None]:
        session = self._open
        return nullcontext() if session is None else session.wire.corked()

    def _connect(self) -> None:
        if not self._is_closing and self._session is None:
            self._session = _Session(self, self._parameters)

    def _retry(self) -> None:
        if time.monotonic() >= self._retry_at:  # else another failure has come since
            self._connect()

    def opened(self) -> None:
        """The session's channels are open."""
        self._delay_s = RECONNECT_FIRST_S
        with self._news:
            self._news.notify_all()
        self.events.up()
        self._look(self._session)

    def _look(self, session: "_Session | None") -> None:
        if session is None or session is not self._session:
            return
        if session.oldest_s() > CONFIRM_S:
            log.warning("no_confirms", name=self._name)
            session.abort()
            return
        self.thread.call_later(LOOK_S, lambda: self._look(session))

    def ended(self, session: "_Session", was_open: bool, error: BaseException) -> None:
        """The session is over."""
        self._session = None
        with self._news:
            self._failures += 1
            self._news.notify_all()
        if not self._is_closing:
            self._connect_later(error)
        session.tell(LinkLost("the connection was lost before the confirmation came"))
        if was_open:
            self.events.down()
        if self._is_closing:
            self._closed.set()

    def _connect_later(self, error: BaseException) -> None:
        log.warning("connection_lost", name=self._name, error=repr(error))
        # Spread over half of it: a whole fleet lost the same broker.
        delay_s = self._delay_s * _random.uniform(0.5, 1.0)
        self._delay_s = min(self._delay_s * 2, RECONNECT_MOST_S)
        self._retry_at = time.monotonic() + delay_s
        self.thread.call_later(delay_s, self._retry)


@dataclass(slots=True, kw_only=True)
class _PendingConfirm:
    """What was published and not yet confirmed."""

    publication: Publication
    done: OnConfirm
    at: float
    was_returned: bool = False

    def why(self, is_taken: bool) -> LinkError | None:
        """Why it has not arrived; None if it has."""
        if self.was_returned:
            return Unroutable(f"no queue takes {self.publication.key!r}")
        if not is_taken:
            return Refused(f"the broker took nothing for {self.publication.key!r}")
        return None


@dataclass(slots=True, kw_only=True)
class _Subscription:
    """Who hears what comes to it, that the broker knows it, and that it is gone."""

    channel: Channel
    hear: OnMessage
    ready: Callable[[], None] | None
    gone: Callable[[], None] | None = None


_MAIN, _CONFIRMED, _BACKGROUND = _LANES = "main", "confirmed", "background"


class _Session:
    """A link's connection from its opening to its end, and all that ends with it.

    Background queues have a channel of their own: they are quorum queues, which may be
    silent for many seconds after a crash of the broker, and the broker handles what
    comes on one channel strictly in order.
    """

    def __init__(self, link: _AmqpLink, parameters: pika.ConnectionParameters) -> None:
        self._link, self._guard = link, link.thread.guard
        self.is_open = self.is_blocked = False
        self.channels: dict[str, Channel] = {}
        self._places: dict[Channel, int] = {}
        self._consumers: dict[str, _Subscription] = {}
        self._partial: dict[int, PartialMessage] = {}
        self._tags = itertools.count()
        self._sent = 0
        self._unconfirmed: dict[int, _PendingConfirm] = {}
        self._unblocked_at = 0.0
        self._services = Services(link.thread, self.read, self.quiet)
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
        """What is written to, once it is connected."""
        return self._services.wire

    def oldest_s(self) -> float:
        """How long the broker could have confirmed the oldest publication."""
        with self.wire.lock:
            oldest = next(iter(self._unconfirmed.values()), None)
        if oldest is None or self.is_blocked:
            return 0.0
        return time.monotonic() - max(oldest.at, self._unblocked_at)

    def send(self, publication: Publication, done: OnConfirm) -> bool:
        """Publish from any thread; count and write in one: the broker counts as we."""
        lane = _CONFIRMED if publication.confirmed else _MAIN
        number = self.channels[lane].channel_number
        coded = frames.encoded(number, publication, self._connection.params.frame_max)
        wire = self.wire
        with wire.lock:
            if not self.is_open or self.is_blocked:
                return False
            if publication.confirmed:
                self._sent += 1
                self._unconfirmed[self._sent] = _PendingConfirm(
                    publication=publication, done=done, at=time.monotonic()
                )
            wire.write(coded)
        return True

    def declare(self, queue: QueueSpec, done: OnCount) -> None:
        """On a channel of its own, which alone ends if the broker refuses."""
        try:
            _Declaration(
                self._connection,
                queue,
                lambda found: self._guard(partial(done, found)),
            )
        except AMQPError as error:  # it is closing, or has no channel left
            name = type(error).__name__
            done(LinkLost(f"no channel can be opened now ({name})"))

    def consume(self, queue: str, hear: OnMessage, wanted: ConsumeOptions) -> str:
        """Every subscription has a tag of its own: RabbitMQ counts acks by tag, and
        would give a later consumer of that name more than its places."""
        lane = _BACKGROUND if wanted.get("is_background") else _MAIN
        channel, tag = self.channels[lane], f"c{next(self._tags)}"
        places, ready = wanted.get("places", 0), wanted.get("ready")
        if places and self._places.get(channel) != places:
            self._places[channel] = places  # of consumers that come from now on
            self.say(channel, spec.Basic.Qos(prefetch_count=places))
        self._consumers[tag] = _Subscription(channel=channel, hear=hear, ready=ready)
        priority = wanted.get("priority")
        arguments = {} if priority is None else {"x-priority": priority}
        consume = spec.Basic.Consume(
            queue=queue,
            consumer_tag=tag,
            no_ack=not places,
            arguments=arguments,
            # With an answer RabbitMQ 3.10 ends the channel of a quorum queue whose
            # consumer is cancelled at once, by its first message.
            nowait=ready is None,
        )
        self.say(channel, consume)
        return tag

    def cancel(self, tag: str, done: Callable[[], None] | None) -> None:
        """Take no more."""
        consumer = self._consumers.get(tag)
        if consumer is None:
            return
        consumer.gone = done
        if done is None:
            del self._consumers[tag]
        cancel = spec.Basic.Cancel(consumer_tag=tag, nowait=done is None)
        self.say(consumer.channel, cancel)

    def say(self, channel: Any, method: Any) -> None:
        """Send a method of basic; its answer is `read` here.

        pika does one such thing at a time, and gives back, marked as redelivered, what
        is under way to a consumer that it cancels.
        """
        self.wire.write(frame.Method(channel.channel_number, method).marshal())

    def read(self, kind: int, number: int, payload: bytes) -> bool:
        """Take a frame of a message, or of an answer to `say`; False: it is pika's."""
        method = payload[:4]
        if kind != METHOD:
            message = self._partial.get(number)
            if message is None:
                return False
            if message.add(kind, payload):
                del self._partial[number]
                self._arrived(message)
        elif method == frames.DELIVER:
            self._partial[number] = PartialMessage(payload)
        elif method in (frames.ACK, frames.NACK):
            self._confirmed(payload)
        elif method == frames.CANCEL:
            self._cancelled(frames.text(payload, 4)[0])
        elif method in (frames.CONSUME_OK, frames.CANCEL_OK):
            self._answered(frames.text(payload, 4)[0], method == frames.CANCEL_OK)
        elif method != frames.QOS_OK:
            return False
        self._connection.bytes_received += len(payload)  # a sign of life
        return True

    def quiet(self) -> None:
        """All that was read is handled."""
        if self.is_open:
            self._guard(self._link.events.quiet)

    def _arrived(self, message: PartialMessage) -> None:
        consumer = self._consumers.get(message.consumer)
        if consumer is None:  # nothing can be under way to it
            return
        came = BrokerMessage(
            body=b"".join(message.parts),
            redelivered=message.redelivered,
            headers=partial(frames.headers, message.head),
            channel=consumer.channel,
            tag=message.tag,
        )
        self._guard(partial(consumer.hear, came))

    def _answered(self, tag: str, is_gone: bool) -> None:
        consumer = self._consumers.get(tag)
        if consumer is None:
            return
        if is_gone:
            del self._consumers[tag]
        done = consumer.gone if is_gone else consumer.ready
        if done is not None:
            self._guard(done)

    def _cancelled(self, tag: str) -> None:
        # By the broker: its queue was deleted or moved. Only a new connection declares
        # it again, and a consumer that is gone would be missed by nobody.
        if tag in self._consumers:
            log.error("consumer_cancelled", tag=tag)
            self.abort()

    def abort(self) -> None:
        """End it now, whatever the broker says."""
        self._services.cut()

    def close(self) -> None:
        """End it in good order."""
        if not self._connection.is_closing and not self._connection.is_closed:
            self._connection.close()

    def tell(self, error: LinkError) -> None:
        """Tell whoever waits for a confirmation what has happened."""
        if not self.channels:
            return  # it was never open
        with self.wire.lock:  # else one that is being sent would not be told
            waiting = tuple(self._unconfirmed.values())
        for one in waiting:
            self._guard(partial(one.done, error))

    def _open_channels(self) -> None:
        for lane in _LANES:  # all at once, so that it takes one round trip
            self._connection.channel(on_open_callback=partial(self._opened, lane))

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
        self.channels[lane] = channel
        if len(self.channels) == len(_LANES):
            self.is_open = True
            self._guard(self._link.opened)

    def _channel_closed(self, _channel: Channel, error: Exception) -> None:
        # The broker refused something on it: only a new connection knows where it is.
        if isinstance(error, ChannelClosedByBroker) and self._connection.is_open:
            log.error("channel_closed", error=repr(error))
            self._connection.close()

    def _confirmed(self, payload: bytes) -> None:
        tag, bits = frames.TAG.unpack_from(payload, 4)
        is_taken = payload[:4] == frames.ACK
        with self.wire.lock:
            tags = self._up_to(tag) if bits & 1 else [tag]
            found = [self._unconfirmed.pop(one, None) for one in tags]
        for one in filter(None, found):
            self._guard(partial(one.done, one.why(is_taken)))

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
        # What was sent lies in the socket or beyond, and its confirm may still come.
        with self.wire.lock:
            self.is_blocked = True
        self.tell(BrokerBlocked(f"the broker blocks publishes: {told.method.reason}"))

    def _unblock(self, _connection: object, _told: object) -> None:
        self.is_blocked, self._unblocked_at = False, time.monotonic()
        self._guard(self._link.events.unblocked)

    def _end(self, error: BaseException) -> None:
        was_open, self.is_open = self.is_open, False
        self._services.drop()
        self._consumers.clear()  # channels stay: another thread may be sending
        self._link.ended(self, was_open, error)


class _Declaration:
    """A queue, with its exchange and dead letters, to make sure of and to count."""

    def __init__(
        self, connection: pika.SelectConnection, queue: QueueSpec, tell: OnCount
    ) -> None:
        self._queue, self._tell = queue, tell
        self._found: QueueCount | None = None
        channel = connection.channel(on_open_callback=self._declare)
        channel.add_on_close_callback(self._closed)

    def _declare(self, channel: Channel) -> None:
        queue = self._queue
        if queue.dead is not None:
            _declare_queue(channel, queue.dead)
        if queue.name:
            _declare_queue(channel, queue, self._count)
        else:
            channel.exchange_declare(queue.exchange, "direct", durable=True)
            self._found = QueueCount(waiting=0, consumers=0)
        channel.close()  # its answer comes after all others

    def _count(self, answer: Any) -> None:
        self._found = QueueCount(
            waiting=answer.method.message_count,
            consumers=answer.method.consumer_count,
        )

    def _closed(self, _channel: Channel, error: Exception) -> None:
        if isinstance(error, ChannelClosedByBroker):
            why = f"the broker refused queue {self._queue.name!r}: {error.reply_text}"
            self._tell(Refused(why))
        elif self._found is None or not isinstance(error, ChannelClosedByClient):
            self._tell(LinkLost("the connection was lost before the broker's answer"))
        else:
            self._tell(self._found)


def _declare_queue(
    channel: Channel, queue: QueueSpec, done: Callable[[Any], None] | None = None
) -> None:
    channel.queue_declare(
        queue.name,
        durable=queue.durable,
        exclusive=queue.exclusive,
        auto_delete=queue.auto_delete,
        arguments=dict(queue.arguments),
        callback=done,
    )
    if queue.exchange:
        channel.exchange_declare(queue.exchange, "direct", durable=True)
        channel.queue_bind(queue.name, queue.exchange, queue.routing_key)
