"""Control tasks of one worker: nudge, cancel, resume and say, on its own queue."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from genie import topology
from genie.contracts import codec
from genie.contracts.inference import PartialAnswer

if TYPE_CHECKING:
    from celery import Celery

    from workers.host import WorkerHost


def register(app: "Celery", host: "Callable[[], WorkerHost | None]") -> None:
    """Register this worker's control tasks on ``app``.

    ``host`` gives the running worker, None before it started or after it stopped:
    then there is nothing to nudge and nothing to cancel.
    Arguments that a later release may send are ignored, like fields of a contract.
    """

    @app.task(name=topology.TASK_NUDGE, ignore_result=True, shared=False)  # type: ignore[untyped-decorator]  # celery has no types
    def nudge(**_later: object) -> None:
        """Beat now: the cloud changed what this worker should hold."""
        if (worker := host()) is not None:
            worker.agent.nudge()

    @app.task(name=topology.TASK_CANCEL, ignore_result=True, shared=False)  # type: ignore[untyped-decorator]  # celery has no types
    def cancel(job_id: str, **_later: object) -> None:
        """Stop a job here, or before it starts here."""
        if (worker := host()) is not None:
            worker.serving.cancel(job_id)

    @app.task(name=topology.TASK_RESUME, ignore_result=True, shared=False)  # type: ignore[untyped-decorator]  # celery has no types
    def resume(job_id: str, answers: list[object], **_later: object) -> None:
        """Go on after what the asker has already, instead of from the start."""
        if (worker := host()) is not None:
            given = tuple(codec.convert(PartialAnswer, one) for one in answers)
            worker.serving.resume(job_id, given)

    @app.task(name=topology.TASK_SAY, ignore_result=True, shared=False)  # type: ignore[untyped-decorator]  # celery has no types
    def say(job_id: str, to: str, name: str, **_later: object) -> None:
        """Tell what is written of a job so far."""
        if (worker := host()) is not None:
            worker.serving.say(job_id, to, name)
