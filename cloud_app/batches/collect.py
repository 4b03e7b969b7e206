"""Writes the answers of a batch, chunk by chunk: each line into one of two files."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from tempfile import SpooledTemporaryFile

import msgspec
from msgspec import structs

from cloud_app import store
from cloud_app.api import errors
from cloud_app.api.json import encode
from cloud_app.batches import feed, lines
from cloud_app.batches.feed import BatchInput
from cloud_app.batches.lines import BatchLine
from cloud_app.context import Context
from cloud_app.files import files
from cloud_app.jobs import failures
from cloud_app.store.records import (
    BatchRecord,
    ChunkRecord,
    ChunkResult,
    JobRecord,
    NewJob,
)
from genie.api_types import ApiObject, BatchLineResponse, BatchResultLine, FaultSummary
from genie.contracts import codec
from genie.contracts.batch import BatchState
from genie.contracts.inference import Fault, JobState, Usage

MOST_RUNS = 3
"""How often a line runs when its faults are retryable."""

AT_ONCE = 50
"""Answers in memory at once; more than a few megabytes go to disk."""

SPOOL_BYTES = 4 * 1024 * 1024
Spool = SpooledTemporaryFile[bytes]
OUTPUT, ERRORS = "output", "errors"

EXPIRED = Fault(
    code="batch_expired",
    message="This request could not be executed before the completion window expired.",
)
CANCELLED = Fault(
    code="batch_cancelled",
    message="This request was not executed before the batch was cancelled.",
)
FORGOTTEN = Fault(
    code="result_expired",
    message="The answer was deleted before the batch could write it; submit it again.",
)


def folder(batch: BatchRecord) -> str:
    """The folder of a batch's parts and results."""
    return f"{batch.org_id}/batches/{batch.id}"


def part_path(batch: BatchRecord, chunk: ChunkRecord, kind: str) -> str:
    """The path of a written chunk's answers or errors."""
    return f"{folder(batch)}/{chunk.number:06d}-{chunk.part}.{kind}.jsonl"


def unfinished(ctx: Context, batch: BatchRecord, chunk: ChunkRecord) -> int:
    """The number of jobs of a chunk that have not ended."""
    with ctx.db.reading() as session:
        return len(store.jobs.still_open(session, job_ids(batch, chunk)))


def job_ids(batch: BatchRecord, chunk: ChunkRecord) -> list[str]:
    """The jobs of a chunk: of each line, the run that counts."""
    span = range(chunk.first_line, chunk.first_line + chunk.lines)
    return [_job_id(batch, chunk, line) for line in span]


def closing_fault(batch: BatchRecord) -> Fault:
    """Why a line of a batch that closes early does not run."""
    return EXPIRED if batch.closing is BatchState.EXPIRED else CANCELLED


def collect(ctx: Context, source: BatchInput, chunk: ChunkRecord) -> bool:
    """Write a chunk whose jobs have all ended; False when some run again."""
    taken = feed.read(ctx, source, chunk)
    if source.batch.takes_more and _run_again(ctx, source, chunk, taken):
        return False
    return _write(ctx, source.batch, chunk, taken)


def _run_of(chunk: ChunkRecord, line: int) -> int:
    return chunk.tries.get(str(line), 1)


def _job_id(batch: BatchRecord, chunk: ChunkRecord, line: int) -> str:
    return feed.job_id(batch, line, _run_of(chunk, line))


def _run_again(
    ctx: Context, source: BatchInput, chunk: ChunkRecord, taken: Sequence[BatchLine]
) -> bool:
    """Queue lines with retryable faults again; True when there are any."""
    again = [
        (line, run + 1)
        for line, job in _ended(ctx, source.batch, chunk, taken)
        if (run := _run_of(chunk, line.number)) < MOST_RUNS and _may_pass(job)
    ]
    if not again:
        return False
    jobs = list[NewJob]()
    for line, run in again:
        made = feed.prepare(ctx, source, [line], run).jobs
        if not made:  # no machine now: look again in a second
            return True
        jobs += made
    tries = chunk.tries | {str(line.number): run for line, run in again}
    with ctx.db.session() as session:
        if not store.batches.try_again(session, chunk, tries):
            return True
        store.jobs.insert_all(session, jobs)
    feed.publish(ctx, [new.task for new in jobs])
    return True


def _may_pass(job: JobRecord | None) -> bool:
    if job is None or job.state is not JobState.FAILED:
        return False
    fault = job.outcome.fault
    return fault is not None and fault.retryable


