"""Who is told, and when, that a request runs."""

from collections.abc import Callable, Iterable
from datetime import datetime

from workers.attempt import Attempt
from workers.mail import Mail

START_S = 0.02
"""A request that has ended by then is never said to have started: its end says all
that the cloud wants to know, in half the messages."""


class Starts:
    """The starts still to be said. An attempt's lock is held by whoever names it."""

    def __init__(self, mail: Mail, now: Callable[[], datetime]) -> None:
        self._mail, self._now = mail, now
        self._owed: dict[str, Attempt] = {}

    @property
    def are_owed(self) -> bool:
        """True while something runs that nobody was told of."""
        return bool(self._owed)

    def owe(self, attempt: Attempt) -> None:
        """It runs; said at once unless it is the job's first attempt."""
        if attempt.is_over:  # the engine refused it while it was given to it
            return
        self._owed[attempt.id] = attempt
        if not attempt.is_first:
            self.say(attempt)

    def say(self, attempt: Attempt) -> None:
        """Say it now, once, and of nothing that has ended."""
        if self._owed.pop(attempt.id, None) is not None:
            attempt.has_started = True
            self._mail.started(attempt.task, attempt.started(self._now()))

    def tend(self, clock: float) -> None:
        """Say it of all that have run for a moment; ``clock`` is monotonic."""
        for attempt in tuple(self._owed.values()):
            if attempt.taken_at + START_S <= clock:
                with attempt.lock:
                    self.say(attempt)

    def lost(self, running: Iterable[Attempt]) -> None:
        """Somebody else gets the messages of these, and nobody died: the cloud must not
        count them with those whose worker is never heard of again."""
        for attempt in running:
            with attempt.lock:
                if not attempt.is_over:
                    self.say(attempt)
                    self._mail.given_back(attempt.lost(self._now()))

    def drop(self, attempt: Attempt) -> None:
        """It has ended, and that says it all."""
        self._owed.pop(attempt.id, None)
