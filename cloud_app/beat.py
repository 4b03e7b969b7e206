"""Beat's schedule: when the cloud's own tasks run."""

from typing import TypedDict

from cloud_app.settings import CloudSettings
from genie import topology

GATHER_S = 10.0
RELAY_S = 5.0
SWEEP_S = 30.0
BURY_S = 10.0
DRIVE_S = 1.0
FIRE_S = 5.0
TELL_S = 2.0
TIDY_S = 3600.0


class BeatEntry(TypedDict):
    """One line of beat's schedule."""

    task: str
    schedule: float
    options: dict[str, float]


def entries(settings: CloudSettings) -> dict[str, BeatEntry]:
    """Beat's schedule: every task by name and seconds.

    A message expires when the next one is due: a brain that was away need not catch up
    on missed runs, since every run looks at everything.
    """
    every = {
        topology.TASK_GATHER: GATHER_S,
        topology.TASK_PLACE: settings.place_every_s,
        topology.TASK_RELAY: RELAY_S,
        topology.TASK_SWEEP: SWEEP_S,
        topology.TASK_BURY: BURY_S,
        topology.TASK_DRIVE: DRIVE_S,
        topology.TASK_FIRE: FIRE_S,
        topology.TASK_TELL: TELL_S,
        topology.TASK_TIDY: TIDY_S,
    }
    return {name: _entry(name, seconds) for name, seconds in every.items()}


def _entry(task: str, every_s: float) -> BeatEntry:
    return {"task": task, "schedule": every_s, "options": {"expires": every_s}}
