"""Jobs in bulk: what waits, what must be published again, what is kept no longer."""

from datetime import datetime, timedelta

from msgspec.structs import replace
from sqlalchemy import ColumnElement, case, func, or_, select, update
from sqlmodel import Session, col

from cloud_app.store.jobs import IS_OPEN
from cloud_app.store.records import Backlog
from cloud_app.store.statements import record, update_rows
from cloud_app.store.tables import JobRow
from genie.contracts.inference import InferenceTask, JobState, WorkClass

BacklogKey = tuple[str, str, WorkClass]
"""Where a job waits: logical queue, model and class."""

DELIVERY_GRACE = timedelta(seconds=60)
"""How long an answer that is not to be kept can still be fetched a second time."""


def counts(session: Session, arrived_since: datetime) -> tuple[Backlog, ...]:
    """Open work, and work that arrived lately, by queue and model."""
    state, created_at = col(JobRow.state), col(JobRow.created_at)
    is_queued, is_running = state == JobState.QUEUED, state == JobState.RUNNING
    statement = (
        select(
            col(JobRow.queue),
            col(JobRow.model),
            func.count(case((is_queued, 1))).label("queued"),
            func.count(case((is_running, 1))).label("running"),
            func.count(case((created_at >= arrived_since, 1))).label("arrived"),
            func.min(case((is_queued, created_at))).label("oldest_at"),
        )
        .where(or_(IS_OPEN, created_at >= arrived_since))
        .group_by(col(JobRow.queue), col(JobRow.model))
        .order_by(col(JobRow.queue), col(JobRow.model))
    )
    rows = session.connection().execute(statement)
    return tuple(record(Backlog, row) for row in rows)


def oldest(session: Session) -> dict[BacklogKey, datetime]:
    """When the oldest job that waits came, by queue, model and class."""
    by = (col(JobRow.queue), col(JobRow.model), col(JobRow.work_class))
    statement = (
        select(*by, func.min(col(JobRow.created_at)))
        .where(col(JobRow.state) == JobState.QUEUED)
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
        .where(col(JobRow.state) == JobState.QUEUED)
        .where(col(JobRow.confirmed_at).is_(None))
        .where(col(JobRow.task).is_not(None))
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
        .returning(col(JobRow.task), col(JobRow.publications))
    )
    rows = session.connection().execute(statement).all()
    return tuple(
        replace(task, publication=number) for task, number in rows if task is not None
    )


def delivered(session: Session, job_id: str, now: datetime) -> None:
    """The answer reached whoever it was for; only the first time counts."""
    is_new = col(JobRow.delivered_at).is_(None)
    has_ended = col(JobRow.finished_at).is_not(None)
    which = (JobRow.id == job_id, is_new, has_ended)
    update_rows(session, JobRow, *which, delivered_at=now)


def purge(session: Session, *, retain_h: float, now: datetime, limit: int) -> int:
    """Forget prompts and answers of jobs that were kept long enough; how many jobs.

    ``retain_h`` is the longest that any is kept, in hours.
    """
    finished_at, wanted_h = col(JobRow.finished_at), col(JobRow.retain_h)
    count = _forget(session, now, limit, finished_at < now - timedelta(hours=retain_h))
    count += _forget(session, now, limit, wanted_h == 0, _is_delivered(now))
    for hours in _wishes(session):
        old = finished_at < now - timedelta(hours=hours)
        count += _forget(session, now, limit, wanted_h == hours, old)
    return count


def _wishes(session: Session) -> list[int]:
    """The retention times that jobs not yet purged ask for."""
    statement = (
        select(col(JobRow.retain_h))
        .where(col(JobRow.retain_h) > 0, col(JobRow.finished_at).is_not(None))
        .where(col(JobRow.purged_at).is_(None))
        .distinct()
    )
    found = session.connection().execute(statement).scalars()
    return [hours for hours in found if hours is not None]


def _is_delivered(now: datetime) -> ColumnElement[bool]:
    """Fetched or told; an answer somebody waited for was delivered at its end."""
    moment = now - DELIVERY_GRACE
    is_waited_for = col(JobRow.mode).in_(("sync", "stream"))
    return or_(
        col(JobRow.delivered_at) < moment,
        is_waited_for & (col(JobRow.finished_at) < moment),
    )


def _forget(
    session: Session, now: datetime, limit: int, *is_old: ColumnElement[bool]
) -> int:
    old = (
        select(col(JobRow.id))
        .where(col(JobRow.finished_at).is_not(None), col(JobRow.purged_at).is_(None))
        .where(*is_old)
        .order_by(col(JobRow.finished_at))
        .limit(limit)
    )
    which = col(JobRow.id).in_(old.scalar_subquery())
    texts = {"text": None, "extras": None, "task": None}
    return update_rows(session, JobRow, which, **texts, purged_at=now)
