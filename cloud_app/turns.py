"""Whose turn it is: few threads at once work on what has just come in.

Of sixty requests that come together, each would otherwise get a sixtieth of the process
and all would be published at the end. In turn, half of them are out in half the time.
A thread that only waits from now on says so, and its turn is the next one's.
"""

from threading import BoundedSemaphore, local

AT_ONCE = 3
"""One computes, one waits for the database, one reads its request."""

PATIENCE_S = 0.05
"""Nobody waits longer for a turn: whoever has it may be reading from a slow client."""


class Turns:
    """Turns of one process, each held by one thread."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._free = BoundedSemaphore(at_once)

    def take(self) -> None:
        """Wait for a turn, but not for long; without one it goes on all the same."""
        _mine.turns = self if self._free.acquire(timeout=PATIENCE_S) else None

    def give_back(self) -> None:
        """The next one's turn."""
        self._free.release()


_mine = local()


def leave() -> None:
    """This thread goes to wait, or has ended: its turn, if it has one, is over."""
    turns: Turns | None = getattr(_mine, "turns", None)
    if turns is not None:
        _mine.turns = None
        turns.give_back()
