"""Connected, but not consuming? What the broker says against what we believe (pure).

A consumer can be gone on the broker's side without a word. The worker then looks well,
beats, and never gets work again; nobody but the broker knows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from workers.bidding.credits import Credit

WATCH_S = 10.0
"""How often the broker is asked, and how long a credit is open before it is doubted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueObservation:
    """What the broker says of a queue on which we hold a credit since ``opened_at``."""

    opened_at: float
    waiting: int
    consumers: int


@dataclass(slots=True)
class CreditWatchdog:
    """Remembers the last look; times are monotonic seconds."""

    _looked_at: float = 0.0
    _suspects: frozenset[tuple[Credit, float]] = field(default_factory=frozenset)

    def doubted(self, opened: Mapping[Credit, float], now: float) -> tuple[Credit, ...]:
        """The credits to ask the broker about now; none between two looks."""
        if now - self._looked_at < WATCH_S:
            return ()
        self._looked_at = now
        return tuple(credit for credit, at in opened.items() if now - at >= WATCH_S)

    def is_deaf(self, seen: Mapping[Credit, QueueObservation]) -> bool:
        """True when work waits for a credit that is open, at two looks in a row.

        Once may be a message under way; without any consumer there is no doubt.
        """
        if any(one.consumers == 0 for one in seen.values()):
            return True
        passed_over = frozenset(
            (credit, one.opened_at) for credit, one in seen.items() if one.waiting
        )
        was_so, self._suspects = passed_over & self._suspects, passed_over
        return bool(was_so)
