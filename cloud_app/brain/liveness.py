"""Who is alive: from the age of the last heartbeat, by the cloud's own clock."""

from collections.abc import Collection
from dataclasses import replace

from cloud_app.brain.views import HEARTBEAT_S, FleetView, Liveness, WorkerView

LATE_BEATS = 1.5
OFFLINE_BEATS = 3.0
LOST_BEATS = 10.0
"""In heartbeats missed: 45, 90 and 300 s with the product's beat of 30 s."""

RECENT_BEATS = 20.0
"""Workers silent for longer are old news and no sign of a fault of ours."""

TOGETHER_BEATS = 2.0
"""One event silences workers this close together."""


def liveness(age_s: float, heartbeat_s: float = HEARTBEAT_S) -> Liveness:
    """The state of a worker last heard ``age_s`` seconds ago.

    >>> liveness(46.0).value
    'late'
    """
    missed = age_s / heartbeat_s
    if missed > LOST_BEATS:
        return Liveness.LOST
    if missed > OFFLINE_BEATS:
        return Liveness.OFFLINE
    if missed > LATE_BEATS:
        return Liveness.LATE
    return Liveness.ONLINE


def without(fleet: FleetView, gone: Collection[str]) -> FleetView:
    """The fleet with late workers as offline whose connection is ``gone`` as well.

    A late heartbeat alone may be a slow network; the broker's word alone a restart.
    """
    workers = (
        replace(worker, liveness=Liveness.OFFLINE)
        if worker.id in gone and worker.liveness is Liveness.LATE
        else worker
        for worker in fleet.workers
    )
    return replace(fleet, workers=tuple(workers))


def is_recent(worker: WorkerView, fleet: FleetView) -> bool:
    """True when the worker was heard of within the last twenty beats."""
    return worker.age_s <= RECENT_BEATS * fleet.heartbeat_s


def is_mass_silence(fleet: FleetView) -> bool:
    """True when more than half of a fleet fell silent at once: the fault is ours.

    Counts workers heard of within ten minutes; silent is everything but online. When
    nobody at all is online there is nowhere to plan to, which is the same answer.
    """
    if len(fleet.workers) < 2:
        return False
    if all(_is_silent(worker) for worker in fleet.workers):
        return True
    recent = [worker for worker in fleet.workers if is_recent(worker, fleet)]
    ages = sorted(worker.age_s for worker in recent if _is_silent(worker))
    window_s = TOGETHER_BEATS * fleet.heartbeat_s
    return 2 * _most_together(ages, window_s) > len(recent) > 1


def _is_silent(worker: WorkerView) -> bool:
    return worker.liveness is not Liveness.ONLINE


def _most_together(ages: list[float], window_s: float) -> int:
    """The largest number of (sorted) ages that lie within one window."""
    most, first = 0, 0
    for last, age in enumerate(ages):
        while age - ages[first] > window_s:
            first += 1
        most = max(most, last - first + 1)
    return most


__all__ = ["Liveness", "is_mass_silence", "is_recent", "liveness", "without"]
