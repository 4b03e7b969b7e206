"""Jobs in bulk: what waits, what must be published again, what is overdue or old."""

from dataclasses import dataclass
from datetime import datetime

from msgspec.structs import replace
from sqlalchemy import case, func, or_, select, update
from sqlmodel import Session, col

from cloud_app.store import tables
from cloud_app.store.jobs import OPEN, kept_payload
from cloud_app.store.records import Backlog
from cloud_app.store.statements import changed
from genie.contracts.inference import (
    Fault,
    FinishReason,
    InferenceTask,
    JobState,
    WorkClass,
)

JobRow = tables.JobRow

BacklogKey = tuple[str, str, WorkClass]
"""Where a job waits: logical queue, model and class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedOutJob:
    """A job that was just timed out, and where it may still run."""

    job_id: str
    model: str
    queue: str
    worker_id: str | None


def counts(session: Session, arrived_since: datetime) -> tuple[Backlog, ...]:
    """Open work, and work that arrived lately, by queue and model."""
    state, created_at = col(JobRow.state), col(JobRow.created_at)
    is_queued = state == JobState.QUEUED.value
    is_running = state == JobState.RUNNING.value
    statement = (
        select(
            col(JobRow.queue),
            col(JobRow.model),
            func.count(case((is_queued, 1))),
            func.count(case((is_running, 1))),
            func.count(case((created_at >= arrived_since, 1))),
            func.min(case((is_queued, created_at))),
        )
        .where(or_(state.in_(OPEN), created_at >= arrived_since))
        .group_by(col(JobRow.queue), col(JobRow.model))
        .order_by(col(JobRow.queue), col(JobRow.model))
    )
    rows = session.connection().execute(statement)
    return tuple(
        Backlog(
            queue=queue,
            model=model,
            queued=queued,
            running=running,
            arrived=arrived,
            oldest_at=oldest_at,
        )
        for queue, model, queued, running, arrived, oldest_at in rows
    )


def oldest(session: Session) -> dict[BacklogKey, datetime]:
    """When the oldest job that waits came, by queue, model and class."""
    by = (col(JobRow.queue), col(JobRow.model), col(JobRow.work_class))
    statement = (
        select(*by, func.min(col(JobRow.created_at)))
        .where(col(JobRow.state) == JobState.QUEUED.value)
        .group_by(*by)
    )
    rows = session.connection().execute(statement)
    return {
        (queue, model, WorkClass(work_class)): at
        for queue, model, work_class, at in rows
    }


def claim_unconfirmed(
    session: Session,
    *,
    before: datetime,
    now: datetime,
    again_before: datetime,
    limit: int,
) -> tuple[InferenceTask, ...]:
    """Tasks of committed async jobs the broker never confirmed, to publish once more.

    Claiming is a guarded update, so that of two brains only one gets a job; a claim
    older than ``again_before`` is open again. Publishing twice is harmless.
    """
    due = (
        select(col(JobRow.id))
        .where(col(JobRow.state) == JobState.QUEUED.value)
        .where(col(JobRow.confirmed_at).is_(None))
        .where(col(JobRow.payload).is_not(None))
        .where(col(JobRow.created_at) < before)
        .where(
            or_(col(JobRow.relayed_at).is_(None), col(JobRow.relayed_at) < again_before)
        )
        .order_by(col(JobRow.id))
        .limit(limit)
        .with_for_update(skip_locked=True)  # PostgreSQL's; SQLite has one writer anyway
    )
    statement = (
        update(JobRow)
        .where(col(JobRow.id).in_(due.scalar_subquery()))
        .where(col(JobRow.confirmed_at).is_(None))
        .values(relayed_at=now, publications=JobRow.publications + 1)
        .returning(col(JobRow.payload), col(JobRow.publications))
    )
    rows = session.connection().execute(statement).all()
    return tuple(_again(task, number) for task, number in rows if task is not None)


def reopen(session: Session, *, now: datetime, fault: Fault) -> int:
    """Queue open jobs that can be published again; end the others with ``fault``."""
    is_open = col(JobRow.state).in_(OPEN)
    again = (
        update(JobRow)
        .where(is_open, col(JobRow.payload).is_not(None))
        .values(state=JobState.QUEUED.value, confirmed_at=None, relayed_at=None)
    )
    lost = (
        update(JobRow)
        .where(is_open, col(JobRow.payload).is_(None))
        .values(
            state=JobState.FAILED.value,
            finished_at=now,
            fault=fault,
            finish_reason=FinishReason.ERROR.value,
        )
    )
    return changed(session, again) + changed(session, lost)


def time_out(
    session: Session, *, before: datetime, now: datetime, fault: Fault, limit: int
) -> tuple[TimedOutJob, ...]:
    """End jobs whose deadline passed before ``before``, oldest deadline first."""
    due = (
        select(col(JobRow.id))
        .where(col(JobRow.state).in_(OPEN))
        .where(col(JobRow.deadline_at) < before)
        .order_by(col(JobRow.deadline_at))
        .limit(limit)
    )
    statement = (
        update(JobRow)
        .where(col(JobRow.id).in_(due.scalar_subquery()))
        .where(col(JobRow.state).in_(OPEN))
        .values(
            state=JobState.TIMEOUT.value,
            finished_at=now,
            payload=kept_payload(),
            fault=fault,
            finish_reason=FinishReason.ERROR.value,
        )
        .returning(
            col(JobRow.id), col(JobRow.model), col(JobRow.queue), col(JobRow.worker_id)
        )
    )
    rows = session.connection().execute(statement).all()
    return tuple(
        TimedOutJob(job_id=job_id, model=model, queue=queue, worker_id=worker_id)
        for job_id, model, queue, worker_id in rows
    )


def _again(task: InferenceTask, number: int) -> InferenceTask:
    return replace(task, publication=number)
