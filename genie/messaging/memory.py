"""A broker within this process, for a fleet of one machine and for tests.

It keeps the rules the product relies on: places of a consumer, priorities, messages
given back at their old place. It stores nothing, so nothing survives the process.
"""

import contextlib
import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from genie import logs
from genie.messaging.link import (
    Counted,
    Done,
    Hear,
    Link,
    LinkEvents,
    Publication,
    QueueCount,
    Received,
    Unroutable,
)
from genie.messaging.queues import QueueSpec

log = logs.logger("messaging.memory")

Action = Callable[[], None]


class MemoryThread:
    """Runs what a broker and its links have to do, in order, and timers."""

    def __init__(self) -> None:
        self._actions: deque[Action] = deque()
        self._timers: list[tuple[float, int, Action]] = []
        self._numbers = itertools.count()
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="broker", daemon=True)
        self._thread.start()

    @property
    def is_here(self) -> bool:
        """True in this thread."""
        return threading.current_thread() is self._thread

    def call(self, action: Action) -> None:
        """Run ``action`` soon, from any thread."""
        with self._news:
            self._actions.append(action)
            self._news.notify()

    def call_later(self, delay_s: float, action: Action) -> None:
        """Run ``action`` after a time, from any thread."""
        with self._news:
            timer = time.monotonic() + delay_s, next(self._numbers), action
            heapq.heappush(self._timers, timer)
            self._news.notify()

    def _run(self) -> None:
        while True:
            action = self._next()
            try:
                action()
            except Exception as error:
                # Border: a mistake of ours must not end the thread of everybody.
                kind = type(error).__name__
                log.critical("broker_thread", error=kind, exc_info=True)

    def _next(self) -> Action:
        with self._news:
            while True:
                if self._timers and self._timers[0][0] <= time.monotonic():
                    return heapq.heappop(self._timers)[2]
                if self._actions:
                    return self._actions.popleft()
                self._news.wait(self._rest_s())

    def _rest_s(self) -> float | None:
        if not self._timers:
            return None
        return max(0.0, self._timers[0][0] - time.monotonic())


@dataclass(slots=True)
class _Waiting:
    """A message in a queue: in order of ``number``."""

    number: int
    publication: Publication
    redelivered: bool = False


@dataclass(slots=True, kw_only=True)
class _Taker:
    """A consumer: of the messages in hand it may have ``places`` (0: it acks none)."""

    tag: str
    hear: Hear
    places: int
    priority: int
    link: "MemoryLink"
    in_hand: dict[int, _Waiting] = field(default_factory=dict)
    is_gone: bool = False

    @property
    def can_take(self) -> bool:
        """True while it may have one more."""
        return not self.places or len(self.in_hand) < self.places


@dataclass(slots=True)
class _Queue:
    """Messages and those who take them, the most urgent first and in turns."""

    messages: deque[_Waiting] = field(default_factory=deque)
    takers: list[_Taker] = field(default_factory=list)

    def next_taker(self) -> _Taker | None:
        """Who gets the next message."""
        able = [taker for taker in self.takers if taker.can_take]
        if not able:
            return None
        found = max(able, key=lambda taker: taker.priority)  # the first of equal ones
        self.takers.remove(found)
        self.takers.append(found)
        return found


