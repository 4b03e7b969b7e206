"""How long the prompts in hand will still take to read (pure).

An engine's own figure is as old as its last pass, and in between a worker would ask for
a second prompt while the first is still being read. So each engine's worker estimates:
a prompt's size times the time a byte took lately, less the time spent on it so far.
"""

import math
from dataclasses import dataclass, field
from threading import Lock

from workers.bidding.credits import PREFILL_MOST_S, ModelLoad, bid
from workers.engine.protocol import Finish

WEIGHT = 0.2
"""Of the latest prompt, in the smoothed time of a byte."""


DOUBT_S, DOUBT_MOST = 300.0, 4.0
"""An old measurement counts twice as fast for each of these seconds, up to 16 times.
The first prompt of a cold engine may take ten times as long as the next ones, and who
once looked slow must get work to be measured by."""

LEAST_S = 1e-6


class PrefillQueue:
    """The prompts one engine reads, first come first served.

    Sizes are in bytes, times in seconds of any clock that only grows. Not safe for
    threads. Until a first prompt was read everything takes for ever, so that one
    prompt alone is the first measurement.

    >>> reading = PrefillQueue()
    >>> reading.begin("a", 1000, now=0.0)
    >>> reading.left_s(now=0.0)
    inf
    >>> reading.end("a", now=2.0)
    >>> reading.begin("b", 500, now=2.0)
    >>> reading.left_s(now=2.25)
    0.75
    """

    def __init__(self) -> None:
        self._prompts: dict[str, tuple[int, float]] = {}
        self._ended_at = self._learnt_at = -math.inf
        self._seconds = 0.0
        self._bytes = 0.0  # 0: nothing was ever read

    def begin(self, request: str, size: int, now: float) -> None:
        """The engine has this prompt now."""
        self._prompts[request] = (max(1, size), now)

    def end(self, request: str, now: float, *, learns: bool = True) -> None:
        """It is read: its first token came. Of an unknown one that is no news.

        Not ``learns``: its time may hold pauses, and says something only if nothing
        was read before.
        """
        prompt = self._prompts.pop(request, None)
        if prompt is None:
            return
        size, begun_at = prompt
        if learns or not self._bytes:
            self._learn(size, max(0.0, now - max(begun_at, self._ended_at)))
            self._learnt_at = now
        self._ended_at = max(self._ended_at, now)

    def drop(self, request: str) -> None:
        """It ended before it was read: nothing is learnt from it."""
        self._prompts.pop(request, None)

    def speed(self, now: float) -> float | None:
        """Bytes/s lately; None before anything was read.

        The longer ago it was measured, the faster it may have become.
        """
        if not self._bytes:
            return None
        doubt = min(DOUBT_MOST, max(0.0, now - self._learnt_at) / DOUBT_S)
        return math.exp2(doubt) * self._bytes / max(self._seconds, LEAST_S)

    def left_s(self, now: float) -> float:
        """Seconds until all prompts in hand are read; 0 with none."""
        if not self._prompts:
            return 0.0
        if not self._bytes:
            return math.inf
        size = sum(size for size, _ in self._prompts.values())
        _, begun_at = next(iter(self._prompts.values()))
        spent_s = now - max(begun_at, self._ended_at)
        return max(0.0, size * self._seconds / self._bytes - spent_s)

    def _learn(self, size: int, seconds: float) -> None:
        # Sums, not ratios, are smoothed: several short prompts share one pass.
        weight = WEIGHT if self._bytes else 1.0
        self._seconds += weight * (seconds - self._seconds)
        self._bytes += weight * (size - self._bytes)


@dataclass(slots=True)
class _EngineRequests:
    """One engine's requests, by id with the time it got them, and its prompts.

    ``yielding`` are those that may have to wait for others in the middle.
    ``is_shut``: a prompt came after which no other was asked for.
    """

    begun: dict[str, float] = field(default_factory=dict)
    yielding: set[str] = field(default_factory=set)
    reading: PrefillQueue = field(default_factory=PrefillQueue)
    is_shut: bool = False

    def is_full(self, now: float) -> bool:
        """True while another prompt would be read sooner elsewhere."""
        return self.reading.left_s(now) >= PREFILL_MOST_S

    def pauses(self, request: str) -> bool:
        """True if it may have had to wait for more urgent ones while it was read."""
        return request in self.yielding and len(self.begun) > len(self.yielding)


class InFlightRequests:
    """The requests in hand of every model, from any thread; times are monotonic.

    Counted here, since an engine's own report is as late as its last pass.
    """

    def __init__(self) -> None:
        self._models: dict[str, _EngineRequests] = {}
        self._lock = Lock()

    def begin(
        self, model: str, request: str, size: int, now: float, *, yields: bool = False
    ) -> None:
        """An engine gets a request; ``size`` is its message's, in bytes.

        ``yields`` says that the engine stops it for more urgent ones.
        """
        with self._lock:
            here = self._models.setdefault(model, _EngineRequests())
            here.begun[request] = now
            if yields:
                here.yielding.add(request)
            here.reading.begin(request, size, now)
            here.is_shut = here.is_shut or here.is_full(now)

    def heard(self, model: str, request: str, now: float) -> bool:
        """Something of its answer came. True if for this another may now be asked for
        that could not before."""
        with self._lock:
            here = self._models[model]
            here.reading.end(request, now, learns=not here.pauses(request))
            opens = here.is_shut and not here.is_full(now)
            here.is_shut = here.is_shut and not opens
            return opens

    def finished(self, model: str, request: str, finish: Finish, now: float) -> None:
        """Its last word came, perhaps its only one: learn from it and let go of it."""
        with self._lock:
            here = self._models[model]
            first_at = here.begun.get(request, now) + finish.first_token_s
            read_at = first_at if finish.first_token_s else now
            here.reading.end(request, read_at, learns=not here.pauses(request))
        self.end(model, request)

    def end(self, model: str, request: str) -> None:
        """It is no longer here; of one that never was that is no news."""
        with self._lock:
            here = self._models.get(model)
            if here is not None:
                here.begun.pop(request, None)
                here.yielding.discard(request)
                here.reading.drop(request)

    def of(self, model: str, *, slots: int, now: float, dither: float) -> ModelLoad:
        """A ready model with this many slots; ``dither`` is random in [0, 1)."""
        with self._lock:
            here = self._models.get(model) or _EngineRequests()
            in_flight, left_s = len(here.begun), here.reading.left_s(now)
            yielding, speed = len(here.yielding), here.reading.speed(now)
        offer = bid(speed, in_flight=in_flight, slots=slots, dither=dither)
        return ModelLoad(
            model=model,
            slots=slots,
            in_flight=in_flight,
            yielding=yielding,
            bid=offer,
            prefill_queued_s=left_s,
            measured=speed is not None,
        )
