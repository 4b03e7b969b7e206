"""Decides when a model that failed is tried again, and when no more (pure)."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

FIRST_S = 30.0
MOST_S = 900.0
WINDOW = timedelta(minutes=10)
LIMIT = 3
"""Failures within the window after which this worker stops trying."""


def backoff_s(failures: int) -> float:
    """Seconds to wait after the n-th failure in a row.

    >>> [backoff_s(n) for n in (0, 1, 2, 3, 9)]
    [0.0, 30.0, 60.0, 120.0, 900.0]
    """
    if failures < 1:
        return 0.0
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
        self._count(reason, now, waits_from=1)
        if is_final:
            self.retry_at = None

    def note_death(self, reason: str, now: datetime) -> None:
        """Count an engine's death: the first one in a while is retried at once."""
        self._count(reason, now, waits_from=2)

    def note_death_at_work(self, reason: str, now: datetime) -> None:
        """Count the death of an engine that had answered: it works, some prompt did it.

        Restarted at once, but from the third in ten minutes on this worker rests from
        the model for a while. Never final: one user's prompts must not take a model
        away from all.
        """
        self.clear()
        self.deaths, self.reason = _recent(self.deaths, now), reason
        self.retry_at = now + timedelta(seconds=backoff_s(len(self.deaths) - LIMIT + 1))

    def clear(self) -> None:
        """It works: forget what went wrong."""
        self.at.clear()
        self.reason = self.retry_at = None

    def allows(self, now: datetime) -> bool:
        """True when it may be tried now."""
        if self.reason is None:
            return True
        return self.retry_at is not None and self.retry_at <= now

    def _count(self, reason: str, now: datetime, *, waits_from: int) -> None:
        self.reason = reason
        self.at = _recent(self.at, now)
        wait = timedelta(seconds=backoff_s(len(self.at) - waits_from + 1))
        self.retry_at = None if len(self.at) >= LIMIT else now + wait


def _recent(times: list[datetime], now: datetime) -> list[datetime]:
    return [when for when in times if now - when < WINDOW] + [now]
