"""Whose turn it is: few threads at once work on what has just come in.

Of sixty requests that come together, each would otherwise get a sixtieth of the process
and all would be published at the end. In turn, half of them are out in half the time.
A thread that only waits from now on says so, and its turn is the next one's.
"""

from queue import Empty, SimpleQueue
from threading import local

AT_ONCE = 3
"""One computes, one waits for the database, one reads its request."""

PATIENCE_S = 0.05
"""Nobody waits longer for a turn: whoever has it may be reading from a slow client."""


class Turns:
    """Turns of one process, each held by one thread."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._free: SimpleQueue[None] = SimpleQueue()  # a semaphore costs ten times it
        for _ in range(at_once):
            self._free.put(None)

    def take(self) -> None:
        """Wait for a turn, but not for long; without one it goes on all the same."""
        try:
            self._free.get(timeout=PATIENCE_S)
        except Empty:
            return
        _mine.turns = self

    def give_back(self) -> None:
        """The next one's turn."""
        self._free.put(None)


class _Mine(local):
    turns: Turns | None = None


_mine = _Mine()


def leave() -> None:
    """This thread goes to wait, or has ended: its turn, if it has one, is over."""
    turns, _mine.turns = _mine.turns, None
    if turns is not None:
        turns.give_back()
