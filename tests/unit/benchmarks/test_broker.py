"""Who gets a message from a queue with consumer priorities."""

from benchmarks.simulator.arrivals import Arrival
from benchmarks.simulator.broker import Consumer, Queue
from benchmarks.simulator.clock import Clock
from benchmarks.simulator.worker import Request


def requests(count: int) -> list[Request]:
    arrival = Arrival(at=0.0, prompt=1, answer=1)
    return [Request(arrival=arrival, number=number) for number in range(count)]


class Fleet:
    """A queue whose consumers only note who got what."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.queue = Queue(self.clock)
        self.got: list[str] = []

    def consumer(self, name: str, priority: int = 0, credit: int = 1) -> Consumer:
        consumer = Consumer(
            deliver=lambda _: self.got.append(name), priority=priority, credit=credit
        )
        self.queue.consume(consumer)
        return consumer

    def publish(self, count: int) -> None:
        self.clock.run()
        for request in requests(count):
            self.queue.publish(request)
        self.clock.run()


def test_the_highest_priority_with_credit_comes_first() -> None:
    fleet = Fleet()
    fleet.consumer("low", priority=1, credit=9)
    fleet.consumer("high", priority=5, credit=2)
    fleet.publish(4)
    assert fleet.got == ["high", "high", "low", "low"]


def test_equals_take_turns() -> None:
    fleet = Fleet()
    for name in ("a", "b", "c"):
        fleet.consumer(name, credit=2)
    fleet.publish(6)
    assert fleet.got == ["a", "b", "c"] * 2


def test_what_nobody_has_credit_for_waits_until_someone_acks() -> None:
    fleet = Fleet()
    consumer = fleet.consumer("a")
    fleet.publish(2)
    assert fleet.got == ["a"]
    assert len(fleet.queue.ready) == 1
    fleet.queue.ack(consumer)
    fleet.clock.run()
    assert fleet.got == ["a", "a"]


def test_a_cancelled_consumer_gets_only_what_was_under_way() -> None:
    fleet = Fleet()
    consumer = fleet.consumer("a", credit=9)
    fleet.publish(1)
    fleet.queue.cancel(consumer)
    fleet.clock.run()
    fleet.publish(1)
    assert fleet.got == ["a"]
