"""Drives batches: checked whole, fed, collected and closed, a step at a time.

Each batch is leased to one brain, which takes it a step further once a second.
"""

import hashlib
import random
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import chain
from threading import Lock
from typing import Any

from cloud_app import store
from cloud_app.batches import batches, collect, feed, lines
from cloud_app.batches.collect import ERRORS, OUTPUT, folder
from cloud_app.batches.feed import BatchInput
from cloud_app.batches.lines import BadBatchLine, BatchLine, LineRequest
from cloud_app.context import Context
from cloud_app.files import files
from cloud_app.jobs import admission, lifecycle
from cloud_app.store.records import BatchRecord, ChunkRecord, FileRecord
from genie import logs
from genie.contracts.batch import BatchState
from genie.contracts.inference import JobState
from genie.errors import GenieError, NotFound, Unavailable

log = logs.logger("batches")

MOST_ERRORS = 100
"""The most mistakes that are listed."""

OUTPUT_PURPOSE = "batch_output"

LEASE = timedelta(seconds=6)
"""How long the batch of a killed brain waits for another brain.

Two brains that drive one batch after a stall only do work twice: each step is a
compare-and-set.
"""

RENEW_AFTER_S = 1.5
AT_ONCE = 100
SPREAD = 4
"""Chunks may hold this many times the lines in flight: a slow line stops no other."""

_one_at_a_time = Lock()
"""One check at a time: a large input takes a minute of a brain's threads."""

_random = random.SystemRandom()


class DigestSet:
    """A set of names as 64-bit digests in memory: at most 32 bytes a name.

    A Python set of numbers takes about a hundred. A million names collide by chance
    once in 40 million batches.
    """

    def __init__(self) -> None:
        self._db = sqlite3.connect(":memory:")
        self._db.execute("CREATE TABLE names (digest INTEGER PRIMARY KEY)")

    def add(self, name: str) -> bool:
        """Add a name; False when it was in the set before."""
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        number = int.from_bytes(digest, signed=True)
        added = self._db.execute("INSERT OR IGNORE INTO names VALUES (?)", (number,))
        return added.rowcount == 1

    def close(self) -> None:
        """Free the memory."""
        self._db.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSummary:
    """The contents of an input: its requests, and the mistakes that end the batch."""

    total: int
    model: str | None
    errors: tuple[dict[str, Any], ...]


def check(
    ctx: Context, batch: BatchRecord, file: FileRecord, keep: Callable[[], None]
) -> InputSummary | None:
    """Read every line; None while this process checks another batch.

    Memory holds one line and at most 32 bytes of each custom_id, never the file.
    ``keep`` is called for each line.
    """
    if not _one_at_a_time.acquire(blocking=False):
        return None
    try:
        with closing(DigestSet()) as seen:
            return _InputCheck(ctx, batch, seen).read(file, keep)
    finally:
        _one_at_a_time.release()


class _InputCheck:
    """One pass over one input."""

    def __init__(self, ctx: Context, batch: BatchRecord, seen: DigestSet) -> None:
        self._ctx, self._batch, self._seen = ctx, batch, seen
        self._targets: set[tuple[str | None, str | None]] = set()
        self._errors: list[dict[str, Any]] = []
        self._model: str | None = None
        self._total = 0

    def read(self, file: FileRecord, keep: Callable[[], None]) -> InputSummary:
        most_bytes = self._ctx.settings.max_body_bytes
        with files.of(self._ctx).reading(file.path) as source:
            for line in lines.split_lines(source, most_bytes=most_bytes):
                self._total += 1
                keep()
                self._note(line, most_bytes)
                if self._is_enough():
                    break
        if not self._total:
            self._add(BadBatchLine("the file has no requests", code="empty_file"))
        return InputSummary(
            total=self._total, model=self._model, errors=tuple(self._errors)
        )

    def _note(self, line: BatchLine, most_bytes: int) -> None:
        try:
            request = lines.parse(line, self._batch.endpoint, most_bytes=most_bytes)
            self._see(request)
        except GenieError as error:
            self._add(error, line.number)

    def _see(self, request: LineRequest) -> None:
        if not self._seen.add(request.custom_id):
            raise BadBatchLine(
                f"custom_id {request.custom_id[:64]!r} was used before; each must be "
                "unique",
                code="duplicate_custom_id",
                param="custom_id",
            )
        body: Any = request.body  # every shape names a model, a persona or both
        target = (body.model, body.persona)
        if target not in self._targets:
            admission.resolve(self._ctx.catalog, *target)
            self._targets.add(target)
            self._model = self._model or body.model or body.persona

    def _is_enough(self) -> bool:
        most_lines = self._ctx.settings.batch_max_lines
        if self._total > most_lines:
            error = BadBatchLine(
                f"the file has more than {most_lines} requests; split it",
                code="too_many_requests",
            )
            self._add(error)
            return True
        return len(self._errors) >= MOST_ERRORS

    def _add(self, error: GenieError, line: int | None = None) -> None:
        self._errors.append(_mistake(error, line))


