"""Orgs, and the audit rows of what was changed in them."""

from datetime import datetime
from typing import Any

from sqlmodel import Session, col, select

from cloud_app.store import ids, tables
from cloud_app.store.records import AuditRecord, OrgRecord
from cloud_app.store.statements import insert_once, record, update_rows


def by_slug(session: Session, slug: str) -> OrgRecord | None:
    """The org with this slug."""
    row = session.exec(select(tables.OrgRow).where(tables.OrgRow.slug == slug)).first()
    return record(OrgRecord, row) if row else None


def every_id(session: Session) -> tuple[str, ...]:
    """The id of every org."""
    return tuple(session.exec(select(tables.OrgRow.id).order_by(tables.OrgRow.id)))


def slugs(session: Session) -> tuple[str, ...]:
    """The slug of every org."""
    return tuple(session.exec(select(tables.OrgRow.slug).order_by(tables.OrgRow.slug)))


def insert(session: Session, slug: str, name: str, now: datetime) -> bool:
    """Add an org; False when the slug is taken."""
    return insert_once(
        session, tables.OrgRow, id=ids.new_id(), slug=slug, name=name, created_at=now
    )


def retain(session: Session, org: OrgRecord, hours: int | None) -> None:
    """Set how long an org's texts are kept; None: as long as the cloud keeps them."""
    update_rows(session, tables.OrgRow, tables.OrgRow.id == org.id, retain_h=hours)


def note(
    session: Session,
    org: OrgRecord,
    *,
    at: datetime,
    actor: str,
    action: str,
    subject: str,
    **detail: Any,
) -> None:
    """Write an audit row: who did what to what. Never a secret."""
    session.add(
        tables.AuditRow(
            id=ids.new_id(),
            at=at,
            org_id=org.id,
            actor=actor,
            action=action,
            subject=subject,
            detail=detail,
        )
    )


def audit(
    session: Session, org: OrgRecord, limit: int = 100
) -> tuple[AuditRecord, ...]:
    """The newest audit rows of an org, newest first."""
    rows = session.exec(
        select(tables.AuditRow)
        .where(tables.AuditRow.org_id == org.id)
        .order_by(col(tables.AuditRow.id).desc())
        .limit(limit)
    )
    return tuple(record(AuditRecord, row) for row in rows)
