"""What to do with a job whose engine died under it (pure).

An engine that dies takes everything in its batch with it, and the machine cannot tell
whose fault it was. So the count travels with the message; a job that was there twice
runs alone, and only one that ends an engine a third time is called poison.
"""

from collections.abc import Iterable

from msgspec.structs import replace

from genie.contracts.inference import Fault, InferenceTask

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


def counted(task: InferenceTask) -> InferenceTask | None:
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
