"""Files as rows: whose they are, how large, where they lie."""

from collections.abc import Sequence
from datetime import datetime

from sqlmodel import Session, col, select

from cloud_app.store.records import FileRecord
from cloud_app.store.statements import columns_of, delete_rows, insert_once, record
from cloud_app.store.tables import FileRow


def insert(session: Session, file: FileRecord) -> bool:
    """Add a file; False when it is there already."""
    return insert_once(session, FileRow, **columns_of(FileRow, file))


def of_org(session: Session, org_id: str, file_id: str) -> FileRecord | None:
    """A file of this org."""
    statement = select(FileRow).where(FileRow.org_id == org_id, FileRow.id == file_id)
    row = session.exec(statement).first()
    return record(FileRecord, row) if row else None


def find(
    session: Session,
    org_id: str,
    *,
    limit: int,
    after: str | None = None,
    purpose: str | None = None,
    oldest_first: bool = False,
) -> tuple[FileRecord, ...]:
    """Files of an org, newest first or oldest; ``after`` is the last id seen."""
    file_id = col(FileRow.id)
    statement = select(FileRow).where(FileRow.org_id == org_id)
    if purpose is not None:
        statement = statement.where(FileRow.purpose == purpose)
    if after is not None:
        is_next = file_id > after if oldest_first else file_id < after
        statement = statement.where(is_next)
    ordered = file_id.asc() if oldest_first else file_id.desc()
    rows = session.exec(statement.order_by(ordered).limit(limit))
    return tuple(record(FileRecord, row) for row in rows)


def expired(session: Session, now: datetime, limit: int) -> tuple[FileRecord, ...]:
    """Files whose time is over, oldest first."""
    expires_at = col(FileRow.expires_at)
    statement = (
        select(FileRow).where(expires_at < now).order_by(expires_at).limit(limit)
    )
    return tuple(record(FileRecord, row) for row in session.exec(statement))


def known(session: Session, file_ids: Sequence[str]) -> set[str]:
    """Those of these ids that belong to files of any org."""
    statement = select(FileRow.id).where(col(FileRow.id).in_(file_ids))
    return set(session.exec(statement))


def drop(session: Session, file_ids: Sequence[str]) -> int:
    """Forget files; how many there were."""
    return delete_rows(session, FileRow, col(FileRow.id).in_(file_ids))
