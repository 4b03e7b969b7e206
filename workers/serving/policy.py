"""What to do with a job whose engine died under it (pure).

An engine that dies takes everything in its batch with it, and the machine cannot tell
whose fault it was. So the count travels with the message; a job that was there twice
runs alone, and only one that ends an engine a third time is called poison.
"""

from collections.abc import Iterable
from datetime import datetime

from msgspec.structs import replace

from genie.contracts.inference import Fault, InferenceTask, JobState, PartialAnswer

CRASH_CODE = "engine_died"
"""The engine's word for an end nobody asked for; other machine faults do not count."""

MOST = 3
ALONE_FROM = 2

POISON = Fault(
    code="poison",
    message=f"the engine died {MOST} times while it worked on this, the last time with "
    "nothing else running; change the prompt or name another model",
)


def is_crash(fault: Fault) -> bool:
    """True when the engine died under the request."""
    return fault.code == CRASH_CODE


def count_crash(task: InferenceTask) -> InferenceTask | None:
    """The task with one more crash, for its next try; None when it is poison."""
    if task.crashes + 1 >= MOST:
        return None
    return replace(task, crashes=task.crashes + 1)


def runs_alone(task: InferenceTask) -> bool:
    """True when nothing else may be in the engine while this runs."""
    return task.crashes >= ALONE_FROM


def must_wait(task: InferenceTask, running: Iterable[InferenceTask]) -> bool:
    """True while this job and one that runs may not be in one engine."""
    others = [one for one in running if one.model == task.model]
    return bool(others) if runs_alone(task) else any(map(runs_alone, others))


WORK_MOST_S = 540.0
"""No delivery stays unacked for more work than this; the broker would take it back.

A longer answer goes back into its queue with what is written so far, and is continued.
"""

CANCELLED = Fault(code="job_cancelled", message="the job was cancelled before it ran")
LATE_CODE = "deadline_exceeded"


def refusal_of(
    task: InferenceTask, now: datetime, held: str | None, worker: str
) -> tuple[JobState, Fault] | None:
    """Why it will not run here, None if it may."""
    if (fault := late(task, now)) is not None:
        return JobState.TIMEOUT, fault
    fault = mismatch(task, held, worker)
    return None if fault is None else (JobState.FAILED, fault)


def late(task: InferenceTask, now: datetime) -> Fault | None:
    """Its deadline has passed."""
    late_s = (now - task.deadline_at).total_seconds()
    if late_s < 0:
        return None
    message = (
        f"the deadline passed {late_s:.1f} s before a worker was free; allow more time "
        "or add a machine"
    )
    return Fault(code=LATE_CODE, message=message)


def mismatch(task: InferenceTask, held: str | None, worker: str) -> Fault | None:
    """It asks for another version of the model than this worker holds."""
    if held is None or task.fingerprint in (None, held):
        return None
    message = (
        f"the job asks for {task.fingerprint} and {worker} holds {held}; "
        "submit it again"
    )
    return Fault(code="fingerprint_mismatch", message=message)


def work_s(task: InferenceTask, now: datetime) -> float:
    """Seconds it may run here: to its deadline, and no longer than `WORK_MOST_S`."""
    left_s = (task.deadline_at - now).total_seconds()
    return min(max(0.0, left_s), WORK_MOST_S)


def continued_task(
    task: InferenceTask,
    fault: Fault | None,
    written: tuple[PartialAnswer, ...],
    now: datetime,
) -> InferenceTask | None:
    """The task to go on with when its work here was cut; None when it is over."""
    if fault is None or fault.code != LATE_CODE or now >= task.deadline_at:
        return None
    return replace(task, resume=written)
