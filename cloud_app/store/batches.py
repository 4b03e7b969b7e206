"""Batches as rows: leased to one brain at a time, changed by compare-and-set."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Update, or_, update
from sqlmodel import Session, col, select

from cloud_app.batch_tables import Batch
from cloud_app.store.batch_records import BatchRecord, NewBatch, Written
from cloud_app.store.statements import changed, insert_once
from genie.contracts.batch import BatchState
from genie.contracts.inference import Usage

_SAME = (
    *("id", "org_id", "key_id", "endpoint", "window", "model", "total", "completed"),
    *("failed", "input_file_id", "output_file_id", "error_file_id", "read_offset"),
    *("read_line", "chunks", "created_at", "expires_at", "in_progress_at"),
    *("finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at"),
    *("cancelled_at", "body_sha256"),
)
"""Columns a record holds as they are."""

_NUMBERS = (
    *("total", "completed", "failed", "prompt_tokens", "completion_tokens"),
    *("cached_tokens", "read_offset", "read_line", "chunks"),
)
"""Columns that begin at 0."""

_ENDED = tuple(state.value for state in BatchState if state.is_terminal)


def insert(session: Session, new: NewBatch) -> bool:
    """Add a batch to be checked; False when its org already used the key."""
    return insert_once(
        session,
        Batch,
        id=new.id,
        org_id=new.org.id,
        key_id=new.key_id,
        state=BatchState.VALIDATING.value,
        endpoint=new.endpoint,
        window=new.window,
        input_file_id=new.input_file_id,
        labels=new.metadata,
        created_at=new.created_at,
        expires_at=new.expires_at,
        idempotency_key=new.idempotency_key,
        body_sha256=new.body_sha256,
        **dict.fromkeys(_NUMBERS, 0),
    )


def by_id(session: Session, batch_id: str) -> BatchRecord | None:
    """A batch of any org: for the cloud's own use, never for a request."""
    row = session.exec(select(Batch).where(Batch.id == batch_id)).first()
    return None if row is None else _record(row)


def of_org(session: Session, org_id: str, batch_id: str) -> BatchRecord | None:
    """A batch of this org."""
    found = by_id(session, batch_id)
    return found if found is not None and found.org_id == org_id else None


def by_idempotency_key(session: Session, org_id: str, key: str) -> BatchRecord | None:
    """The batch this org submitted under an idempotency key."""
    statement = select(Batch).where(
        Batch.org_id == org_id, Batch.idempotency_key == key
    )
    row = session.exec(statement).first()
    return None if row is None else _record(row)


def find(
    session: Session, org_id: str, *, limit: int, after: str | None = None
) -> tuple[BatchRecord, ...]:
    """Batches of an org, newest first."""
    statement = select(Batch).where(Batch.org_id == org_id)
    if after is not None:
        statement = statement.where(col(Batch.id) < after)
    rows = session.exec(statement.order_by(col(Batch.id).desc()).limit(limit))
    return tuple(_record(row) for row in rows)


def is_read(session: Session, file_id: str) -> bool:
    """True while a batch that has not ended needs the file."""
    statement = (
        select(Batch.id)
        .where(Batch.input_file_id == file_id)
        .where(col(Batch.state).not_in(_ENDED))
    )
    return session.exec(statement.limit(1)).first() is not None


def to_drive(session: Session, limit: int) -> tuple[str, ...]:
    """Ids of batches that need a brain, oldest first."""
    statement = select(Batch.id).where(col(Batch.tidied_at).is_(None))
    return tuple(session.exec(statement.order_by(col(Batch.id)).limit(limit)))


def lease(
    session: Session, batch_id: str, owner: str, now: datetime, until: datetime
) -> BatchRecord | None:
    """The batch, kept for ``owner``; None while another brain has it."""
    statement = (
        update(Batch)
        .where(col(Batch.id) == batch_id, col(Batch.tidied_at).is_(None))
        .where(or_(col(Batch.lease_until).is_(None), col(Batch.lease_until) < now))
        .values(lease=owner, lease_until=until)
    )
    return by_id(session, batch_id) if changed(session, statement) else None


def renew(session: Session, batch_id: str, owner: str, until: datetime) -> bool:
    """Keep the batch longer; False when another brain has it now."""
    statement = _leased(batch_id, owner).values(lease_until=until)
    return changed(session, statement) == 1


def release(session: Session, batch_id: str, owner: str) -> None:
    """Let another brain have the batch."""
    changed(session, _leased(batch_id, owner).values(lease=None, lease_until=None))


def move(
    session: Session,
    batch_id: str,
    states: Iterable[BatchState],
    **values: Any,
) -> bool:
    """Change a batch that is in one of ``states``; False when it is not."""
    statement = (
        update(Batch)
        .where(col(Batch.id) == batch_id)
        .where(col(Batch.state).in_([state.value for state in states]))
        .values(**values)
    )
    return changed(session, statement) == 1


def read_on(
    session: Session, batch: BatchRecord, *, offset: int, line: int, model: str | None
) -> bool:
    """The next chunk was cut; False when another brain did, or it takes no more."""
    statement = (
        update(Batch)
        .where(col(Batch.id) == batch.id, col(Batch.read_offset) == batch.read_offset)
        .where(col(Batch.chunks) == batch.chunks, col(Batch.state) == batch.state.value)
        .values(
            read_offset=offset,
            read_line=line,
            chunks=batch.chunks + 1,
            model=batch.model or model,
        )
    )
    return changed(session, statement) == 1


def count(session: Session, batch_id: str, written: Written) -> None:
    """Add a chunk's share to the counts."""
    usage = written.usage
    statement = (
        update(Batch)
        .where(col(Batch.id) == batch_id)
        .values(
            completed=Batch.completed + written.completed,
            failed=Batch.failed + written.failed,
            prompt_tokens=Batch.prompt_tokens + usage.prompt_tokens,
            completion_tokens=Batch.completion_tokens + usage.completion_tokens,
            cached_tokens=Batch.cached_tokens + usage.cached_tokens,
        )
    )
    changed(session, statement)


def _leased(batch_id: str, owner: str) -> Update:
    return update(Batch).where(col(Batch.id) == batch_id, col(Batch.lease) == owner)


def _record(row: Batch) -> BatchRecord:
    return BatchRecord(
        **{name: getattr(row, name) for name in _SAME},
        state=BatchState(row.state),
        closing=BatchState(row.closing) if row.closing else None,
        usage=Usage(
            prompt_tokens=row.prompt_tokens,
            completion_tokens=row.completion_tokens,
            cached_tokens=row.cached_tokens,
        ),
        errors=tuple(row.errors or ()),
        metadata=row.labels,
    )
