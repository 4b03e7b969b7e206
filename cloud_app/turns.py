"""Whose turn it is: few threads at once work on what has just come in.

Of sixty requests that come together, each would otherwise get a sixtieth of the process
and all would be published at the end. In turn, half of them are out in half the time.
A thread that only waits from now on says so, and its turn is the next one's.
"""

import time
from queue import Empty, SimpleQueue
from threading import Lock, get_ident, local

AT_ONCE = 3
"""One computes, one waits for the database, one reads its request."""

PATIENCE_S = 0.1
"""Whoever works longer on one request loses its turn and goes on without: it reads from
a slow client, or sends a long answer."""


class Turns:
    """Turns of one process, each held by one thread."""

    def __init__(
        self, at_once: int = AT_ONCE, *, patience_s: float = PATIENCE_S
    ) -> None:
        self._patience_s = patience_s
        self._free: SimpleQueue[None] = SimpleQueue()  # a semaphore costs ten times it
        for _ in range(at_once):
            self._free.put(None)
        self._line = Lock()
        self._began: dict[int, float] = {}  # by thread; the one that began first, first

    def take(self) -> None:
        """Wait for a turn."""
        with self._line:  # who stands in line sleeps; only the first one looks around
            while True:
                try:
                    self._free.get(timeout=self._until_overdue_s())
                    break
                except Empty:
                    if self._take_over():
                        break
        _mine.turns = self

    def begin(self) -> None:
        """There is something to work on; before, a turn is held for any time."""
        self._began[get_ident()] = time.monotonic()

    def end(self) -> None:
        """The next one's turn, unless it was taken over."""
        if self._began.pop(get_ident(), None) is not None:
            self._free.put(None)

    def _until_overdue_s(self) -> float:
        now = time.monotonic()
        first = min(self._began.copy().values(), default=now)
        return max(0.0, first + self._patience_s - now)

    def _take_over(self) -> bool:
        overdue = time.monotonic() - self._patience_s
        for thread, began in self._began.copy().items():
            if began > overdue:
                break
            if self._began.pop(thread, None) is not None:
                return True
        return False


class _Mine(local):
    turns: Turns | None = None


_mine = _Mine()


def leave() -> None:
    """This thread goes to wait, or has ended: its turn, if it has one, is over."""
    turns, _mine.turns = _mine.turns, None
    if turns is not None:
        turns.end()
