"""A worker's engine in simulated time: continuous batching with chunked prefill.

The rules are those of `workers.engine.child.scheduler`: slots, one token of every
decoding request each pass, prompt chunks up to a budget, first come first served.
Passes in
which nothing can change are taken in one stride.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from benchmarks.simulator.arrivals import Arrival
from benchmarks.simulator.clock import Clock
from benchmarks.simulator.step_times import StepTimes


@dataclass(slots=True, kw_only=True, eq=False)
class Request:
    """An arrival on its way: ``left`` prompt tokens are not computed yet.

    ``given_at`` is when its worker gave it to the engine.
    """

    arrival: Arrival
    number: int = 0
    left: int = 0
    reused: int = 0
    given_at: float = 0.0
    first_at: float = 0.0
    done_at: float = 0.0
    worker: str = ""

    @property
    def id(self) -> str:
        """Its number in words."""
        return str(self.number)

    @property
    def ttft_s(self) -> float:
        """Time to the first token, from when it was asked."""
        return self.first_at - self.arrival.at

    @property
    def e2e_s(self) -> float:
        """Time to the last token, from when it was asked."""
        return self.done_at - self.arrival.at


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How much a worker's engine takes: slots, and tokens in one pass."""

    slots: int
    budget: int


Told = Callable[["Worker", Request], None]


@dataclass(slots=True, kw_only=True, eq=False)
class _Stride:
    """``count`` passes of ``each_s`` seconds; only a single one reads prompts."""

    began: float
    each_s: float
    count: int = 1
    chunks: list[tuple[Request, int]] = field(default_factory=list)


class Worker:
    """One engine. ``on_first`` and ``on_done`` hear of each request's progress."""

    def __init__(self, clock: Clock, name: str, times: StepTimes, room: Room) -> None:
        self.name, self.times, self.room = name, times, room
        self.on_first: list[Told] = []
        self.on_done: list[Told] = []
        self.busy_s = 0.0
        self._clock = clock
        self._inbox: deque[Request] = deque()
        self._waiting: deque[Request] = deque()
        self._reading: deque[Request] = deque()
        self._writing: list[tuple[int, int, Request]] = []
        self._passes = 0  # so far: each gave every writing request a token
        self._stride: _Stride | None = None

    @property
    def active(self) -> int:
        """Requests that hold a slot."""
        return len(self._reading) + len(self._writing)

    @property
    def in_flight(self) -> int:
        """Requests here, with or without a slot."""
        return self.active + len(self._waiting) + len(self._inbox)

    @property
    def unread(self) -> int:
        """Prompt tokens not computed yet."""
        every = (*self._reading, *self._waiting, *self._inbox)
        return sum(one.left for one in every)

    def submit(self, request: Request) -> None:
        """Take a request in; it joins at the end of the present pass."""
        request.worker = self.name
        request.left = max(1, request.arrival.prompt - request.reused)
        self._inbox.append(request)
        if self._stride is None:
            self._next()
        else:
            self._shorten(self._stride)

    def expected_ttft_s(self, request: Request) -> float:
        """When this request would get its first token if it came here now.

        Only a clairvoyant may ask: it reads how long every answer will be.
        """
        each = self.times.seconds(self.room.slots)
        free = self._free_in(each)
        for one in (*self._waiting, *self._inbox):
            start = heapq.heappop(free)
            heapq.heappush(free, start + self._read_s(one.left) + self._write_s(one))
        ahead = sum(one.left for one in self._reading)
        own = max(1, request.arrival.prompt - request.reused)
        return max(heapq.heappop(free), self._read_s(ahead)) + self._read_s(own)

    def _free_in(self, each_s: float) -> list[float]:
        """Seconds until each slot comes free, a heap."""
        passes = self._passes + self._strode()
        free = [max(0, end - passes) * each_s for end, _, _ in self._writing]
        ahead = self._read_s(sum(one.left for one in self._reading))
        free += [ahead + self._write_s(one) for one in self._reading]
        free += [0.0] * (self.room.slots - self.active)
        heapq.heapify(free)
        return free

    def _read_s(self, tokens: int) -> float:
        return self.times.prefill_s(tokens, self.room.budget)

    def _write_s(self, request: Request) -> float:
        return request.arrival.answer * self.times.seconds(self.room.slots)

    def _strode(self) -> int:
        if self._stride is None:
            return 0
        return int((self._clock.now - self._stride.began) / self._stride.each_s)

    def _next(self) -> None:
        self._waiting += self._inbox
        self._inbox.clear()
        while self._waiting and self.active < self.room.slots:
            self._reading.append(self._waiting.popleft())
        if not self.active:
            self._stride = None
            return
        chunks = list(self._chunks())
        tokens = len(self._writing) + sum(length for _, length in chunks)
        each_s = self.times.seconds(tokens)
        count = 1 if chunks else self._writing[0][0] - self._passes
        self._go(
            _Stride(began=self._clock.now, each_s=each_s, count=count, chunks=chunks)
        )

    def _chunks(self) -> Iterator[tuple[Request, int]]:
        room = self.room.budget - len(self._writing)
        for one in self._reading:
            if room <= 0:
                return
            length = min(room, one.left)
            room -= length
            yield one, length

    def _go(self, stride: _Stride) -> None:
        self._stride = stride
        end = stride.began + stride.count * stride.each_s
        self._clock.at(end, lambda: self._end(stride))

    def _shorten(self, stride: _Stride) -> None:
        """End a long stride with the pass that is being computed."""
        count = max(1, math.ceil((self._clock.now - stride.began) / stride.each_s))
        if count < stride.count:
            self._go(_Stride(began=stride.began, each_s=stride.each_s, count=count))

    def _end(self, stride: _Stride) -> None:
        if stride is not self._stride:
            return  # a shorter one took its place
        self._passes += stride.count
        self.busy_s += stride.count * stride.each_s
        done = [*self._written(), *self._read(stride)]
        # The engine does not wait for its worker: the next pass begins at once.
        self._next()
        for tell, request in done:
            for told in tell:
                told(self, request)

    def _written(self) -> Iterator[tuple[list[Told], Request]]:
        while self._writing and self._writing[0][0] <= self._passes:
            request = heapq.heappop(self._writing)[2]
            request.done_at = self._clock.now
            yield self.on_done, request

    def _read(self, stride: _Stride) -> Iterator[tuple[list[Told], Request]]:
        for request, length in stride.chunks:
            request.left -= length
            if request.left:
                continue
            self._reading.remove(request)
            request.first_at = self._clock.now
            yield self.on_first, request
            if request.arrival.answer == 1:
                request.done_at = self._clock.now
                yield self.on_done, request
                continue
            end = self._passes + request.arrival.answer - 1
            heapq.heappush(self._writing, (end, request.number, request))
