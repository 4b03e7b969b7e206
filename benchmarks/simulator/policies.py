"""Ways to choose a worker, each with what it may know.

The routers choose when a request arrives; the queues let workers ask. Only the
clairvoyant reads what nobody can know: the exact state and every answer's length.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial

from benchmarks.simulator.broker import PUSH_S, Consumer, Queue
from benchmarks.simulator.clock import Clock
from benchmarks.simulator.plane import SHARED, Plane
from benchmarks.simulator.worker import Request, Worker
from genie.contracts.inference import WorkClass

HEARTBEAT_S = 30.0


class Fleet:
    """The workers, and a rough speed of each that a person could have configured."""

    def __init__(self, clock: Clock, workers: Sequence[Worker], seed: int) -> None:
        self.clock, self.workers = clock, workers
        self.chance = random.Random(seed)
        self.speeds = [
            one.room.slots / one.times.seconds(one.room.slots) for one in workers
        ]


class Policy(ABC):
    """Takes every request as it arrives and sees that a worker gets it."""

    @abstractmethod
    def arrive(self, request: Request) -> None:
        """A request is asked now."""


Make = Callable[[Fleet], Policy]


class Router(Policy):
    """Chooses at once; the request travels through the worker's own queue."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def arrive(self, request: Request) -> None:
        """Send it to the chosen worker."""
        worker = self._fleet.workers[self.choose(request)]
        self._fleet.clock.after(2 * PUSH_S, lambda: worker.submit(request))

    @abstractmethod
    def choose(self, request: Request) -> int:
        """The number of a worker."""

    def _least(self, loads: Sequence[float], among: Sequence[int]) -> int:
        """The one where one more would have the least company for its speed."""
        speeds, chance = self._fleet.speeds, self._fleet.chance
        return min(among, key=lambda i: ((loads[i] + 1) / speeds[i], chance.random()))


class RoundRobin(Router):
    """One after another, whatever they do."""

    _turn = 0

    def choose(self, request: Request) -> int:
        """The next in turn."""
        self._turn = (self._turn + 1) % len(self._fleet.workers)
        return self._turn


class Heartbeats(Router):
    """Knows each worker's requests in flight as of its last heartbeat."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet)
        self.seen = [0.0] * len(fleet.workers)
        for number in range(len(fleet.workers)):
            first = fleet.chance.random() * HEARTBEAT_S
            fleet.clock.after(first, partial(self._beats, number))

    def _beats(self, number: int) -> None:
        self._beat(number)
        self._fleet.clock.every(HEARTBEAT_S, partial(self._beat, number))

    def _beat(self, number: int) -> None:
        self.seen[number] = self._fleet.workers[number].in_flight


class StaleLeastLoaded(Heartbeats):
    """The least loaded by heartbeat."""

    def choose(self, request: Request) -> int:
        """The least loaded of all."""
        return self._least(self.seen, range(len(self.seen)))


class StalePowerOfTwo(Heartbeats):
    """The less loaded, by heartbeat, of two drawn at random."""

    def choose(self, request: Request) -> int:
        """The better of two."""
        pair = self._fleet.chance.sample(range(len(self.seen)), 2)
        return self._least(self.seen, pair)


class Counter(Router):
    """Knows exactly how many requests each worker has, from all askers, at once."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet)
        self._counts = [0] * len(fleet.workers)
        for number, worker in enumerate(fleet.workers):
            worker.on_done.append(partial(self._done, number))

    def choose(self, request: Request) -> int:
        """The least loaded of all, counted."""
        number = self._least(self._counts, range(len(self._counts)))
        self._counts[number] += 1
        return number

    def _done(self, number: int, _worker: Worker, _request: Request) -> None:
        self._counts[number] -= 1


class Clairvoyant(Router):
    """Knows everything, answers' lengths included: the earliest first token wins."""

    def choose(self, request: Request) -> int:
        """Where this request would be answered first."""
        times = [one.expected_ttft_s(request) for one in self._fleet.workers]
        return min(range(len(times)), key=times.__getitem__)


class Prefetch(Policy):
    """A shared queue; every worker holds as many requests as it has slots."""

    def __init__(self, fleet: Fleet) -> None:
        self._queue = Queue(fleet.clock)
        for worker in fleet.workers:
            consumer = Consumer(deliver=worker.submit, credit=worker.room.slots)
            worker.on_done.append(partial(self._done, consumer))
            self._queue.consume(consumer)

    def arrive(self, request: Request) -> None:
        """Queue it."""
        self._queue.publish(request)

    def _done(self, consumer: Consumer, _worker: Worker, _request: Request) -> None:
        self._queue.ack(consumer)


class Credits(Policy):
    """The product: workers ask for one request at a time, and the broker matches."""

    def __init__(self, fleet: Fleet) -> None:
        self.queues = {(SHARED, kind): Queue(fleet.clock) for kind in WorkClass}
        self._planes = [self.plane(fleet, worker) for worker in fleet.workers]

    def plane(self, fleet: Fleet, worker: Worker) -> Plane:
        """The consumers of one worker."""
        return Plane(fleet.clock, worker, self.queues, fleet.chance)

    def arrive(self, request: Request) -> None:
        """Queue it as interactive work."""
        self.queues[SHARED, WorkClass.INTERACTIVE].publish(request)


BASELINES: dict[str, Make] = {
    "stale least-loaded": StaleLeastLoaded,
    "round robin": RoundRobin,
    "power of two": StalePowerOfTwo,
    "counter": Counter,
    "clairvoyant": Clairvoyant,
    "prefetch = slots": Prefetch,
}
