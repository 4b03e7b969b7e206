"""Ends batches: joins the results, writes the last state, removes the parts."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from cloud_app import store
from cloud_app.batches import collect, feed
from cloud_app.batches.collect import ERRORS, OUTPUT, folder
from cloud_app.batches.feed import BatchInput
from cloud_app.context import Context
from cloud_app.files import files
from cloud_app.store.records import BatchRecord, ChunkRecord, FileRecord
from genie import logs
from genie.contracts.batch import BatchState
from genie.contracts.inference import JobState
from genie.errors import BrokerDown

log = logs.logger("batching")

OUTPUT_PURPOSE = "batch_output"
OPEN = (BatchState.VALIDATING, BatchState.IN_PROGRESS)
ENDING = (BatchState.FINALIZING, BatchState.CANCELLING)


def expire(ctx: Context, batch: BatchRecord) -> None:
    """Stop a running batch whose window is over."""
    now = ctx.now()
    with ctx.db.session() as session:
        store.batches.move(
            session,
            batch.id,
            OPEN,
            state=BatchState.FINALIZING.value,
            closing=BatchState.EXPIRED.value,
            finalizing_at=now,
        )


def fail(ctx: Context, batch: BatchRecord, errors: Sequence[dict[str, Any]]) -> None:
    """End a batch whose input cannot run."""
    with ctx.db.session() as session:
        store.batches.move(
            session,
            batch.id,
            [state for state in BatchState if not state.is_terminal],
            state=BatchState.FAILED.value,
            errors=list(errors),
            failed_at=ctx.now(),
        )


def stop(ctx: Context, batch: BatchRecord, chunks: Sequence[ChunkRecord]) -> None:
    """End the jobs of a batch that closes early; running ones are cancelled."""
    is_expired = batch.closing is BatchState.EXPIRED
    state = JobState.TIMEOUT if is_expired else JobState.CANCELLED
    fault = collect.EXPIRED if is_expired else collect.CANCELLED
    for chunk in chunks:
        span = range(chunk.first_line, chunk.first_line + chunk.lines)
        ids = [feed.job_id(batch, line, collect.run_of(chunk, line)) for line in span]
        with ctx.db.session() as session:
            closed = store.transitions.close(
                session, ids, state, ctx.now(), fault=fault, keeps_task=False
            )
        for job in closed:
            if job.worker_id is not None:
                _tell(ctx, job.worker_id, job.job_id)


def finish(ctx: Context, source: BatchInput) -> None:
    """Join the results and end the batch."""
    batch = source.batch
    if batch.state is BatchState.IN_PROGRESS:
        with ctx.db.session() as session:
            store.batches.move(
                session,
                batch.id,
                [BatchState.IN_PROGRESS],
                state=BatchState.FINALIZING.value,
                finalizing_at=ctx.now(),
            )
    with ctx.db.reading() as session:
        chunks = store.batches.written_chunks(session, batch.id)
    output = _assemble(ctx, batch, chunks, OUTPUT)
    errors = _assemble(ctx, batch, chunks, ERRORS)
    end(ctx, batch, output, errors)


def end(
    ctx: Context,
    batch: BatchRecord,
    output: FileRecord | None = None,
    errors: FileRecord | None = None,
) -> None:
    """Write the batch's last state and its files in one transaction."""
    last = batch.closing or BatchState.COMPLETED
    with ctx.db.session() as session:
        is_first = store.batches.move(
            session,
            batch.id,
            ENDING,
            state=last.value,
            output_file_id=output and output.id,
            error_file_id=errors and errors.id,
            **_at(last, ctx.now()),
        )
        for file in (output, errors):
            if is_first and file is not None:
                store.files.insert(session, file)
    log.info("batch_ended", batch=batch.id, state=last.value)


def remove_leftovers(ctx: Context, batch: BatchRecord) -> None:
    """Remove the files that an ended batch no longer needs."""
    kept = {
        result_path(batch, file_id)
        for file_id in (batch.output_file_id, batch.error_file_id)
        if file_id is not None
    }
    storage = files.of(ctx)
    for path in storage.names(folder(batch)):
        if path not in kept:
            storage.remove(path)
    with ctx.db.session() as session:
        store.batches.drop_chunks(session, batch.id)
        store.batches.move(session, batch.id, [batch.state], tidied_at=ctx.now())


def result_path(batch: BatchRecord, file_id: str) -> str:
    """The path of a batch's result."""
    return f"{folder(batch)}/result-{file_id}.jsonl"


def _tell(ctx: Context, worker_id: str, job_id: str) -> None:
    """Best effort: the record has ended, so a late answer is dropped."""
    try:
        ctx.bus.cancel(worker_id, job_id)
    except BrokerDown as error:
        log.warning("cancel_not_sent", job_id=job_id, error=str(error))


def _assemble(
    ctx: Context, batch: BatchRecord, chunks: Sequence[ChunkRecord], kind: str
) -> FileRecord | None:
    """All parts of a kind as one file, in input order; None without parts."""
    parts = [
        collect.part_path(batch, chunk, kind)
        for chunk in chunks
        if (chunk.has_output if kind == OUTPUT else chunk.has_errors)
    ]
    if not parts:
        return None
    file_id = store.ids.new_id(ctx.now())
    path = result_path(batch, file_id)
    stored = files.of(ctx).write(path, _joined(ctx, parts))
    return files.record(
        ctx,
        stored,
        file_id=file_id,
        org_id=batch.org_id,
        key_id=batch.key_id,
        purpose=OUTPUT_PURPOSE,
        filename=f"batch_{batch.id}_{kind}.jsonl",
        path=path,
    )


def _joined(ctx: Context, parts: Sequence[str]) -> Iterator[bytes]:
    for part in parts:
        yield from files.of(ctx).pieces(part)


def _at(state: BatchState, now: datetime) -> dict[str, datetime]:
    return {f"{state.value}_at": now}
