"""Jobs that were cancelled before this worker saw them: remembered for a while."""

from collections import OrderedDict

KEEP = 10_000
KEEP_S = 3_600.0


class Cancels:
    """A bounded memory of job ids; times are monotonic seconds."""

    def __init__(self, *, keep: int = KEEP, keep_s: float = KEEP_S) -> None:
        self._keep, self._keep_s = keep, keep_s
        self._at: OrderedDict[str, float] = OrderedDict()

    def add(self, job_id: str, now: float) -> None:
        """Remember a cancelled job; the oldest ones are forgotten."""
        self._at[job_id] = now
        self._at.move_to_end(job_id)
        while len(self._at) > self._keep or self._is_old(now):
            self._at.popitem(last=False)

    def has(self, job_id: str, now: float) -> bool:
        """True when the job was cancelled not too long ago."""
        at = self._at.get(job_id)
        return at is not None and now - at < self._keep_s

    def _is_old(self, now: float) -> bool:
        return now - next(iter(self._at.values())) >= self._keep_s
