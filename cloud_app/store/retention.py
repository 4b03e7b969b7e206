"""Texts that were kept long enough: forgotten, oldest first, a page at a time."""

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, or_, select, update
from sqlmodel import Session, col

from cloud_app import tables
from cloud_app.store.statements import changed

Job = tables.Job

DELIVERY_GRACE = timedelta(seconds=60)
"""How long an answer that is not to be kept can still be fetched a second time."""


def delivered(session: Session, job_id: str, now: datetime) -> None:
    """The answer reached whoever it was for; only the first time counts."""
    statement = (
        update(Job)
        .where(col(Job.id) == job_id)
        .where(col(Job.delivered_at).is_(None))
        .where(col(Job.finished_at).is_not(None))
        .values(delivered_at=now)
    )
    changed(session, statement)


def purge(session: Session, *, retain_h: float, now: datetime, limit: int) -> int:
    """Forget prompts and answers of jobs that were kept long enough; how many jobs.

    ``retain_h`` is the longest that any is kept, in hours.
    """
    finished_at, wanted_h = col(Job.finished_at), col(Job.retain_h)
    count = _forget(session, now, limit, finished_at < now - timedelta(hours=retain_h))
    count += _forget(session, now, limit, wanted_h == 0, _is_delivered(now))
    for hours in _wishes(session):
        old = finished_at < now - timedelta(hours=hours)
        count += _forget(session, now, limit, wanted_h == hours, old)
    return count


def _wishes(session: Session) -> list[int]:
    """The retention times that jobs not yet purged ask for."""
    statement = (
        select(col(Job.retain_h))
        .where(col(Job.retain_h) > 0, col(Job.finished_at).is_not(None))
        .where(col(Job.purged_at).is_(None))
        .distinct()
    )
    found = session.connection().execute(statement).scalars()
    return [hours for hours in found if hours is not None]


def _is_delivered(now: datetime) -> ColumnElement[bool]:
    """Fetched or told; an answer somebody waited for was delivered at its end."""
    moment = now - DELIVERY_GRACE
    is_waited_for = col(Job.mode).in_(("sync", "stream"))
    return or_(
        col(Job.delivered_at) < moment,
        is_waited_for & (col(Job.finished_at) < moment),
    )


def _forget(
    session: Session, now: datetime, limit: int, *is_old: ColumnElement[bool]
) -> int:
    old = (
        select(col(Job.id))
        .where(col(Job.finished_at).is_not(None), col(Job.purged_at).is_(None))
        .where(*is_old)
        .order_by(col(Job.finished_at))
        .limit(limit)
    )
    statement = (
        update(Job)
        .where(col(Job.id).in_(old.scalar_subquery()))
        .values(text=None, extras=None, payload=None, purged_at=now)
    )
    return changed(session, statement)
