"""Why a delivered job ends here without running, and how long it may run (pure)."""

from datetime import datetime

from msgspec.structs import replace

from genie.contracts.inference import Fault, InferenceTask, JobState, Written

WORK_MOST_S = 540.0
"""No delivery stays unacked for more work than this; the broker would take it back.

A longer answer goes back into its queue with what is written so far, and is continued.
"""

CANCELLED = Fault(code="job_cancelled", message="the job was cancelled before it ran")
LATE_CODE = "deadline_exceeded"


def of(
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


def continued(
    task: InferenceTask,
    fault: Fault | None,
    written: tuple[Written, ...],
    now: datetime,
) -> InferenceTask | None:
    """The task to go on with when its work here was cut; None when it is over."""
    if fault is None or fault.code != LATE_CODE or now >= task.deadline_at:
        return None
    return replace(task, resume=written)
