"""How many requests may wait at once: a server out of threads answers nobody."""

from threading import Lock

from genie.errors import Unavailable

SPARE_THREADS = 8
"""Kept for everything that does not wait: jobs, heartbeats, health, pages."""


class StreamLimit:
    """Places for requests that hold a thread until their answer is complete."""

    def __init__(self, threads: int) -> None:
        self.total = max(1, threads - SPARE_THREADS)
        self._taken = 0
        self._lock = Lock()

    @property
    def taken(self) -> int:
        """Requests that wait right now."""
        return self._taken

    def take(self) -> "StreamPermit":
        """One place; raises `Unavailable` when all are taken."""
        with self._lock:
            if self._taken >= self.total:
                raise Unavailable(
                    f"all {self.total} places for waiting requests are taken; try "
                    'again in a moment, or send mode "async"',
                    code="too_many_waiting",
                    retry_after_s=2,
                )
            self._taken += 1
        return StreamPermit(self)

    def give_back(self) -> None:
        """One place is free again."""
        with self._lock:
            self._taken -= 1


class StreamPermit:
    """A taken place; leaving twice is harmless."""

    def __init__(self, limit: StreamLimit) -> None:
        self._limit: StreamLimit | None = limit

    def release(self) -> None:
        """Give the place back."""
        limit, self._limit = self._limit, None
        if limit is not None:
            limit.give_back()