def _mistake(error: GenieError, line: int | None = None) -> dict[str, Any]:
    return {
        "code": error.error_code,
        "message": error.message,
        "param": error.param,
        "line": line,
    }


def fail(ctx: Context, batch: BatchRecord, errors: Sequence[dict[str, Any]]) -> None:
    """End a batch whose input cannot run."""
    unended = [state for state in BatchState if not state.is_terminal]
    batches.move(ctx, batch, unended, BatchState.FAILED, errors=list(errors))


def stop(ctx: Context, batch: BatchRecord, chunks: Sequence[ChunkRecord]) -> None:
    """End the jobs of a batch that closes early; running ones are cancelled."""
    is_expired = batch.closing is BatchState.EXPIRED
    state = JobState.TIMEOUT if is_expired else JobState.CANCELLED
    for chunk in chunks:
        with ctx.db.session() as session:
            closed = store.transitions.close(
                session,
                collect.job_ids(batch, chunk),
                state,
                ctx.now(),
                fault=collect.closing_fault(batch),
                keeps_task=False,
            )
        lifecycle.stop_workers(ctx, closed)


def finish(ctx: Context, source: BatchInput) -> None:
    """Join the results and end the batch."""
    batch = source.batch
    if batch.state is BatchState.IN_PROGRESS:
        batches.move(ctx, batch, [batch.state], BatchState.FINALIZING)
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
            (BatchState.FINALIZING, BatchState.CANCELLING),
            state=last.value,
            output_file_id=output and output.id,
            error_file_id=errors and errors.id,
            **{f"{last.value}_at": ctx.now()},
        )
        for file in (output, errors):
            if is_first and file is not None:
                store.files.insert(session, file)
    log.info("batch_ended", batch=batch.id, state=last.value)


def remove_leftovers(ctx: Context, batch: BatchRecord) -> None:
    """Remove the files that an ended batch no longer needs."""
    results = (batch.output_file_id, batch.error_file_id)
    kept = {result_path(batch, file_id) for file_id in results if file_id is not None}
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
    path, storage = result_path(batch, file_id), files.of(ctx)
    stored = storage.write(path, chain.from_iterable(map(storage.pieces, parts)))
    return files.record(
        ctx,
        stored,
        id=file_id,
        org_id=batch.org_id,
        key_id=batch.key_id,
        purpose=OUTPUT_PURPOSE,
        filename=f"batch_{batch.id}_{kind}.jsonl",
        path=path,
    )


class LeaseLost(Unavailable):
    """Another brain took over the batch."""


class BatchLease:
    """The right to drive one batch, renewed while there is work on it."""

    def __init__(self, ctx: Context, batch_id: str, owner: str) -> None:
        self._ctx, self._batch_id, self._owner = ctx, batch_id, owner
        self._renewed = time.monotonic()

    def take(self) -> BatchRecord | None:
        """The batch; None while another brain drives it."""
        now = self._ctx.now()
        with self._ctx.db.session() as session:
            return store.batches.lease(
                session, self._batch_id, self._owner, now, now + LEASE
            )

    def keep(self) -> None:
        """Renew the lease; raises `LeaseLost`."""
        if time.monotonic() - self._renewed < RENEW_AFTER_S:
            return
        self._renewed = time.monotonic()
        until = self._ctx.now() + LEASE
        with self._ctx.db.session() as session:
            if not store.batches.renew(session, self._batch_id, self._owner, until):
                raise LeaseLost(f"batch {self._batch_id} is driven by another brain")

    def release(self) -> None:
        """Let another brain drive the batch."""
        with self._ctx.db.session() as session:
            store.batches.release(session, self._batch_id, self._owner)


