"""Derives liveness from the age of the last heartbeat, by the cloud's clock."""

from collections.abc import Collection
from dataclasses import replace

from cloud_app.brain.views import HEARTBEAT_S, FleetView, Liveness, WorkerView

LATE_BEATS = 1.5
OFFLINE_BEATS = 3.0
LOST_BEATS = 10.0
"""In missed heartbeats: 45, 90 and 300 s at the default of 30 s."""

RECENT_BEATS = 20.0
"""Workers silent for longer do not count as a sign of a fault of the cloud."""

TOGETHER_BEATS = 2.0
"""Workers that fall silent within this time were silenced by one event."""


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
    """The fleet, with late workers whose connection is ``gone`` counted as offline.

    A late heartbeat alone may be a slow network, a lost connection alone a restart.
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
    """True when more than half of a fleet fell silent at once: mass silence.

    Counts workers heard of within ten minutes; silent means not online. When
    no worker is online there is nowhere to plan to, so the answer is True as well.
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
