"""Drives batches: each is leased to one brain and taken one step per second."""

import random
import time
from dataclasses import dataclass
from datetime import timedelta

from cloud_app import store
from cloud_app.batches import check, close, collect, feed
from cloud_app.batches.feed import BatchInput
from cloud_app.context import Context
from cloud_app.store.records import BatchRecord, ChunkRecord, FileRecord
from genie import logs
from genie.contracts.batch import BatchState
from genie.errors import NotFound, Unavailable

log = logs.logger("batching")

LEASE = timedelta(seconds=6)
"""How long the batch of a killed brain waits for another brain.

Two brains that drive one batch after a stall only do work twice: each step is a
compare-and-set.
"""

RENEW_AFTER_S = 1.5
AT_ONCE = 100
SPREAD = 4
"""Chunks may hold this many times the lines in flight: a slow line stops no other."""

_random = random.SystemRandom()


class LeaseLost(Unavailable):
    """Another brain took over the batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveReport:
    """What one round of the driver did."""

    driven: int
    written: int


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


def drive(ctx: Context) -> DriveReport:
    """Take one step of every batch that no other brain drives."""
    with ctx.db.reading() as session:
        waiting = list(store.batches.to_drive(session, AT_ONCE))
    _random.shuffle(waiting)  # brains meet less, and none waits behind a broken one
    driven = written = 0
    for batch_id in waiting:
        lease = BatchLease(ctx, batch_id, store.ids.new_id())
        batch = lease.take()
        if batch is None:
            continue
        try:
            written += _BatchStep(ctx, lease).advance(batch)
            driven += 1
        except Unavailable as error:
            log.warning("batch_waits", batch=batch_id, reason=error.message)
        finally:
            lease.release()
    return DriveReport(driven=driven, written=written)


class _BatchStep:
    """One step of one batch; each part leaves a state from which the next continues."""

    def __init__(self, ctx: Context, lease: BatchLease) -> None:
        self._ctx, self._lease = ctx, lease

    def advance(self, batch: BatchRecord) -> int:
        """Do what can be done now; returns how many chunks were written."""
        if batch.state.is_terminal:
            close.remove_leftovers(self._ctx, batch)
            return 0
        try:
            source = self._source(batch)
            return self._drive(source)
        except NotFound as error:
            mistake = {"code": error.error_code, "message": error.message}
            close.fail(self._ctx, batch, [{**mistake, "param": None, "line": None}])
            return 0

    def _drive(self, source: BatchInput) -> int:
        ctx, batch = self._ctx, source.batch
        if ctx.now() >= batch.expires_at and batch.closing is None:
            close.expire(ctx, batch)
            batch = self._again(batch)
        if batch.state is BatchState.VALIDATING:
            batch = self._check(source)
        if batch.in_progress_at is None:
            self._end_early(batch)
            return 0
        return self._run(BatchInput(batch=batch, file=source.file, key=source.key))

    def _end_early(self, batch: BatchRecord) -> None:
        """End a batch that was stopped before any line ran."""
        if batch.closing is not None:
            close.end(self._ctx, batch)

    def _check(self, source: BatchInput) -> BatchRecord:
        batch = source.batch
        found = check.check(self._ctx, batch, source.file, self._lease.keep)
        if found is None:
            return batch
        if found.errors:
            close.fail(self._ctx, batch, found.errors)
            return self._again(batch)
        with self._ctx.db.session() as session:
            store.batches.move(
                session,
                batch.id,
                [BatchState.VALIDATING],
                state=BatchState.IN_PROGRESS.value,
                in_progress_at=self._ctx.now(),
                total=found.total,
                model=found.model,
            )
        return self._again(batch)

    def _run(self, source: BatchInput) -> int:
        ctx, batch = self._ctx, source.batch
        chunks = self._open(batch)
        if batch.closing is not None:
            close.stop(ctx, batch, chunks)
        written, running = self._collect(source, chunks)
        source = self._feed(source, running)
        if not self._open(batch) and feed.is_at_end(ctx, source):
            close.finish(ctx, source)
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
            source = BatchInput(batch=after, file=source.file, key=source.key)
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
        return BatchInput(batch=batch, file=_there(file), key=key)


def _there(file: FileRecord | None) -> FileRecord:
    if file is None:
        raise NotFound("the input file is gone; upload it again", code="file_not_found")
    return file
