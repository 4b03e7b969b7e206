"""Chunks of batches, and the jobs of their lines, in bulk."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Update, delete, func, update
from sqlmodel import Session, col, select

from cloud_app.store import jobs, tables
from cloud_app.store.records import ChunkRecord, ChunkResult, JobRecord
from cloud_app.store.statements import changed, insert_once
from cloud_app.store.tables import BatchChunkRow
from genie.contracts.inference import Fault, FinishReason, JobState

JobRow = tables.JobRow
_FIELDS = tuple(ChunkRecord.__dataclass_fields__)


def insert(session: Session, chunk: ChunkRecord) -> bool:
    """Add an open chunk; False when it is there already."""
    values = {name: getattr(chunk, name) for name in _FIELDS}
    return insert_once(session, BatchChunkRow, **values)


def open_of(session: Session, batch_id: str) -> tuple[ChunkRecord, ...]:
    """The chunks of a batch that are not written yet, in order."""
    return _find(session, batch_id, is_open=True)


def written_of(session: Session, batch_id: str) -> tuple[ChunkRecord, ...]:
    """The chunks of a batch whose answers lie in files, in order."""
    return _find(session, batch_id, is_open=False)


def try_again(session: Session, chunk: ChunkRecord, tries: dict[str, int]) -> bool:
    """Note that lines of an open chunk run once more."""
    return changed(session, _open(chunk).values(tries=tries)) == 1


def write(session: Session, chunk: ChunkRecord, written: ChunkResult) -> bool:
    """Name the files of a chunk's answers; False when somebody was first."""
    statement = _open(chunk).values(
        part=written.part,
        has_output=written.has_output,
        has_errors=written.has_errors,
    )
    return changed(session, statement) == 1


def drop(session: Session, batch_id: str) -> None:
    """Forget the chunks of a batch that ended."""
    changed(
        session, delete(BatchChunkRow).where(col(BatchChunkRow.batch_id) == batch_id)
    )


def open_jobs(session: Session, job_ids: Sequence[str]) -> int:
    """How many of these jobs have not ended."""
    statement = (
        select(func.count())
        .select_from(JobRow)
        .where(col(JobRow.id).in_(job_ids), col(JobRow.state).in_(jobs.OPEN))
    )
    return session.exec(statement).one()


def results(session: Session, job_ids: Sequence[str]) -> dict[str, JobRecord]:
    """These jobs by id, without payloads."""
    return {job.id: job for job in jobs.by_ids(session, job_ids)}


def confirm(session: Session, job_ids: Sequence[str], now: datetime) -> None:
    """The broker has the messages of these jobs."""
    statement = (
        update(JobRow)
        .where(col(JobRow.id).in_(job_ids), col(JobRow.confirmed_at).is_(None))
        .values(confirmed_at=now)
    )
    changed(session, statement)


def close(
    session: Session,
    job_ids: Sequence[str],
    state: JobState,
    now: datetime,
    fault: Fault,
) -> tuple[tuple[str, str], ...]:
    """End those of the jobs that have not; ids and workers of those that ran."""
    is_cancelled = state is JobState.CANCELLED
    reason = FinishReason.CANCELLED if is_cancelled else FinishReason.ERROR
    statement = (
        update(JobRow)
        .where(col(JobRow.id).in_(job_ids), col(JobRow.state).in_(jobs.OPEN))
        .values(
            state=state.value,
            finished_at=now,
            payload=None,
            fault=fault,
            finish_reason=reason.value,
        )
        .returning(col(JobRow.id), col(JobRow.worker_id))
    )
    rows = session.connection().execute(statement).all()
    return tuple((job_id, worker) for job_id, worker in rows if worker is not None)


def _find(session: Session, batch_id: str, *, is_open: bool) -> tuple[ChunkRecord, ...]:
    part = col(BatchChunkRow.part)
    statement = (
        select(BatchChunkRow)
        .where(BatchChunkRow.batch_id == batch_id)
        .where(part.is_(None) if is_open else part.is_not(None))
        .order_by(col(BatchChunkRow.number))
    )
    return tuple(_record(row) for row in session.exec(statement))


def _open(chunk: ChunkRecord) -> Update:
    return (
        update(BatchChunkRow)
        .where(col(BatchChunkRow.batch_id) == chunk.batch_id)
        .where(col(BatchChunkRow.number) == chunk.number)
        .where(col(BatchChunkRow.part).is_(None))
    )


def _record(row: BatchChunkRow) -> ChunkRecord:
    return ChunkRecord(**{name: getattr(row, name) for name in _FIELDS})