def drive(ctx: Context) -> int:
    """Take one step of every batch that no other brain drives.

    Returns how many chunks were written.
    """
    with ctx.db.reading() as session:
        waiting = list(store.batches.to_drive(session, AT_ONCE))
    _random.shuffle(waiting)  # brains meet less, and none waits behind a broken one
    written = 0
    for batch_id in waiting:
        lease = BatchLease(ctx, batch_id, store.ids.new_id())
        batch = lease.take()
        if batch is None:
            continue
        try:
            written += _BatchStep(ctx, lease).advance(batch)
        except Unavailable as error:
            log.warning("batch_waits", batch=batch_id, reason=error.message)
        finally:
            lease.release()
    return written


class _BatchStep:
    """One step of one batch; each part leaves a state from which the next continues."""

    def __init__(self, ctx: Context, lease: BatchLease) -> None:
        self._ctx, self._lease = ctx, lease

    def advance(self, batch: BatchRecord) -> int:
        """Do what can be done now; returns how many chunks were written."""
        if batch.state.is_terminal:
            remove_leftovers(self._ctx, batch)
            return 0
        try:
            return self._drive(self._source(batch))
        except NotFound as error:
            fail(self._ctx, batch, [{**_mistake(error), "param": None}])
            return 0

    def _drive(self, source: BatchInput) -> int:
        ctx, batch = self._ctx, source.batch
        if ctx.now() >= batch.expires_at and batch.closing is None:
            expired = {"closing": BatchState.EXPIRED.value}
            batches.move(ctx, batch, batches.OPEN, BatchState.FINALIZING, **expired)
            batch = self._again(batch)
        if batch.state is BatchState.VALIDATING:
            batch = self._check(batch, source.file)
        if batch.in_progress_at is not None:
            return self._run(replace(source, batch=batch))
        if batch.closing is not None:  # it was stopped before any line ran
            end(ctx, batch)
        return 0

    def _check(self, batch: BatchRecord, file: FileRecord) -> BatchRecord:
        ctx = self._ctx
        found = check(ctx, batch, file, self._lease.keep)
        if found is None:
            return batch
        if found.errors:
            fail(ctx, batch, found.errors)
        else:
            counted = {"total": found.total, "model": found.model}
            before = [BatchState.VALIDATING]
            batches.move(ctx, batch, before, BatchState.IN_PROGRESS, **counted)
        return self._again(batch)

    def _run(self, source: BatchInput) -> int:
        ctx, batch = self._ctx, source.batch
        chunks = self._open(batch)
        if batch.closing is not None:
            stop(ctx, batch, chunks)
        written, running = self._collect(source, chunks)
        source = self._feed(source, running)
        if not self._open(batch) and feed.is_at_end(ctx, source):
            finish(ctx, source)
        return written

    def _collect(
        self, source: BatchInput, chunks: tuple[ChunkRecord, ...]
    ) -> tuple[int, int]:
        """Write ended chunks; returns how many, and how many jobs still run."""
        written = running = 0
        for chunk in chunks:
            self._lease.keep()
            left = collect.unfinished(self._ctx, source.batch, chunk)
            if left == 0 and collect.collect(self._ctx, source, chunk):
                written += 1
            running += left
        return written, running

    def _feed(self, source: BatchInput, running: int) -> BatchInput:
        """Fill the queue up to its limit; a closing batch skips the rest."""
        ctx, most = self._ctx, self._ctx.settings.batch_in_flight
        act = feed.feed if source.batch.takes_more else feed.skip
        held = sum(chunk.lines for chunk in self._open(source.batch))
        while running < most and held < most * SPREAD:
            self._lease.keep()
            after = act(ctx, source)
            if after is None:
                break
            fed = after.read_line - source.batch.read_line
            running, held = running + fed, held + fed
            source = replace(source, batch=after)
        return source

    def _open(self, batch: BatchRecord) -> tuple[ChunkRecord, ...]:
        with self._ctx.db.reading() as session:
            return store.batches.open_chunks(session, batch.id)

    def _again(self, batch: BatchRecord) -> BatchRecord:
        with self._ctx.db.reading() as session:
            return store.batches.by_id(session, batch.id) or batch

    def _source(self, batch: BatchRecord) -> BatchInput:
        with self._ctx.db.reading() as session:
            key = store.keys.by_id(session, batch.key_id)
            file = store.files.of_org(session, batch.org_id, batch.input_file_id)
        if key is None:
            raise NotFound("the key this batch was made with is gone")
        if file is None:
            raise NotFound(
                "the input file is gone; upload it again", code="file_not_found"
            )
        return BatchInput(batch=batch, file=file, key=key)
