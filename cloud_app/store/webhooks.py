"""Webhook deliveries: each event a row, claimed by one brain at a time."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import or_
from sqlmodel import Session, col, select

from cloud_app.store import ids
from cloud_app.store.records import (
    DeliveryRecord,
    DeliveryState,
    OrgRecord,
    WebhookConfig,
)
from cloud_app.store.statements import delete_rows, record, update_rows
from cloud_app.store.tables import JobRow, OrgRow, WebhookDeliveryRow

CLAIM = timedelta(seconds=60)
"""How long a brain may take for one try before another may take over."""


def await_job(
    session: Session, org: OrgRecord, hook: WebhookConfig, job_id: str, now: datetime
) -> None:
    """Tell ``hook`` once the job has ended."""
    state = DeliveryState.WAITING
    session.add(_row(org, hook, now, job_id=job_id, state=state))


def add(
    session: Session,
    org: OrgRecord,
    hook: WebhookConfig,
    *,
    event: str,
    body: str,
    now: datetime,
) -> str:
    """Tell ``hook`` of anything else, with this very body, now; the delivery's id."""
    state = DeliveryState.PENDING
    row = _row(org, hook, now, event=event, body=body, state=state, next_at=now)
    session.add(row)
    return row.id


def claim(session: Session, now: datetime, limit: int) -> tuple[DeliveryRecord, ...]:
    """Deliveries to try now, each counted as one more attempt.

    What nobody reports on within `CLAIM` is open again.
    """
    has_ended = select(JobRow.id).where(
        JobRow.id == WebhookDeliveryRow.job_id, col(JobRow.finished_at).is_not(None)
    )
    is_due = or_(
        (col(WebhookDeliveryRow.state) == DeliveryState.PENDING)
        & (col(WebhookDeliveryRow.next_at) <= now),
        (col(WebhookDeliveryRow.state) == DeliveryState.WAITING) & has_ended.exists(),
    )
    due = (
        select(WebhookDeliveryRow.id)
        .where(is_due)
        .order_by(col(WebhookDeliveryRow.id))
        .limit(limit)
        .with_for_update(skip_locked=True)  # PostgreSQL's; SQLite has one writer anyway
    )
    found = list(session.exec(due))
    is_found = col(WebhookDeliveryRow.id).in_(found)
    values = {
        "state": DeliveryState.PENDING,
        "next_at": now + CLAIM,
        "attempts": WebhookDeliveryRow.attempts + 1,
    }
    update_rows(session, WebhookDeliveryRow, is_found, is_due, **values)
    return _records(session, is_found)


def note_try(
    session: Session,
    tried: DeliveryRecord,
    *,
    error: str | None,
    status: int | None,
    now: datetime,
    again_at: datetime | None,
) -> None:
    """How a try went: the receiver took it, unless there is an ``error``.

    ``again_at`` is when the next try is due; None: it is given up.
    """
    values: dict[str, Any] = {"status": status, "error": error, "event": tried.event}
    if error is None or again_at is None:
        state = DeliveryState.FAILED if error else DeliveryState.DELIVERED
        values |= {"state": state, "ended_at": now}
        again_at = None
    which = (
        WebhookDeliveryRow.id == tried.id,
        WebhookDeliveryRow.state == DeliveryState.PENDING,
        WebhookDeliveryRow.attempts == tried.attempts,  # nobody claimed it since
    )
    update_rows(session, WebhookDeliveryRow, *which, next_at=again_at, **values)


def redeliver(session: Session, org: str, delivery_id: str, now: datetime) -> bool:
    """Try one that has ended anew, from its first attempt; False: there is none."""
    ended = (DeliveryState.DELIVERED, DeliveryState.FAILED)
    owner = select(OrgRow.id).where(OrgRow.slug == org).scalar_subquery()
    which = (
        WebhookDeliveryRow.id == delivery_id,
        col(WebhookDeliveryRow.state).in_(ended),
        col(WebhookDeliveryRow.org_id) == owner,
    )
    anew = {"state": DeliveryState.PENDING, "next_at": now, "attempts": 0}
    return update_rows(session, WebhookDeliveryRow, *which, **anew, ended_at=None) == 1


def of_org(
    session: Session, org: str, *, job_id: str | None = None, limit: int = 20
) -> tuple[DeliveryRecord, ...]:
    """An org's deliveries, newest first; only those of one job when it is given."""
    wanted = [col(OrgRow.slug) == org]
    if job_id is not None:
        wanted.append(col(WebhookDeliveryRow.job_id) == job_id)
    return _records(session, *wanted, limit=limit)


def one_of_org(session: Session, org: str, delivery_id: str) -> DeliveryRecord | None:
    """One delivery of an org."""
    found = _records(
        session, col(OrgRow.slug) == org, col(WebhookDeliveryRow.id) == delivery_id
    )
    return found[0] if found else None


def forget(session: Session, before: datetime) -> int:
    """Delete deliveries, and with them their secrets, that ended before a moment."""
    return delete_rows(
        session, WebhookDeliveryRow, col(WebhookDeliveryRow.ended_at) < before
    )


def _row(
    org: OrgRecord, hook: WebhookConfig, now: datetime, **values: Any
) -> WebhookDeliveryRow:
    return WebhookDeliveryRow(
        id=ids.new_id(now),
        org_id=org.id,
        url=hook.url,
        secret=hook.secret,
        created_at=now,
        attempts=0,
        **values,
    )


def _records(
    session: Session, *wanted: Any, limit: int | None = None
) -> tuple[DeliveryRecord, ...]:
    statement = (
        select(WebhookDeliveryRow, OrgRow.slug)
        .where(WebhookDeliveryRow.org_id == OrgRow.id)
        .where(*wanted)
        .order_by(col(WebhookDeliveryRow.id).desc())
        .limit(limit)
    )
    found = session.exec(statement)
    return tuple(record(DeliveryRecord, row, org=slug) for row, slug in found)
