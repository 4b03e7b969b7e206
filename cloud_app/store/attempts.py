"""The executions of a job that had more than one; a job's only one is in its row."""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, select

from cloud_app.schedule_tables import JobAttempt
from cloud_app.store.statements import changed, insert_once
from cloud_app.tables import Job
from genie.contracts.inference import Started


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One execution: which worker began it, and when."""

    attempt_id: str
    worker: str
    started_at: datetime


def note(session: Session, event: Started, now: datetime) -> None:
    """Keep the attempt that ``event`` follows on, which the job's row forgets, and it.

    Call it before the row takes the event in.
    """
    from_row = ("id", "attempt_id", "worker_id", "worker", "started_at")
    before = (
        sa.select(*(col(getattr(Job, name)) for name in from_row))
        .where(col(Job.id) == event.job_id)
        .where(col(Job.attempt_id).is_not(None))
        .where(col(Job.attempt_id) != event.attempt_id)
        .where(col(Job.started_at).is_not(None))
    )
    names = ["job_id", "attempt_id", "worker_id", "worker", "started_at"]
    dialect = session.get_bind().dialect.name
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    copied = insert(JobAttempt).from_select(names, before).on_conflict_do_nothing()
    changed(session, copied)
    insert_once(
        session,
        JobAttempt,
        job_id=event.job_id,
        attempt_id=event.attempt_id,
        worker_id=event.worker_id,
        worker=event.worker,
        started_at=now,
    )


def of_job(session: Session, job_id: str) -> tuple[AttemptRecord, ...]:
    """The noted attempts of a job, oldest first."""
    rows = session.exec(
        select(JobAttempt)
        .where(JobAttempt.job_id == job_id)
        .order_by(col(JobAttempt.started_at), col(JobAttempt.attempt_id))
    )
    return tuple(
        AttemptRecord(
            attempt_id=row.attempt_id, worker=row.worker, started_at=row.started_at
        )
        for row in rows
    )
