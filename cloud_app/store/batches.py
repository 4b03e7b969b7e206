"""Batches and their chunks: leased to one brain, changed by compare-and-set."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import or_
from sqlmodel import Session, col, select

from cloud_app.store.records import BatchRecord, ChunkRecord, ChunkResult, NewBatch
from cloud_app.store.statements import (
    Condition,
    columns_of,
    delete_rows,
    insert_once,
    record,
    update_rows,
)
from cloud_app.store.tables import BatchChunkRow, BatchRow
from genie.contracts.batch import BatchState
from genie.contracts.inference import Usage

_ENDED = tuple(state for state in BatchState if state.is_terminal)


def insert(session: Session, new: NewBatch) -> bool:
    """Add a batch to be checked; False when its org already used the key."""
    return insert_once(
        session,
        BatchRow,
        **columns_of(BatchRow, new),
        org_id=new.org.id,
        state=BatchState.VALIDATING,
        labels=new.metadata,
    )


def by_id(session: Session, batch_id: str) -> BatchRecord | None:
    """A batch of any org: for the cloud's own use, never for a request."""
    return _first(session, BatchRow.id == batch_id)


def of_org(session: Session, org_id: str, batch_id: str) -> BatchRecord | None:
    """A batch of this org."""
    return _first(session, BatchRow.id == batch_id, BatchRow.org_id == org_id)


def by_idempotency_key(session: Session, org_id: str, key: str) -> BatchRecord | None:
    """The batch this org submitted under an idempotency key."""
    is_keyed = BatchRow.idempotency_key == key
    return _first(session, BatchRow.org_id == org_id, is_keyed)


def find(
    session: Session, org_id: str, *, limit: int, after: str | None = None
) -> tuple[BatchRecord, ...]:
    """Batches of an org, newest first."""
    statement = select(BatchRow).where(BatchRow.org_id == org_id)
    if after is not None:
        statement = statement.where(col(BatchRow.id) < after)
    rows = session.exec(statement.order_by(col(BatchRow.id).desc()).limit(limit))
    return tuple(_record(row) for row in rows)


def is_read(session: Session, file_id: str) -> bool:
    """True while a batch that has not ended needs the file."""
    statement = (
        select(BatchRow.id)
        .where(BatchRow.input_file_id == file_id)
        .where(col(BatchRow.state).not_in(_ENDED))
    )
    return session.exec(statement.limit(1)).first() is not None


def to_drive(session: Session, limit: int) -> tuple[str, ...]:
    """Ids of batches that need a brain, oldest first."""
    statement = select(BatchRow.id).where(col(BatchRow.tidied_at).is_(None))
    return tuple(session.exec(statement.order_by(col(BatchRow.id)).limit(limit)))


def lease(
    session: Session, batch_id: str, owner: str, now: datetime, until: datetime
) -> BatchRecord | None:
    """The batch, kept for ``owner``; None while another brain has it."""
    ends = col(BatchRow.lease_until)
    is_open = col(BatchRow.tidied_at).is_(None)
    which = (BatchRow.id == batch_id, is_open, or_(ends.is_(None), ends < now))
    if not update_rows(session, BatchRow, *which, lease=owner, lease_until=until):
        return None
    return by_id(session, batch_id)


def renew(session: Session, batch_id: str, owner: str, until: datetime) -> bool:
    """Keep the batch longer; False when another brain has it now."""
    which = (BatchRow.id == batch_id, BatchRow.lease == owner)
    return update_rows(session, BatchRow, *which, lease_until=until) == 1


def release(session: Session, batch_id: str, owner: str) -> None:
    """Let another brain have the batch."""
    which = (BatchRow.id == batch_id, BatchRow.lease == owner)
    update_rows(session, BatchRow, *which, lease=None, lease_until=None)


