"""What happened to one job, in order: from its row, and from noted attempts."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from cloud_app import store
from cloud_app.context import Context
from cloud_app.jobs import lifecycle
from cloud_app.store.records import AnyOrg, JobRecord
from cloud_app.store.transitions import AttemptRecord
from genie import logs
from genie.errors import Unavailable

log = logs.logger("timeline")

LOOK_S = 0.5
"""How often a follower looks at the job."""

EventDetails = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineEntry:
    """One thing that happened; ``id`` names it for ever within its job."""

    id: str
    name: str
    at: datetime
    facts: EventDetails = field(default_factory=dict)


def of(
    job: JobRecord, attempts: tuple[AttemptRecord, ...] = ()
) -> tuple[TimelineEntry, ...]:
    """Accepted, routed, queued, each start, the first token, and the end."""
    decided = job.request.route
    route = {name: decided.get(name) for name in ("model", "queue", "reasons")}
    route["skipped"] = decided.get("skipped", [])
    entries = [
        _entry(
            "accepted", job.created_at, mode=job.mode, retry_of=job.request.retry_of
        ),
        _entry("routed", job.created_at, **route),
    ]
    if job.confirmed_at is not None:
        entries.append(_entry("queued", job.confirmed_at, queue=job.queue))
    entries.extend(_starts(job, attempts))
    if job.first_token_at is not None:
        entries.append(_entry("first_token", job.first_token_at))
    if job.finished_at is not None:
        entries.append(_end(job, job.finished_at))
    return tuple(entries)


def _starts(
    job: JobRecord, attempts: tuple[AttemptRecord, ...]
) -> Iterator[TimelineEntry]:
    begun = [(one.started_at, one.worker) for one in attempts]
    if not begun and job.started_at is not None:
        begun = [(job.started_at, job.worker or "")]
    for number, (at, worker) in enumerate(begun, 1):
        facts: EventDetails = {"attempt": number, "worker": worker or None}
        yield TimelineEntry(id=f"started-{number}", name="started", at=at, facts=facts)


def _end(job: JobRecord, at: datetime) -> TimelineEntry:
    fault, reason = job.outcome.fault, job.outcome.finish_reason
    return _entry(
        job.state.value,
        at,
        attempts=job.attempts,
        worker=job.worker,
        finish_reason=reason and reason.value,
        error={"code": fault.code, "message": fault.message} if fault else None,
    )


def _entry(name: str, at: datetime, **facts: object) -> TimelineEntry:
    known = {key: value for key, value in facts.items() if value is not None}
    return TimelineEntry(id=name, name=name, at=at, facts=known)


def read(
    ctx: Context, org: AnyOrg, job_id: str
) -> tuple[JobRecord, tuple[TimelineEntry, ...]]:
    """A job and its timeline; raises `UnknownJob`."""
    job = lifecycle.get(ctx, org, job_id)
    if job.attempts < 2:
        return job, of(job)
    with ctx.db.reading() as session:
        return job, of(job, store.transitions.attempts_of(session, job.id))


def follow(
    ctx: Context, org: AnyOrg, job_id: str, after: str | None = None
) -> Iterator[TimelineEntry | None]:
    """Every entry later than the one with id ``after``, until the job has ended.

    None stands for a look that saw nothing new. Raises `UnknownJob` at once.
    """
    job, entries = read(ctx, org, job_id)
    return _follow(ctx, job, entries, after)


def _follow(
    ctx: Context, job: JobRecord, entries: tuple[TimelineEntry, ...], after: str | None
) -> Iterator[TimelineEntry | None]:
    told = _until(entries, after)
    while True:
        for entry in entries:
            if entry.id not in told:
                told.add(entry.id)
                yield entry
        if job.state.is_terminal:
            return
        yield None
        time.sleep(LOOK_S)
        try:
            job, entries = read(ctx, job.org, job.id)
        except Unavailable as error:
            log.warning("follower_waits", job_id=job.id, error=str(error))


def _until(entries: tuple[TimelineEntry, ...], last: str | None) -> set[str]:
    """Ids up to and with ``last``; none when it is no id of this timeline."""
    ids = [entry.id for entry in entries]
    return set(ids[: ids.index(last) + 1]) if last in ids else set()