class MemoryBroker:
    """Queues by name; everything happens in one thread."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}
        self._bound: dict[tuple[str, str], str] = {}
        self._numbers = itertools.count()
        self.thread = MemoryThread()

    def link(
        self,
        name: str,
        events: LinkEvents | None = None,
        *,
        vhost: str | None = None,
    ) -> Link:
        """A way in. There are no virtual hosts, so ``vhost`` says nothing here."""
        return MemoryLink(self, events or LinkEvents())

    def declare(self, queue: QueueSpec) -> QueueCount:
        """Make sure of a queue, and count it."""
        if not queue.name:
            return QueueCount(waiting=0, consumers=0)
        if queue.dead is not None:
            self.declare(queue.dead)
        found = self._queues.setdefault(queue.name, _Queue())
        self._bound["", queue.name] = queue.name
        if queue.exchange:
            self._bound[queue.exchange, queue.routing_key] = queue.name
        return QueueCount(waiting=len(found.messages), consumers=len(found.takers))

    def publish(self, publication: Publication) -> bool:
        """Put a message into its queue; False when it has none."""
        name = self._bound.get((publication.exchange, publication.key))
        if name is None:
            return False
        waiting = _Waiting(next(self._numbers), publication)
        self._queues[name].messages.append(waiting)
        self._hand_out(name)
        return True

    def add(self, queue: str, taker: _Taker) -> None:
        """Somebody takes from a queue."""
        self._queues[queue].takers.append(taker)
        self._hand_out(queue)

    def remove(self, queue: str, taker: _Taker) -> None:
        """Somebody takes no more; what is in hand stays there."""
        takers = self._queues[queue].takers
        if taker in takers:
            takers.remove(taker)

    def settle(self, queue: str, taker: _Taker, tag: int, *, requeue: bool) -> None:
        """A message in hand is done with, or goes back to its place."""
        waiting = taker.in_hand.pop(tag, None)
        if waiting is None:
            return
        if requeue:
            waiting.redelivered = True
            messages = self._queues[queue].messages
            messages.append(waiting)
            ordered = sorted(messages, key=lambda one: one.number)
            messages.clear()
            messages.extend(ordered)
        self._hand_out(queue)

    def _hand_out(self, name: str) -> None:
        queue = self._queues[name]
        while queue.messages and (taker := queue.next_taker()) is not None:
            waiting = queue.messages.popleft()
            tag = next(self._numbers)
            if taker.places:
                taker.in_hand[tag] = waiting
            taker.link.hand(name, taker, waiting.publication, tag, waiting.redelivered)


class MemoryLink:
    """A way to the broker of this process; see `Link`."""

    def __init__(self, broker: MemoryBroker, events: LinkEvents) -> None:
        self._broker, self._events = broker, events
        self._takers: dict[str, tuple[str, _Taker]] = {}
        self._tags = itertools.count()
        self._thread = broker.thread
        self._is_up = threading.Event()
        self._is_quiet_due = False

    def start(self) -> None:
        """Open; returns at once."""
        self._thread.call(self._open)

    def _open(self) -> None:
        if not self._is_up.is_set():
            self._is_up.set()
            self._events.up()

    def close(self, timeout_s: float = 5.0) -> None:
        """Send what was given, then give back what is in hand."""
        closed = threading.Event()

        def close() -> None:
            self._end()
            closed.set()

        self._thread.call(close)
        if not self._thread.is_here:
            closed.wait(timeout_s)

    def reset(self) -> None:
        """Give everything back and begin anew."""

        def reset() -> None:
            self._end()
            self._events.down()
            self._open()

        self._thread.call(reset)

    def _end(self) -> None:
        self._is_up.clear()
        takers, self._takers = self._takers, {}
        for queue, taker in takers.values():
            self._broker.remove(queue, taker)
        for queue, taker in takers.values():
            for tag in tuple(taker.in_hand):
                self._broker.settle(queue, taker, tag, requeue=True)

    @property
    def is_up(self) -> bool:
        """True once started."""
        return self._is_up.is_set()

    @property
    def is_writing(self) -> bool:
        """Nothing is written here."""
        return False

    def wait_up(self, timeout_s: float) -> bool:
        """Open now if need be."""
        self.start()
        return self._is_up.wait(timeout_s)

    def call(self, action: Callable[[], None]) -> None:
        """Run ``action`` soon, in the broker's thread."""
        self._thread.call(action)

    def call_later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Run ``action`` after a time, in the broker's thread."""
        self._thread.call_later(delay_s, action)

    def declare(self, queue: QueueSpec, done: Counted) -> None:
        """Make sure of a queue, and count it."""
        self._thread.call(lambda: done(self._broker.declare(queue)))

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
        tag = f"m{next(self._tags)}"
        taker = _Taker(
            tag=tag, hear=hear, places=places, priority=priority or 0, link=self
        )
        self._takers[tag] = queue, taker

        def add() -> None:
            if tag in self._takers:
                self._broker.add(queue, taker)
                if ready is not None:
                    ready()

        self._thread.call(add)  # not at once: nothing comes before the tag is known
        return tag

    def cancel(self, tag: str, done: Callable[[], None] | None = None) -> None:
        """Take no more; what is in hand may still be settled."""
        queue, taker = self._takers.get(tag, ("", None))
        if taker is not None:
            self._broker.remove(queue, taker)
            taker.is_gone = True
            if not taker.in_hand:
                del self._takers[tag]
            if done is not None:
                self._thread.call(done)

    def ack(self, received: Received) -> None:
        """It is done with."""
        self._settle(received, requeue=False)

    def reject(self, received: Received, *, requeue: bool) -> None:
        """Give it back, or drop it."""
        self._settle(received, requeue=requeue)

    def _settle(self, received: Received, *, requeue: bool) -> None:
        taker = received.channel

        def settle() -> None:
            if isinstance(taker, _Taker) and taker.tag in self._takers:
                queue, _taker = self._takers[taker.tag]
                self._broker.settle(queue, taker, received.tag, requeue=requeue)
                if taker.is_gone and not taker.in_hand:
                    del self._takers[taker.tag]

        self._thread.call(settle)

    def send(self, publication: Publication, done: Done | None = None) -> bool:
        """Publish."""

        def publish() -> None:
            is_there = self._broker.publish(publication)
            if done is not None and publication.confirmed:
                lost = Unroutable(f"no queue takes {publication.key!r}")
                done(None if is_there else lost)

        self._thread.call(publish)
        return True

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """Nothing is written here."""
        yield

    def hand(
        self,
        queue: str,
        taker: _Taker,
        publication: Publication,
        tag: int,
        redelivered: bool,
    ) -> None:
        """A message is this link's; it is heard in its turn."""
        received = Received(
            body=publication.body,
            redelivered=redelivered,
            headers=lambda: publication.headers,
            channel=taker,
            tag=tag,
        )

        def hear() -> None:
            taker.hear(received)
            if not self._is_quiet_due:
                self._is_quiet_due = True
                self._thread.call(self._quiet)

        self._thread.call(hear)

    def _quiet(self) -> None:
        self._is_quiet_due = False
        if self.is_up:
            self._events.quiet()


_brokers: dict[str, MemoryBroker] = {}


def broker_at(url: str) -> MemoryBroker:
    """The broker of this process at an address such as ``memory://``."""
    return _brokers.setdefault(url, MemoryBroker())
