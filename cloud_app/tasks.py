"""The cloud's own Celery tasks: find the context, call one function, log counts.

Any number of brains may run any of them at the same time: what they do is guarded in
the database, and doing it twice changes nothing.
"""

from collections.abc import Callable
from typing import TypedDict

import celery

from cloud_app import context
from cloud_app.batches import driver
from cloud_app.brain.views import Liveness
from cloud_app.context import Context
from cloud_app.files import files
from cloud_app.fleet import placement, registry
from cloud_app.jobs import dead_letters, job_json, lifecycle
from cloud_app.schedules import schedules
from cloud_app.settings import CloudSettings
from cloud_app.webhooks import webhooks
from genie import logs, topology
from genie.errors import Unavailable

log = logs.logger("tasks")


class BeatEntry(TypedDict):
    """One line of beat's schedule."""

    task: str
    schedule: float
    options: dict[str, float]


TaskFunction = Callable[[Context], dict[str, int]]
"""Does the work; gives the counts worth logging, zeros are not."""


def _gather(ctx: Context) -> dict[str, int]:
    """See who went silent; a lost worker that is back is planned for at once."""
    report = registry.gather(ctx)
    if any(change.was == Liveness.LOST for change in report.transitions):
        placement.place(ctx)
    return {"changed": len(report.transitions), "released": report.released}


def _sweep(ctx: Context) -> dict[str, int]:
    """Time out what is overdue, forget what is old."""
    report = lifecycle.sweep(ctx)
    expired = files.expire(ctx)
    webhooks.forget(ctx)
    return {"timed_out": report.timed_out, "purged": report.purged, "files": expired}


def _bury(ctx: Context) -> dict[str, int]:
    report = dead_letters.bury(ctx)
    return {"failed": report.failed, "discarded": report.discarded}


def _deliver(ctx: Context) -> dict[str, int]:
    return {"delivered": webhooks.deliver(ctx, job_json.webhook_payload)}


TASKS: dict[str, tuple[float | None, TaskFunction]] = {
    topology.TASK_GATHER: (10.0, _gather),
    topology.TASK_PLACE: (None, lambda ctx: {"moves": len(placement.place(ctx).moves)}),
    topology.TASK_RELAY: (5.0, lambda ctx: {"published": lifecycle.relay(ctx)}),
    topology.TASK_SWEEP: (30.0, _sweep),
    topology.TASK_BURY: (10.0, _bury),
    topology.TASK_DRIVE: (1.0, lambda ctx: {"written": driver.drive(ctx)}),
    topology.TASK_FIRE: (5.0, lambda ctx: {"started": schedules.fire(ctx)}),
    topology.TASK_TELL: (2.0, _deliver),
    topology.TASK_TIDY: (3600.0, lambda ctx: {"removed": files.tidy(ctx)}),
}
"""Every task, after the seconds between two runs; None: as the settings say."""


def register(app: celery.Celery) -> None:
    """Add every task to ``app``, under the names of `genie.topology`."""
    for name, (_seconds, run) in TASKS.items():
        app.task(_task(name, run), name=name, ignore_result=True, shared=False)


def beat_schedule(settings: CloudSettings) -> dict[str, BeatEntry]:
    """Beat's schedule: every task by name and seconds.

    A message expires when the next one is due: a brain that was away need not catch up
    on missed runs, since every run looks at everything.
    """
    every = {
        name: seconds or settings.place_every_s
        for name, (seconds, _run) in TASKS.items()
    }
    return {
        name: {"task": name, "schedule": every_s, "options": {"expires": every_s}}
        for name, every_s in every.items()
    }


def _task(name: str, run: TaskFunction) -> Callable[[], None]:
    def task() -> None:
        try:
            counts = run(context.current())
        except Unavailable as error:
            # the next run comes in seconds and looks at everything again
            log.warning("task_waits", task=name, error=str(error))
            return
        if any(counts.values()):
            log.info("task_done", task=name, **counts)

    return task
