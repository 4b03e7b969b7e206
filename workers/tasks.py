"""Control tasks of one worker: a nudge and a cancel, on its own queue."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from genie import topology

if TYPE_CHECKING:
    from celery import Celery

    from workers.host import WorkerHost


def register(app: "Celery", host: "Callable[[], WorkerHost | None]") -> None:
    """Register this worker's control tasks on ``app``.

    ``host`` gives the running worker, None before it started or after it stopped:
    then there is nothing to nudge and nothing to cancel.
    """

    @app.task(name=topology.TASK_NUDGE, ignore_result=True)  # type: ignore[untyped-decorator]  # celery has no types
    def nudge() -> None:
        """Beat now: the cloud changed what this worker should hold."""
        if (worker := host()) is not None:
            worker.nudge()

    @app.task(name=topology.TASK_CANCEL, ignore_result=True)  # type: ignore[untyped-decorator]  # celery has no types
    def cancel(job_id: str) -> None:
        """Stop a job here, or before it starts here."""
        if (worker := host()) is not None:
            worker.cancel(job_id)
