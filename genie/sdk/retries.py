"""Decides how long to retry a call, and how long to poll."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from genie.errors import CloudUnreachable, GenieError, RateLimited, Unavailable
from genie.sdk.requests import Call, Pause, Steps

FIRST_TRY_S = 0.1
LONGEST_TRY_S = 2.0

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0

PATIENCE_S = 120.0
"""How long a cloud may be away while a caller waits for an accepted job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Time as the SDK sees it; tests bring their own."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random


class RequestNotSent(CloudUnreachable):
    """The request did not reach the cloud, so any call may be tried again."""


class ConnectionBroken(CloudUnreachable):
    """The connection broke during the answer; the work may go on."""


class RetryBudget:
    """The tries of one call; its pauses add up to ``budget_s`` at most."""

    def __init__(self, call: Call, budget_s: float, clock: Clock) -> None:
        self._call, self._left_s, self._clock = call, budget_s, clock
        self._failed = 0
        self._began = 0.0

    def begin(self) -> None:
        """Begin the next try."""
        self._began = self._clock.now()

    def pause_after(self, error: GenieError) -> float:
        """Seconds before the next try; raises ``error`` when there is none."""
        self._failed += 1
        if not self._helps(error):
            raise error
        if isinstance(error, RequestNotSent):  # dialling in vain is waiting too
            self._left_s -= self._clock.now() - self._began
        jitter = self._clock.jitter()
        pause = pause_before(self._failed, error.retry_after_s, jitter, self._left_s)
        if pause is None:
            raise error
        self._left_s -= pause
        return pause

    def _helps(self, error: GenieError) -> bool:
        if self._call.is_probe:
            return False
        if isinstance(error, CloudUnreachable) and not isinstance(
            error, RequestNotSent
        ):
            return self._call.is_repeatable  # it may have arrived
        return isinstance(error, (Unavailable, RateLimited))


class PollBackoff:
    """One wait: growing pauses, a limit, and patience with a cloud that is away."""

    def __init__(
        self,
        now: Callable[[], float],
        timeout: float | None = None,
        longest_s: float = LONGEST_PAUSE_S,
    ) -> None:
        self._now, self._longest_s = now, longest_s
        self._until = None if timeout is None else now() + timeout
        self._away_since: float | None = None
        self._pauses = poll_intervals(longest_s)

    def heard(self) -> None:
        """Note that the cloud answered."""
        self._away_since = None

    def missed(self, error: Unavailable) -> None:
        """Note that the cloud did not answer; raises ``error`` after 120 s of that."""
        now = self._now()
        self._away_since = now if self._away_since is None else self._away_since
        if now - self._away_since > PATIENCE_S:
            raise error

    def pause(self) -> float | None:
        """Seconds until the next look; None when the time is up."""
        left = self._longest_s if self._until is None else self._until - self._now()
        return min(next(self._pauses), left) if left > 0 else None

    def again(self, error: Unavailable) -> Steps[None]:
        """Pause before the next try; raises ``error`` when it takes too long."""
        self.missed(error)
        yield Pause(seconds=self.pause() or 0.0)

    def until(
        self, done: Callable[[], Steps[bool]], late: Callable[[], GenieError]
    ) -> Steps[None]:
        """Poll until ``done``; raises the error of ``late`` when the time is up."""
        while True:
            try:
                if (yield from done()):
                    return
                self.heard()
            except Unavailable as error:
                self.missed(error)
            pause = self.pause()
            if pause is None:
                raise late()
            yield Pause(seconds=pause)


def poll_intervals(longest_s: float = LONGEST_PAUSE_S) -> Iterator[float]:
    """Seconds between two polls of a job: 0.05, growing by half up to 1.

    >>> from itertools import islice
    >>> [round(pause, 3) for pause in islice(poll_intervals(), 4)]
    [0.05, 0.075, 0.113, 0.169]
    """
    pause = FIRST_PAUSE_S
    while True:
        yield pause
        pause = min(longest_s, pause * 1.5)


def pause_before(
    attempt: int, retry_after_s: float | None, jitter: float, left_s: float
) -> float | None:
    """Seconds to wait before the next try; None when there is no next try.

    Doubles from 0.1 s to 2 s (less up to half of it, by ``jitter`` in 0…1), never less
    than the cloud asked for, and never more than ``left_s``, the rest of the budget.

    >>> [pause_before(n, None, 0.0, 9.0) for n in (1, 2, 3, 9)]
    [0.1, 0.2, 0.4, 2.0]
    >>> pause_before(1, 30.0, 0.0, 9.0) is None
    True
    """
    longest = min(LONGEST_TRY_S, FIRST_TRY_S * 2 ** min(attempt - 1, 20))
    pause = max(longest * (1 - jitter / 2), retry_after_s or 0.0)
    return pause if pause <= left_s else None
