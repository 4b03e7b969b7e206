"""The broker of one process keeps the rules that the product relies on."""

import queue
import threading
import uuid
from concurrent.futures import Future

import pytest

from genie.messaging import broker
from genie.messaging.link import (
    BrokerMessage,
    Link,
    LinkEvents,
    Publication,
    QueueCount,
    Unroutable,
)
from genie.messaging.queues import QueueSpec

WAIT_S = 5.0
SPEC = QueueSpec(name="q", exchange="e", routing_key="k")


class Place:
    """A queue, and ways to it."""

    def __init__(self) -> None:
        self.url = f"memory://{uuid.uuid4().hex}"
        self.link = self.opened()
        self.heard: queue.SimpleQueue[tuple[str, BrokerMessage]] = queue.SimpleQueue()
        self.count()

    def opened(self, events: LinkEvents | None = None) -> Link:
        link = broker.connect(self.url, "test", events)
        assert link.wait_up(WAIT_S)
        return link

    def count(self) -> QueueCount:
        told: Future[QueueCount | Exception] = Future()
        self.link.declare(SPEC, told.set_result)
        found = told.result(WAIT_S)
        assert isinstance(found, QueueCount)
        return found

    def put(self, *bodies: bytes) -> None:
        for body in bodies:
            self.link.send(Publication(exchange="e", key="k", body=body))

    def take(
        self, name: str, places: int, priority: int = 0, link: Link | None = None
    ) -> str:
        by, tag = link or self.link, Future[str]()

        def consume() -> None:
            hear = self._hearer(name)
            tag.set_result(by.consume("q", hear, places=places, priority=priority))

        by.call(consume)
        return tag.result(WAIT_S)

    def _hearer(self, name: str):  # type: ignore[no-untyped-def]  # a closure
        return lambda received: self.heard.put((name, received))

    def next(self) -> tuple[str, bytes]:
        name, received = self.heard.get(timeout=WAIT_S)
        self.last = received
        return name, received.body

    def is_silent(self) -> bool:
        self.count()  # what was to be done before is done
        self.count()
        return self.heard.empty()


@pytest.fixture
def place() -> Place:
    return Place()


def test_a_consumer_gets_as_many_as_it_has_places(place: Place) -> None:
    place.put(b"1", b"2", b"3")
    place.take("ann", places=2)
    assert [place.next(), place.next()] == [("ann", b"1"), ("ann", b"2")]
    assert place.is_silent()
    place.link.ack(place.last)
    assert place.next() == ("ann", b"3")


def test_the_most_urgent_is_asked_first_and_equal_ones_in_turns(place: Place) -> None:
    for name, priority in (("low", 1), ("ann", 5), ("bob", 5)):
        place.take(name, places=2, priority=priority)
    place.put(*(b"%d" % n for n in range(5)))
    assert [place.next()[0] for _ in range(5)] == ["ann", "bob", "ann", "bob", "low"]


def test_what_is_given_back_comes_again_first_and_says_so(place: Place) -> None:
    place.put(b"1", b"2")
    place.take("ann", places=1)
    assert place.next() == ("ann", b"1")
    place.link.reject(place.last, requeue=True)
    assert place.next() == ("ann", b"1")
    assert place.last.redelivered
    place.link.reject(place.last, requeue=False)  # there are no dead letters here
    assert place.next() == ("ann", b"2")
    assert not place.last.redelivered


def test_who_has_hung_up_gets_nothing_and_may_settle_what_it_has(place: Place) -> None:
    tag = place.take("ann", places=1)
    place.put(b"1", b"2")
    assert place.next() == ("ann", b"1")
    done = threading.Event()
    place.link.call(lambda: place.link.cancel(tag, done.set))
    assert done.wait(WAIT_S)
    place.link.ack(place.last)
    assert place.is_silent()
    assert place.count() == QueueCount(waiting=1, consumers=0)


def test_what_a_link_held_when_it_was_closed_goes_to_others(place: Place) -> None:
    other = place.opened()
    place.take("ann", places=2, link=other)
    place.put(b"1", b"2")
    assert [place.next()[1] for _ in range(2)] == [b"1", b"2"]
    place.take("bob", places=0)
    other.close()
    assert [place.next(), place.next()] == [("bob", b"1"), ("bob", b"2")]


def test_a_confirmed_message_says_whether_a_queue_has_it(place: Place) -> None:
    told: list[Exception | None] = []
    for key in ("k", "nobody"):
        place.link.send(
            Publication(exchange="e", key=key, body=b"", confirmed=True), told.append
        )
    assert place.count().waiting == 1
    assert told[0] is None
    assert isinstance(told[1], Unroutable)


def test_a_link_that_is_reset_goes_down_and_comes_up(place: Place) -> None:
    said: queue.SimpleQueue[str] = queue.SimpleQueue()
    link = place.opened(
        LinkEvents(up=lambda: said.put("up"), down=lambda: said.put("down"))
    )
    link.reset()
    assert [said.get(timeout=WAIT_S) for _ in range(3)] == ["up", "down", "up"]


def test_a_timer_runs_in_its_time_and_a_mistake_ends_nothing(place: Place) -> None:
    ran: queue.SimpleQueue[str] = queue.SimpleQueue()

    def fail() -> None:
        raise ValueError("a mistake")

    place.link.call(fail)
    place.link.call_later(0.02, lambda: ran.put("late"))
    place.link.call_later(0.0, lambda: ran.put("soon"))
    assert [ran.get(timeout=WAIT_S) for _ in range(2)] == ["soon", "late"]


def test_links_share_one_thread_however_many_there_are(place: Place) -> None:
    before = threading.active_count()
    for number in range(20):
        link = broker.connect(f"{place.url}{number}", "test")
        assert link.wait_up(WAIT_S)
        link.close()
    assert threading.active_count() == before
