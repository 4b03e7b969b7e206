"""How many requests may wait at once: a server out of threads answers nobody."""

from threading import Lock

from genie.errors import Unavailable

SPARE_THREADS = 8
"""Kept for everything that does not wait: jobs, heartbeats, health, pages."""


class StreamLimit:
    """Places for requests that hold a thread until their answer is complete."""

    def __init__(self, threads: int) -> None:
        self.total = max(1, threads - SPARE_THREADS)
        self.taken = 0
        """Requests that wait right now."""
        self._lock = Lock()

    def take(self) -> None:
        """Take one place; raises `Unavailable` when all are taken."""
        with self._lock:
            if self.taken >= self.total:
                raise Unavailable(
                    f"all {self.total} places for waiting requests are taken; try "
                    'again in a moment, or send mode "async"',
                    code="too_many_waiting",
                    retry_after_s=2,
                )
            self.taken += 1

    def give_back(self) -> None:
        """One place is free again."""
        with self._lock:
            self.taken -= 1
