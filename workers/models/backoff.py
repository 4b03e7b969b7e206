"""Decides when a model that failed is tried again, and when no more (pure)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

FIRST_S = 30.0
MOST_S = 900.0
WINDOW = timedelta(minutes=10)
LIMIT = 3
"""Failures within the window after which this worker stops trying."""


def backoff_s(failures: int) -> float:
    """Seconds to wait after the n-th failure in a row.

    >>> [backoff_s(n) for n in (1, 2, 3, 9)]
    [30.0, 60.0, 120.0, 900.0]
    """
    return min(MOST_S, FIRST_S * 2.0 ** min(failures - 1, 10))


@dataclass(slots=True, kw_only=True)
class FailureHistory:
    """What went wrong with one model on this worker.

    ``retry_at`` None with a ``reason`` means: not again until the cloud drops it.
    """

    at: list[datetime] = field(default_factory=list)
    deaths: list[datetime] = field(default_factory=list)
    reason: str | None = None
    retry_at: datetime | None = None

    def note(self, reason: str, now: datetime, *, is_final: bool = False) -> None:
        """Count a failure; the third in ten minutes, or a final one, ends retries."""
        self._add(reason, now)
        gave_up = is_final or len(self.at) >= LIMIT
        wait = timedelta(seconds=backoff_s(len(self.at)))
        self.retry_at = None if gave_up else now + wait

    def note_death(self, reason: str, now: datetime) -> None:
        """Count an engine's death: the first one in a while is retried at once."""
        self._add(reason, now)
        count = len(self.at)
        if count == 1:
            self.retry_at = now
            return
        wait = timedelta(seconds=backoff_s(count - 1))
        self.retry_at = None if count >= LIMIT else now + wait

    def note_death_at_work(self, reason: str, now: datetime) -> None:
        """Count the death of an engine that had answered: it works, some prompt did it.

        Restarted at once, but from the third in ten minutes on this worker rests from
        the model for a while. Never final: one user's prompts must not take a model
        away from all.
        """
        self.clear()
        self.deaths = [when for when in self.deaths if now - when < WINDOW] + [now]
        self.reason = reason
        over = len(self.deaths) - LIMIT + 1
        self.retry_at = now + timedelta(seconds=backoff_s(over) if over > 0 else 0)

    def clear(self) -> None:
        """It works: forget what went wrong."""
        self.at.clear()
        self.reason = self.retry_at = None

    def allows(self, now: datetime) -> bool:
        """True when it may be tried now."""
        if self.reason is None:
            return True
        return self.retry_at is not None and self.retry_at <= now

    def _add(self, reason: str, now: datetime) -> None:
        self.reason = reason
        self.at = [when for when in self.at if now - when < WINDOW] + [now]


WallClock = Callable[[], datetime]
"""The wall clock, in UTC."""