def _ended(
    ctx: Context, batch: BatchRecord, chunk: ChunkRecord, taken: Sequence[BatchLine]
) -> Iterator[tuple[BatchLine, JobRecord | None]]:
    """Each line with its job; None for a line that never had one."""
    rest = iter(taken)
    while group := list(islice(rest, AT_ONCE)):
        ids = [_job_id(batch, chunk, line.number) for line in group]
        with ctx.db.reading() as session:
            found = {job.id: job for job in store.jobs.by_ids(session, ids)}
        yield from zip(group, map(found.get, ids), strict=True)


def _write(
    ctx: Context, batch: BatchRecord, chunk: ChunkRecord, taken: Sequence[BatchLine]
) -> bool:
    """Write a chunk's answers and count them; False when another brain was first."""
    # A part's name is unique: what a killed brain left is never read.
    named = replace(chunk, part=store.ids.new_id())
    with _spool() as output, _spool() as faults:
        completed, failed, usage = _fill(ctx, batch, chunk, taken, output, faults)
        written = ChunkResult(
            part=named.part or "",
            has_output=_save(ctx, part_path(batch, named, OUTPUT), output),
            has_errors=_save(ctx, part_path(batch, named, ERRORS), faults),
            completed=completed,
            failed=failed,
            usage=usage,
        )
    with ctx.db.session() as session:
        is_first = store.batches.write_chunk(session, chunk, written)
        if is_first:
            store.batches.count(session, batch.id, written)
    return is_first


def _fill(
    ctx: Context,
    batch: BatchRecord,
    chunk: ChunkRecord,
    taken: Sequence[BatchLine],
    output: Spool,
    faults: Spool,
) -> tuple[int, int, Usage]:
    """Write the answer of each line; returns how many completed, failed, their use."""
    completed = failed = 0
    tokens = Counter[str]()
    for line, job in _ended(ctx, batch, chunk, taken):
        if job is not None and job.state is JobState.COMPLETED and _is_kept(job):
            completed += 1
            tokens.update(structs.asdict(job.outcome.usage or Usage()))
            body = lines.answer(line, batch.endpoint, job)
            answer, spool = _response(line, job.id, 200, body), output
        else:
            answer, spool = _failure(batch, chunk, line, job), faults
            failed += answer.error is None
        spool.write(encode(answer) + b"\n")
    return completed, failed, Usage(**tokens)


def _failure(
    batch: BatchRecord, chunk: ChunkRecord, line: BatchLine, job: JobRecord | None
) -> BatchResultLine:
    """The result of a line without answer: ``error`` is set where it never ran."""
    if job is None:
        name = feed.job_id(batch, line.number)
        refused = chunk.refused.get(str(line.number))
        if refused is None:
            return _never(line, name, closing_fault(batch))
        return _failed(line, name, JobState.FAILED, codec.convert(Fault, refused))
    if batch.closing and job.state in (JobState.CANCELLED, JobState.TIMEOUT):
        return _never(line, job.id, closing_fault(batch))
    if job.state is JobState.COMPLETED:
        return _failed(line, job.id, JobState.FAILED, FORGOTTEN)
    return _failed(line, job.id, job.state, job.outcome.fault)


def _spool() -> Spool:
    return SpooledTemporaryFile(SPOOL_BYTES)


def _save(ctx: Context, path: str, spool: Spool) -> bool:
    """Store what was written to a spool; False when that is nothing."""
    if not spool.tell():
        return False
    spool.seek(0)
    files.of(ctx).write(path, iter(partial(spool.read, files.PIECE_BYTES), b""))
    return True


def _is_kept(job: JobRecord) -> bool:
    return job.outcome.text is not None or job.outcome.extras is not None


def _response(
    line: BatchLine, job_id: str, status: int, body: ApiObject
) -> BatchResultLine:
    response = BatchLineResponse(
        status_code=status, request_id=job_id, body=msgspec.Raw(encode(body))
    )
    return BatchResultLine(
        id=f"batch_req_{job_id}", custom_id=lines.custom_id(line), response=response
    )


def _failed(
    line: BatchLine, job_id: str, state: JobState, fault: Fault | None
) -> BatchResultLine:
    error = failures.job_failure(state, fault)
    said = errors.body(errors.fault_of(error), error.http_status)
    return _response(line, job_id, error.http_status, said)


def _never(line: BatchLine, job_id: str, fault: Fault) -> BatchResultLine:
    return BatchResultLine(
        id=f"batch_req_{job_id}",
        custom_id=lines.custom_id(line),
        error=FaultSummary(code=fault.code, message=fault.message),
    )
