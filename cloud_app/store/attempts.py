"""The executions of a job that had more than one; a job's only one is in its row."""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, select

from cloud_app.store.statements import changed, insert_once
from cloud_app.store.tables import JobAttemptRow, JobRow
from genie.contracts.inference import AttemptGivenBack, AttemptStarted


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One execution: which worker began it, and when."""

    attempt_id: str
    worker: str
    started_at: datetime


def note(session: Session, event: AttemptStarted, now: datetime) -> None:
    """Keep the attempt that ``event`` follows on, which the job's row forgets, and it.

    Call it before the row takes the event in.
    """
    _copy(session, event.job_id, col(JobRow.attempt_id) != event.attempt_id)
    insert_once(
        session,
        JobAttemptRow,
        job_id=event.job_id,
        attempt_id=event.attempt_id,
        worker_id=event.worker_id,
        worker=event.worker,
        started_at=now,
    )


def lose(session: Session, event: AttemptGivenBack, now: datetime) -> bool:
    """Its worker lost the job's message and lives; False when that is known, or when
    nothing is known of that attempt."""
    _copy(session, event.job_id, col(JobRow.attempt_id) == event.attempt_id)
    statement = (
        sa.update(JobAttemptRow)
        .where(*_is(event), col(JobAttemptRow.lost_at).is_(None))
        .values(lost_at=now)
    )
    return changed(session, statement) == 1


def is_lost(session: Session, event: AttemptGivenBack) -> bool:
    """True when the worker of this attempt was said to have lost its message."""
    lost = select(JobAttemptRow).where(
        *_is(event), col(JobAttemptRow.lost_at).is_not(None)
    )
    return session.exec(lost).first() is not None


def lost(session: Session, job_id: str) -> int:
    """How many attempts of a job ended, if they did, with their worker alive."""
    statement = (
        select(sa.func.count())
        .select_from(JobAttemptRow)
        .where(JobAttemptRow.job_id == job_id, col(JobAttemptRow.lost_at).is_not(None))
    )
    return session.exec(statement).one()


def forget_losses(session: Session, job_id: str) -> None:
    """The job begins anew, and so does the count of its attempts."""
    statement = sa.update(JobAttemptRow).where(col(JobAttemptRow.job_id) == job_id)
    changed(session, statement.values(lost_at=None))


def _is(event: AttemptGivenBack) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        col(JobAttemptRow.job_id) == event.job_id,
        col(JobAttemptRow.attempt_id) == event.attempt_id,
    )


def _copy(session: Session, job_id: str, wanted: sa.ColumnElement[bool]) -> None:
    """Keep the attempt that stands in a job's row, if it is a ``wanted`` one."""
    from_row = ("id", "attempt_id", "worker_id", "worker", "started_at")
    in_row = (
        sa.select(*(col(getattr(JobRow, name)) for name in from_row))
        .where(col(JobRow.id) == job_id, wanted)
        .where(col(JobRow.attempt_id).is_not(None))
        .where(col(JobRow.started_at).is_not(None))
    )
    names = ["job_id", "attempt_id", "worker_id", "worker", "started_at"]
    dialect = session.get_bind().dialect.name
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    copied = insert(JobAttemptRow).from_select(names, in_row).on_conflict_do_nothing()
    changed(session, copied)


def of_job(session: Session, job_id: str) -> tuple[AttemptRecord, ...]:
    """The noted attempts of a job, oldest first."""
    rows = session.exec(
        select(JobAttemptRow)
        .where(JobAttemptRow.job_id == job_id)
        .order_by(col(JobAttemptRow.started_at), col(JobAttemptRow.attempt_id))
    )
    return tuple(
        AttemptRecord(
            attempt_id=row.attempt_id, worker=row.worker, started_at=row.started_at
        )
        for row in rows
    )
