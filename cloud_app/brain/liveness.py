"""Who is alive: from the age of the last heartbeat, by the cloud's own clock."""

from cloud_app.brain.views import FleetView, Liveness, WorkerView

LATE_S = 45.0
OFFLINE_S = 90.0
LOST_S = 300.0

RECENT_S = 600.0
"""Workers silent for longer are old news and no sign of a fault of ours."""

TOGETHER_S = 60.0
"""Beats come every 30 s: one event silences workers this close together."""


def liveness(age_s: float) -> Liveness:
    """The state of a worker last heard ``age_s`` seconds ago.

    >>> liveness(46.0).value
    'late'
    """
    if age_s > LOST_S:
        return Liveness.LOST
    if age_s > OFFLINE_S:
        return Liveness.OFFLINE
    if age_s > LATE_S:
        return Liveness.LATE
    return Liveness.ONLINE


def is_mass_silence(fleet: FleetView) -> bool:
    """True when more than half of a fleet fell silent at once: the fault is ours.

    Counts workers heard of within ten minutes; silent is everything but online. When
    nobody at all is online there is nowhere to plan to, which is the same answer.
    """
    if len(fleet.workers) < 2:
        return False
    if all(_is_silent(worker) for worker in fleet.workers):
        return True
    recent = [worker for worker in fleet.workers if worker.age_s <= RECENT_S]
    ages = sorted(worker.age_s for worker in recent if _is_silent(worker))
    return 2 * _most_together(ages) > len(recent) > 1


def _is_silent(worker: WorkerView) -> bool:
    return worker.liveness is not Liveness.ONLINE


def _most_together(ages: list[float]) -> int:
    """The largest number of (sorted) ages that lie within one window."""
    most, first = 0, 0
    for last, age in enumerate(ages):
        while age - ages[first] > TOGETHER_S:
            first += 1
        most = max(most, last - first + 1)
    return most


__all__ = ["Liveness", "is_mass_silence", "liveness"]
