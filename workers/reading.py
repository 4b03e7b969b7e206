"""How long the prompts in hand will still take to read (pure).

An engine's own figure is as old as its last pass, and in between a worker would ask for
a second prompt while the first is still being read. So each engine's worker estimates:
a prompt's size times the time a byte took lately, less the time spent on it so far.
"""

import math

WEIGHT = 0.2
"""Of the latest prompt, in the smoothed time of a byte."""


DOUBT_S, DOUBT_MOST = 300.0, 4.0
"""An old measurement counts twice as fast for each of these seconds, up to 16 times.
The first prompt of a cold engine may take ten times as long as the next ones, and who
once looked slow must get work to be measured by."""

LEAST_S = 1e-6


class Reading:
    """The prompts one engine reads, first come first served.

    Sizes are in bytes, times in seconds of any clock that only grows. Not safe for
    threads. Until a first prompt was read everything takes for ever, so that one
    prompt alone is the first measurement.

    >>> reading = Reading()
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
