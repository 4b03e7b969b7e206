"""A broker within this process, for a fleet of one machine and for tests.

It keeps the rules the product relies on: places of a consumer, priorities, messages
given back at their old place. It stores nothing, so nothing survives the process.
"""

import heapq
import itertools
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Unpack

from genie.messaging import iothread
from genie.messaging.link import (
    BrokerMessage,
    ConsumeOptions,
    Link,
    LinkEvents,
    OnConfirm,
    OnCount,
    OnMessage,
    Publication,
    QueueCount,
    Unroutable,
    nobody,
)
from genie.messaging.queues import QueueSpec


@dataclass(slots=True, order=True)
class _Message:
    """In a queue by ``number``, so what is given back has its old place."""

    number: int
    publication: Publication = field(compare=False)
    redelivered: bool = field(default=False, compare=False)


@dataclass(slots=True, kw_only=True, eq=False)
class _Consumer:
    """It may hold ``places`` messages that are not acked; 0: it acks none."""

    queue: "_Queue"
    take: Callable[["_Consumer", _Message], None]
    places: int
    priority: int
    unacked: int = 0


@dataclass(slots=True)
class _Queue:
    messages: list[_Message] = field(default_factory=list)
    consumers: list[_Consumer] = field(default_factory=list)

    def add(self, message: _Message) -> None:
        """Put it into its place."""
        heapq.heappush(self.messages, message)
        self.hand_out()

    def hand_out(self) -> None:
        """To the most urgent consumer that has a place, and to equal ones in turns."""
        while self.messages and (able := list(filter(_has_place, self.consumers))):
            consumer = max(able, key=lambda one: one.priority)  # the first of equals
            self.consumers.remove(consumer)
            self.consumers.append(consumer)
            consumer.take(consumer, heapq.heappop(self.messages))


def _has_place(consumer: _Consumer) -> bool:
    return not consumer.places or consumer.unacked < consumer.places


class _MemoryBroker:
    """Queues by name; everything happens in the broker's thread of this process."""

    def __init__(self) -> None:
        self.queues: dict[str, _Queue] = {}
        self._bound: dict[tuple[str, str], _Queue] = {}
        self._numbers = itertools.count()

    def declare(self, spec: QueueSpec) -> QueueCount:
        """Make sure of a queue, and count it."""
        if not spec.name:
            return QueueCount(waiting=0, consumers=0)
        if spec.dead is not None:
            self.declare(spec.dead)
        queue = self.queues.setdefault(spec.name, _Queue())
        self._bound["", spec.name] = queue
        if spec.exchange:
            self._bound[spec.exchange, spec.routing_key] = queue
        return QueueCount(waiting=len(queue.messages), consumers=len(queue.consumers))

    def publish(self, publication: Publication, done: OnConfirm) -> None:
        """Put a message into its queue, if it has one."""
        queue = self._bound.get((publication.exchange, publication.key))
        if queue is not None:
            queue.add(_Message(next(self._numbers), publication))
        if publication.confirmed:
            lost = Unroutable(f"no queue takes {publication.key!r}")
            done(lost if queue is None else None)


class _MemoryLink:
    """A way to the broker of this process."""

    def __init__(self, broker: _MemoryBroker, events: LinkEvents) -> None:
        self._broker, self._events = broker, events
        self._thread = thread = iothread.memory_thread()
        self.call, self.call_later = thread.call, thread.call_later
        self._consumers: dict[str, _Consumer] = {}
        self._unacked: dict[int, tuple[_Consumer, _Message]] = {}
        self._tags = itertools.count()  # never used twice: a reset makes old ones void
        self._is_up = threading.Event()
        self._is_quiet_due = False

    def start(self) -> None:
        self.call(self._open)

    def _open(self) -> None:
        if not self._is_up.is_set():
            self._is_up.set()
            self._events.up()

    def close(self, timeout_s: float = 5.0) -> None:
        closed = threading.Event()
        self.call(self._end)
        self.call(closed.set)
        if not self._thread.is_here:
            closed.wait(timeout_s)

    def reset(self) -> None:
        for action in (self._end, self._events.down, self._open):
            self.call(action)

    def _end(self) -> None:
        self._is_up.clear()
        for tag in tuple(self._consumers):
            self.cancel(tag)
        for number in tuple(self._unacked):
            self._settle(number, requeue=True)

    @property
    def is_up(self) -> bool:
        return self._is_up.is_set()

    @property
    def is_writing(self) -> bool:
        return False

    def wait_up(self, timeout_s: float) -> bool:
        self.start()
        return self._is_up.wait(timeout_s)

    def declare(self, queue: QueueSpec, done: OnCount) -> None:
        self.call(lambda: done(self._broker.declare(queue)))

    def consume(
        self, queue: str, hear: OnMessage, **wanted: Unpack[ConsumeOptions]
    ) -> str:
        tag = f"m{next(self._tags)}"
        consumer = self._consumers[tag] = _Consumer(
            queue=self._broker.queues[queue],
            take=partial(self._take, hear),
            places=wanted.get("places", 0),
            priority=wanted.get("priority", 0),
        )

        def add() -> None:
            if tag in self._consumers:
                consumer.queue.consumers.append(consumer)
                consumer.queue.hand_out()
                if ready := wanted.get("ready"):
                    ready()

        self.call(add)  # not at once: nothing comes before the tag is known
        return tag

    def _take(self, hear: OnMessage, consumer: _Consumer, message: _Message) -> None:
        tag = next(self._tags)
        if consumer.places:
            consumer.unacked += 1
            self._unacked[tag] = consumer, message
        came = BrokerMessage(
            body=message.publication.body,
            redelivered=message.redelivered,
            headers=lambda: message.publication.headers,
            channel=consumer,
            tag=tag,
        )
        self.call(partial(self._hand, hear, came))  # in its turn

    def _hand(self, hear: OnMessage, message: BrokerMessage) -> None:
        hear(message)
        if not self._is_quiet_due:
            self._is_quiet_due = True
            self.call(self._quiet)

    def _quiet(self) -> None:
        self._is_quiet_due = False
        if self.is_up:
            self._events.quiet()

    def cancel(self, tag: str, done: Callable[[], None] | None = None) -> None:
        consumer = self._consumers.pop(tag, None)
        if consumer is None:
            return
        if consumer in consumer.queue.consumers:
            consumer.queue.consumers.remove(consumer)
        if done is not None:
            self.call(done)

    def ack(self, message: BrokerMessage) -> None:
        self.call(lambda: self._settle(message.tag, requeue=False))

    def reject(self, message: BrokerMessage, *, requeue: bool) -> None:
        self.call(lambda: self._settle(message.tag, requeue=requeue))

    def _settle(self, tag: int, *, requeue: bool) -> None:
        if tag not in self._unacked:
            return
        consumer, message = self._unacked.pop(tag)
        consumer.unacked -= 1
        if requeue:
            message.redelivered = True
            consumer.queue.add(message)
        else:
            consumer.queue.hand_out()

    def send(self, publication: Publication, done: OnConfirm = nobody) -> bool:
        self.call(lambda: self._broker.publish(publication, done))
        return True

    def gathered(self) -> AbstractContextManager[None]:
        return nullcontext()


_brokers: dict[str, _MemoryBroker] = {}


def link(url: str, events: LinkEvents) -> Link:
    """A link to the broker of this process at an address such as ``memory://``."""
    return _MemoryLink(_brokers.setdefault(url, _MemoryBroker()), events)
