"""Conversations that come back: what an engine still holds of them, and who is asked.

An engine's freed slot keeps its tokens (`workers.engine.child.scheduler`), so a next
turn is read faster where the last one was. A client may carry the name of that worker
as a hint.
"""

import random
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.simulator.arrivals import Arrival
from benchmarks.simulator.broker import Queue
from benchmarks.simulator.clock import Clock
from benchmarks.simulator.plane import OWN, Plane, hinted
from benchmarks.simulator.policies import Credits, Fleet, Router
from benchmarks.simulator.step_times import StepTimes
from benchmarks.simulator.worker import Request, Room, Worker
from genie.contracts.inference import WorkClass

BLOCK = 512
"""Tokens of a block; two requests with the same block begin alike up to its end."""

COMMON = 1
"""Blocks with which all conversations of the trace begin."""


class Turns:
    """Which request a request goes on from: the one whose whole prompt it repeats."""

    def __init__(self) -> None:
        self._last: dict[int, Request] = {}

    def before(self, request: Request) -> tuple[Request | None, int]:
        """The turn before and the tokens they share; call it for all, in order."""
        blocks = request.arrival.blocks
        found, shared = None, 0
        for length in range(len(blocks), COMMON, -1):
            last = self._last.get(blocks[length - 1])
            # The last block of a prompt is seldom full: the next turn fills it.
            if last is not None and length >= len(last.arrival.blocks) - 1:
                found, shared = last, length * BLOCK
                break
        for block in blocks[COMMON:]:
            self._last[block] = request
        return found, shared


class Held:
    """The blocks of the prompts that an engine had last, as many as it holds."""

    def __init__(self, prompts: int) -> None:
        self._most = prompts
        self._held: OrderedDict[int, tuple[int, ...]] = OrderedDict()
        self._number = 0

    def take(self, blocks: tuple[int, ...]) -> int:
        """Blocks of this prompt that are held; from now on all of it is."""
        lengths = {key: _alike(blocks, held) for key, held in self._held.items()}
        best = max(lengths, key=lambda key: lengths[key], default=None)
        reused = 0 if best is None else lengths[best]
        if best is not None and 2 * reused >= len(self._held[best]):
            del self._held[best]
        elif len(self._held) == self._most:
            self._held.popitem(last=False)
        self._number += 1
        self._held[self._number] = blocks
        return reused


class Remembering(Worker):
    """A worker whose engine reads only what it does not hold."""

    def __init__(
        self, clock: Clock, name: str, times: StepTimes, room: Room, prompts: int
    ) -> None:
        super().__init__(clock, name, times, room)
        self._held = Held(prompts)

    def submit(self, request: Request) -> None:
        """Take a request in; what is held of it needs no reading."""
        held = self._held.take(request.arrival.blocks) * BLOCK
        request.reused = min(held, request.arrival.prompt - 1)
        super().submit(request)


class Hashed(Router):
    """Each conversation always to the same worker, whatever that one has to do."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet)
        self._turns, self._workers = Turns(), dict[int, int]()

    def choose(self, request: Request) -> int:
        """The one of the first turn; that one's is drawn."""
        before, _ = self._turns.before(request)
        number = None if before is None else self._workers.get(before.number)
        if number is None:
            number = self._fleet.chance.randrange(len(self._fleet.workers))
        self._workers[request.number] = number
        return number


class Hinted(Credits):
    """Credits, and a queue of each worker's own for conversations that it served.

    A request waits there for ``worth`` of the time it takes to read again what it
    shares with the turn before, at ``read_s`` a token; then in the shared queue.
    """

    def __init__(self, fleet: Fleet, worth: float, read_s: float) -> None:
        self._each_s = worth * read_s
        self._turns = Turns()
        self._own = {one.name: Queue(fleet.clock) for one in fleet.workers}
        super().__init__(fleet)

    def plane(self, fleet: Fleet, worker: Worker) -> Plane:
        """A worker asks on its own queue as well, under the same rules."""
        own = {(OWN, kind): Queue(fleet.clock) for kind in WorkClass}
        own[OWN, WorkClass.INTERACTIVE] = self._own[worker.name]
        return Plane(fleet.clock, worker, {**self.queues, **own}, fleet.chance, hinted)

    def arrive(self, request: Request) -> None:
        """Queue it with the worker of the turn before, or for everyone."""
        before, shared = self._turns.before(request)
        if before is None or not before.worker or not self._each_s:
            super().arrive(request)
            return
        wait_s = shared * self._each_s
        self._own[before.worker].publish(request, wait_s, super().arrive)


def overlaid(
    turns: Sequence[Arrival], rate: float, count: int, seed: int
) -> list[Arrival]:
    """About ``count`` requests at ``rate`` a second: the trace laid over itself.

    The conversations of each layer are other ones; none is cut at the trace's end.
    """
    chance = random.Random(seed)
    span = turns[-1].at - turns[0].at
    layers = max(1, round(rate * span / len(turns)))
    stretch = layers * len(turns) / span / rate
    window = count / rate / stretch
    found: list[Arrival] = []
    for layer in range(1, layers + 1):
        begins = chance.random() * max(0.0, span - window)
        found += [
            replace(one, at=(one.at - begins) * stretch, blocks=_own(one, layer))
            for one in turns
            if begins <= one.at < begins + window
        ]
    return sorted(found, key=lambda one: one.at)


def drawn(count: int, seed: int) -> list[Arrival]:
    """``count`` turns of conversations when there is no recorded trace."""
    chance = random.Random(seed)
    found: list[Arrival] = []
    block = COMMON
    while len(found) < count:
        at, prompt, blocks = chance.random() * count / 3.4, 0, (0,)
        for _ in range(1 + int(chance.expovariate(1 / 2.5))):
            prompt += 1 + int(chance.lognormvariate(6.8, 1.0))
            new = prompt // BLOCK + 1 - len(blocks)
            blocks = (*blocks, *range(block, block + new))
            block += new
            answer = 1 + int(chance.lognormvariate(5.6, 0.7))
            found.append(Arrival(at=at, prompt=prompt, answer=answer, blocks=blocks))
            at += 10 + chance.expovariate(1 / 60)
            prompt += answer
    return sorted(found, key=lambda one: one.at)


def _own(arrival: Arrival, layer: int) -> tuple[int, ...]:
    common, rest = arrival.blocks[:COMMON], arrival.blocks[COMMON:]
    return (*common, *(layer * 10_000_000 + one for one in rest))


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    for number, (mine, theirs) in enumerate(zip(one, other, strict=False)):
        if mine != theirs:
            return number
    return min(len(one), len(other))
