"""Writes the answers of a batch, chunk by chunk: each line into one of two files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from tempfile import SpooledTemporaryFile

import msgspec

from cloud_app import store
from cloud_app.api import errors
from cloud_app.api.json import encode
from cloud_app.batches import feed, lines
from cloud_app.batches.feed import BatchInput
from cloud_app.batches.lines import BatchLine
from cloud_app.context import Context
from cloud_app.files import files
from cloud_app.jobs import failures
from cloud_app.store.records import BatchRecord, ChunkRecord, ChunkResult, JobRecord
from genie.api_types import (
    ApiObject,
    BatchLineResponse,
    BatchResultLine,
    FaultSummary,
)
from genie.contracts import codec
from genie.contracts.batch import BatchState
from genie.contracts.inference import Fault, JobState, Usage

MOST_RUNS = 3
"""How often a line runs when its faults are retryable."""

AT_ONCE = 50
"""Answers in memory at once; more than a few megabytes go to disk."""

SPOOL_BYTES = 4 * 1024 * 1024
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
    ids = [feed.job_id(batch, line, run_of(chunk, line)) for line in _span(chunk)]
    with ctx.db.reading() as session:
        return len(store.jobs.still_open(session, ids))


def run_of(chunk: ChunkRecord, line: int) -> int:
    """The run of a line that counts."""
    return chunk.tries.get(str(line), 1)


def collect(ctx: Context, source: BatchInput, chunk: ChunkRecord) -> bool:
    """Write a chunk whose jobs have all ended; False when some run again."""
    taken = feed.read(ctx, source, chunk)
    if source.batch.takes_more and _run_again(ctx, source, chunk, taken):
        return False
    with _ChunkFiles(ctx, source.batch, chunk) as page:
        page.fill(taken)
        return page.save()


def _span(chunk: ChunkRecord) -> range:
    return range(chunk.first_line, chunk.first_line + chunk.lines)


def _run_again(
    ctx: Context, source: BatchInput, chunk: ChunkRecord, taken: Sequence[BatchLine]
) -> bool:
    """Queue lines with retryable faults again; True when there are any."""
    batch, again = source.batch, list[BatchLine]()
    for line, job in _ended(ctx, batch, chunk, taken):
        run = run_of(chunk, line.number)
        if job is not None and _may_pass(job) and run < MOST_RUNS:
            again.append(line)
    if not again:
        return False
    tries = dict(chunk.tries)
    made = feed.PreparedLines()
    for line in again:
        run = tries[str(line.number)] = run_of(chunk, line.number) + 1
        one, _kept = feed.orders(ctx, source, [line], run)
        if not one.jobs:  # no machine now: look again in a second
            return True
        made.jobs += one.jobs
    with ctx.db.session() as session:
        if not store.batches.try_again(session, chunk, tries):
            return True
        store.jobs.insert_all(session, made.jobs)
    feed.publish(ctx, [new.task for new in made.jobs])
    return True


def _may_pass(job: JobRecord) -> bool:
    fault = job.outcome.fault
    return job.state is JobState.FAILED and fault is not None and fault.retryable


def _ended(
    ctx: Context, batch: BatchRecord, chunk: ChunkRecord, taken: Sequence[BatchLine]
) -> Iterator[tuple[BatchLine, JobRecord | None]]:
    """Each line with its job; None for a line that never had one."""
    rest = iter(taken)
    while group := list(islice(rest, AT_ONCE)):
        ids = {
            line.number: feed.job_id(batch, line.number, run_of(chunk, line.number))
            for line in group
        }
        with ctx.db.reading() as session:
            jobs = store.jobs.by_ids(session, list(ids.values()))
        found = {job.id: job for job in jobs}
        for line in group:
            yield line, found.get(ids[line.number])


@dataclass(slots=True)
class _ChunkTotals:
    completed: int = 0
    failed: int = 0
    usage: Usage = field(default_factory=Usage)

    def add(self, job: JobRecord) -> None:
        used = job.outcome.usage or Usage()
        self.completed += 1
        self.usage = Usage(
            prompt_tokens=self.usage.prompt_tokens + used.prompt_tokens,
            completion_tokens=self.usage.completion_tokens + used.completion_tokens,
            cached_tokens=self.usage.cached_tokens + used.cached_tokens,
        )


class _ChunkFiles:
    """The two files of one chunk while they are written."""

    def __init__(self, ctx: Context, batch: BatchRecord, chunk: ChunkRecord) -> None:
        self._ctx, self._batch = ctx, batch
        # A part's name is unique: what a killed brain left is never read.
        self._chunk = chunk
        self._named = replace(chunk, part=store.ids.new_id())
        self._tally = _ChunkTotals()
        self._spools = {
            kind: SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115  # closed in __exit__
            for kind in (OUTPUT, ERRORS)
        }

    def __enter__(self) -> "_ChunkFiles":
        return self

    def __exit__(self, *_error: object) -> None:
        for spool in self._spools.values():
            spool.close()

    def fill(self, taken: Sequence[BatchLine]) -> None:
        for line, job in _ended(self._ctx, self._batch, self._chunk, taken):
            kind, answer = self._line(line, job)
            self._spools[kind].write(encode(answer) + b"\n")

    def save(self) -> bool:
        has = {kind: spool.tell() > 0 for kind, spool in self._spools.items()}
        for kind in (kind for kind, is_there in has.items() if is_there):
            path = part_path(self._batch, self._named, kind)
            files.of(self._ctx).write(path, _pieces(self._spools[kind]))
        written = ChunkResult(
            part=self._named.part or "",
            has_output=has[OUTPUT],
            has_errors=has[ERRORS],
            completed=self._tally.completed,
            failed=self._tally.failed,
            usage=self._tally.usage,
        )
        with self._ctx.db.session() as session:
            is_first = store.batches.write_chunk(session, self._chunk, written)
            if is_first:
                store.batches.count(session, self._batch.id, written)
        return is_first

    def _line(
        self, line: BatchLine, job: JobRecord | None
    ) -> tuple[str, BatchResultLine]:
        if job is None:
            return ERRORS, self._without_job(line)
        if job.state is JobState.COMPLETED and not _is_forgotten(job):
            self._tally.add(job)
            body = lines.answer(line, self._batch.endpoint, job)
            return OUTPUT, _response(line, job.id, 200, body)
        return ERRORS, self._ended_badly(line, job)

    def _without_job(self, line: BatchLine) -> BatchResultLine:
        refused = self._chunk.refused.get(str(line.number))
        name = feed.job_id(self._batch, line.number)
        if refused is None:
            return _never(line, name, _why(self._batch))
        self._tally.failed += 1
        return _failed(line, name, JobState.FAILED, codec.convert(Fault, refused))

    def _ended_badly(self, line: BatchLine, job: JobRecord) -> BatchResultLine:
        if self._batch.closing and job.state in (JobState.CANCELLED, JobState.TIMEOUT):
            return _never(line, job.id, _why(self._batch))
        self._tally.failed += 1
        if job.state is JobState.COMPLETED:
            return _failed(line, job.id, JobState.FAILED, FORGOTTEN)
        return _failed(line, job.id, job.state, job.outcome.fault)


def _pieces(spool: SpooledTemporaryFile[bytes]) -> Iterator[bytes]:
    spool.seek(0)
    while piece := spool.read(files.PIECE_BYTES):
        yield piece


def _is_forgotten(job: JobRecord) -> bool:
    return job.outcome.text is None and job.outcome.extras is None


def _why(batch: BatchRecord) -> Fault:
    return EXPIRED if batch.closing is BatchState.EXPIRED else CANCELLED


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
