"""Texts that were kept long enough: forgotten, oldest first, a page at a time."""

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, or_, select, update
from sqlmodel import Session, col

from cloud_app.store import tables
from cloud_app.store.statements import changed

JobRow = tables.JobRow

DELIVERY_GRACE = timedelta(seconds=60)
"""How long an answer that is not to be kept can still be fetched a second time."""


def delivered(session: Session, job_id: str, now: datetime) -> None:
    """The answer reached whoever it was for; only the first time counts."""
    statement = (
        update(JobRow)
        .where(col(JobRow.id) == job_id)
        .where(col(JobRow.delivered_at).is_(None))
        .where(col(JobRow.finished_at).is_not(None))
        .values(delivered_at=now)
    )
    changed(session, statement)


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
    statement = (
        update(JobRow)
        .where(col(JobRow.id).in_(old.scalar_subquery()))
        .values(text=None, extras=None, payload=None, purged_at=now)
    )
    return changed(session, statement)
