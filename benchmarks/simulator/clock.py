"""Simulated time: what is due next happens next."""

import heapq
import itertools
from collections.abc import Callable


class Clock:
    """Runs actions in the order of their times; equal times in the order they came.

    >>> clock = Clock()
    >>> clock.after(2.0, lambda: print("late", clock.now))
    >>> clock.after(1.0, lambda: print("early", clock.now))
    >>> clock.run()
    early 1.0
    late 2.0
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._turns = itertools.count()
        self._is_stopped = False

    def at(self, time_s: float, action: Callable[[], None]) -> None:
        """Do ``action`` at a time; a time already past means now."""
        due = max(time_s, self.now)
        heapq.heappush(self._due, (due, next(self._turns), action))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do ``action`` in some seconds."""
        self.at(self.now + seconds, action)

    def every(self, seconds: float, action: Callable[[], None]) -> None:
        """Do ``action`` again and again, until the clock is stopped."""

        def again() -> None:
            action()
            self.after(seconds, again)

        self.after(seconds, again)

    def run(self) -> None:
        """Run until nothing is due any more, or until stopped."""
        while self._due and not self._is_stopped:
            self.now, _turn, action = heapq.heappop(self._due)
            action()

    def stop(self) -> None:
        """Let nothing more happen."""
        self._is_stopped = True
