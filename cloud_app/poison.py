"""When a job has ended too many workers to be given to another.

The net for whole worker processes that vanish; engines that die under a job are counted
by their workers (`workers.crashes`).
"""

from sqlmodel import Session

from cloud_app import store
from genie.contracts.inference import Fault

MOST = 3
"""Attempts nobody accounts for; one more start and the job is poison. An attempt whose
worker lives to say that it gave the message back, or lost it, is accounted for."""

FAULT = Fault(
    code="poison",
    message=f"{MOST} attempts ended without an answer, most likely because "
    "this prompt crashes the engine; change the prompt or name another model",
)


def found(session: Session, job_id: str, attempts: int) -> bool:
    """True when the latest of so many ``attempts`` is one too many."""
    if attempts <= MOST:
        return False
    return attempts - store.attempts.lost(session, job_id) > MOST