def move(
    session: Session,
    batch_id: str,
    states: Iterable[BatchState],
    **values: Any,
) -> bool:
    """Change a batch that is in one of ``states``; False when it is not."""
    which = (BatchRow.id == batch_id, col(BatchRow.state).in_(tuple(states)))
    return update_rows(session, BatchRow, *which, **values) == 1


def read_on(
    session: Session, batch: BatchRecord, *, offset: int, line: int, model: str | None
) -> bool:
    """The next chunk was cut; False when another brain did, or it takes no more."""
    compared = ("id", "read_offset", "chunks", "state")
    which = (getattr(BatchRow, name) == getattr(batch, name) for name in compared)
    values = {"read_offset": offset, "read_line": line, "chunks": batch.chunks + 1}
    model = batch.model or model
    return update_rows(session, BatchRow, *which, **values, model=model) == 1


def count(session: Session, batch_id: str, written: ChunkResult) -> None:
    """Add a chunk's share to the counts."""
    usage = written.usage
    update_rows(
        session,
        BatchRow,
        BatchRow.id == batch_id,
        completed=BatchRow.completed + written.completed,
        failed=BatchRow.failed + written.failed,
        prompt_tokens=BatchRow.prompt_tokens + usage.prompt_tokens,
        completion_tokens=BatchRow.completion_tokens + usage.completion_tokens,
        cached_tokens=BatchRow.cached_tokens + usage.cached_tokens,
    )


def insert_chunk(session: Session, chunk: ChunkRecord) -> bool:
    """Add an open chunk; False when it is there already."""
    return insert_once(session, BatchChunkRow, **columns_of(BatchChunkRow, chunk))


def open_chunks(session: Session, batch_id: str) -> tuple[ChunkRecord, ...]:
    """The chunks of a batch that are not written yet, in order."""
    return _chunks(session, batch_id, is_open=True)


def written_chunks(session: Session, batch_id: str) -> tuple[ChunkRecord, ...]:
    """The chunks of a batch whose answers lie in files, in order."""
    return _chunks(session, batch_id, is_open=False)


def try_again(session: Session, chunk: ChunkRecord, tries: dict[str, int]) -> bool:
    """Note that lines of an open chunk run once more."""
    return update_rows(session, BatchChunkRow, *_is_open(chunk), tries=tries) == 1


def write_chunk(session: Session, chunk: ChunkRecord, written: ChunkResult) -> bool:
    """Name the files of a chunk's answers; False when somebody was first."""
    names = ("part", "has_output", "has_errors")
    values = {name: getattr(written, name) for name in names}
    return update_rows(session, BatchChunkRow, *_is_open(chunk), **values) == 1


def drop_chunks(session: Session, batch_id: str) -> None:
    """Forget the chunks of a batch that ended."""
    delete_rows(session, BatchChunkRow, BatchChunkRow.batch_id == batch_id)


def _first(session: Session, *which: bool) -> BatchRecord | None:
    row = session.exec(select(BatchRow).where(*which)).first()
    return _record(row) if row else None


def _record(row: BatchRow) -> BatchRecord:
    usage = Usage(
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        cached_tokens=row.cached_tokens,
    )
    errors, metadata = tuple(row.errors or ()), row.labels
    return record(BatchRecord, row, usage=usage, errors=errors, metadata=metadata)


def _chunks(
    session: Session, batch_id: str, *, is_open: bool
) -> tuple[ChunkRecord, ...]:
    part = col(BatchChunkRow.part)
    statement = (
        select(BatchChunkRow)
        .where(BatchChunkRow.batch_id == batch_id)
        .where(part.is_(None) if is_open else part.is_not(None))
        .order_by(col(BatchChunkRow.number))
    )
    return tuple(record(ChunkRecord, row) for row in session.exec(statement))


def _is_open(chunk: ChunkRecord) -> tuple[Condition, ...]:
    return (
        BatchChunkRow.batch_id == chunk.batch_id,
        BatchChunkRow.number == chunk.number,
        col(BatchChunkRow.part).is_(None),
    )
