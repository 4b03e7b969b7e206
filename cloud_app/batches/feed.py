"""Turns the next lines of a batch into jobs: commits them, then publishes them."""

import hashlib
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice, takewhile
from typing import Any

import msgspec

from cloud_app import store
from cloud_app.api import errors
from cloud_app.batches import lines
from cloud_app.batches.lines import BatchLine
from cloud_app.context import Context
from cloud_app.files import files
from cloud_app.jobs import admission, lifecycle
from cloud_app.store.records import (
    BatchRecord,
    ChunkRecord,
    FileRecord,
    KeyRecord,
    NewJob,
)
from genie import logs
from genie.contracts import codec
from genie.contracts.inference import InferenceTask
from genie.errors import GenieError, NoCapacity, TooLarge, Unavailable

log = logs.logger("batches")

PUBLISHERS = 4
"""Parallel publishes; each waits for the broker's confirm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchInput:
    """A batch, its input, and the key it runs for."""

    batch: BatchRecord
    file: FileRecord
    key: KeyRecord


@dataclass(slots=True)
class PreparedLines:
    """Some lines, their jobs, and the faults of those that cannot become jobs."""

    lines: list[BatchLine] = field(default_factory=list)
    jobs: list[NewJob] = field(default_factory=list)
    refused: dict[str, dict[str, Any]] = field(default_factory=dict)


def job_id(batch: BatchRecord, line: int, run: int = 1) -> str:
    """The id of a line's job: the same in every brain; ``run`` counts from 1.

    It sorts with the batch's id and is as hard to guess.
    """
    name = f"{batch.id}:{line}:{run}".encode()
    digest = hashlib.blake2b(name, digest_size=10).digest()
    milliseconds = int(batch.created_at.timestamp() * 1000)
    return store.ids.encode(milliseconds << 80 | int.from_bytes(digest))


def read(ctx: Context, source: BatchInput, chunk: ChunkRecord) -> tuple[BatchLine, ...]:
    """The lines of an existing chunk."""
    end = chunk.offset + chunk.size_bytes
    with closing(_lines(ctx, source, chunk.offset, chunk.first_line - 1)) as found:
        return tuple(takewhile(lambda line: line.offset < end, found))


def feed(ctx: Context, source: BatchInput) -> BatchRecord | None:
    """Run the next chunk; returns the batch after it, None when none can run."""
    return _commit(ctx, source, prepare(ctx, source, _next(ctx, source)))


def skip(ctx: Context, source: BatchInput) -> BatchRecord | None:
    """Skip the next chunk: its lines will never run."""
    return _commit(ctx, source, PreparedLines(lines=_next(ctx, source)))


def is_at_end(ctx: Context, source: BatchInput) -> bool:
    """True when every line of the input belongs to a chunk."""
    return not _next(ctx, source)


def prepare(
    ctx: Context, source: BatchInput, taken: Iterable[BatchLine], run: int = 1
) -> PreparedLines:
    """The jobs of lines, up to the first line that no machine can serve now."""
    made = PreparedLines()
    for line in taken:
        try:
            made.jobs.append(_job(ctx, source, line, run))
        except NoCapacity as error:
            log.info("batch_waits", batch=source.batch.id, reason=error.message)
            break
        except GenieError as error:
            made.refused[str(line.number)] = codec.builtins(errors.fault_of(error))
        made.lines.append(line)
    return made


def publish(ctx: Context, tasks: Sequence[InferenceTask]) -> None:
    """Publish tasks; the relay publishes those that the broker did not take."""
    with ThreadPoolExecutor(PUBLISHERS) as pool:
        sent = list(pool.map(lambda task: _publish(ctx, task), tasks))
    done = [task.job_id for task, ok in zip(tasks, sent, strict=True) if ok]
    if done:
        with ctx.db.session() as session:
            store.transitions.confirm(session, done, ctx.now())


def _publish(ctx: Context, task: InferenceTask) -> bool:
    try:
        ctx.bus.publish(task)
    except TooLarge as error:
        lifecycle.refuse(ctx, task.job_id, errors.fault_of(error))
        return False
    except Unavailable as error:
        log.warning("publish_waits", job_id=task.job_id, error=str(error))
        return False
    return True


def _lines(
    ctx: Context, source: BatchInput, offset: int, after_line: int
) -> Generator[BatchLine]:
    most = ctx.settings.max_body_bytes
    with files.of(ctx).reading(source.file.path) as opened:
        yield from lines.split_lines(
            opened, most_bytes=most, offset=offset, after_line=after_line
        )


def _next(ctx: Context, source: BatchInput) -> list[BatchLine]:
    """The next lines of the input, as many as fit one chunk."""
    batch, taken, size = source.batch, list[BatchLine](), 0
    if batch.read_offset >= source.file.size_bytes:
        return taken
    with closing(_lines(ctx, source, batch.read_offset, batch.read_line)) as found:
        for line in islice(found, lines.CHUNK_LINES):
            size += len(line.data)
            if taken and size > lines.CHUNK_BYTES:
                break
            taken.append(line)
    return taken


def _job(ctx: Context, source: BatchInput, line: BatchLine, run: int) -> NewJob:
    batch = source.batch
    request = lines.parse(line, batch.endpoint, most_bytes=ctx.settings.max_body_bytes)
    left_s = max(1.0, (batch.expires_at - ctx.now()).total_seconds())
    new = admission.prepare(ctx, lines.order(request, batch, source.key, left_s))
    task = msgspec.structs.replace(new.task, job_id=job_id(batch, line.number, run))
    return replace(new, task=task)


def _commit(
    ctx: Context, source: BatchInput, made: PreparedLines
) -> BatchRecord | None:
    if not made.lines:
        return None
    batch, first, last = source.batch, made.lines[0], made.lines[-1]
    end = last.offset + len(last.data)
    chunk = ChunkRecord(
        batch_id=batch.id,
        number=batch.chunks,
        offset=first.offset,
        size_bytes=end - first.offset,
        first_line=first.number,
        lines=last.number - first.number + 1,
        tries={},
        refused=made.refused,
        part=None,
        has_output=False,
        has_errors=False,
    )
    model = made.jobs[0].task.model if made.jobs else None
    with ctx.db.session() as session:
        if not store.batches.read_on(
            session, batch, offset=end, line=last.number, model=model
        ):
            return None
        store.batches.insert_chunk(session, chunk)
        store.jobs.insert_all(session, made.jobs)
        after = store.batches.by_id(session, batch.id)
    publish(ctx, [new.task for new in made.jobs])
    return after
