"""Jobs: accepted once, run at least once, ended once.

The database is the record. Every change is a compare-and-set there, so that any number
of processes may see the same event and only the first one counts.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Unpack

from sqlmodel import Session

from cloud_app import store
from cloud_app.context import Context
from cloud_app.store.records import (
    AnyOrg,
    JobFilter,
    JobRecord,
    NewJob,
    QueuePosition,
    slug_of,
)
from cloud_app.store.transitions import ClosedJob, JobCompletion, OpenJobState
from genie import logs
from genie.contracts.inference import (
    AttemptGivenBack,
    AttemptStarted,
    Fault,
    InferenceTask,
    JobState,
    Outcome,
    RecordedEvent,
)
from genie.errors import BadRequest, BrokerDown, Conflict, TooLarge, UnknownJob

log = logs.logger("jobs")

RELAY_AFTER = timedelta(seconds=5)
RELAY_AGAIN_AFTER = timedelta(seconds=15)
RELAY_LIMIT, RELAY_ROUNDS = 100, 20
GRACE = timedelta(seconds=30)
SWEEP_LIMIT = 500
_MAX_KEY = 255

ATTEMPTS_MAX = 3
"""Attempts nobody accounts for; one more start and the job is poison. An attempt whose
worker lives to say that it gave the message back, or lost it, is accounted for."""

POISON = Fault(
    code="poison",
    message=f"{ATTEMPTS_MAX} attempts ended without an answer, most likely because "
    "this prompt crashes the engine; change the prompt or name another model",
)
INTERRUPTED = Fault(
    code="interrupted",
    message="the fleet was restarted before this was answered; ask again",
    retryable=True,
)
OVERDUE = Fault(
    code="job_timeout",
    message="the job passed its deadline before a worker finished it; submit it again, "
    "or add a machine with `genie worker join`",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepReport:
    """What one sweep did: jobs timed out, jobs whose texts were forgotten."""

    timed_out: int
    purged: int


def accept(ctx: Context, new: NewJob) -> tuple[JobRecord, bool]:
    """Record a job before anyone publishes it; True when it is a new one.

    The same idempotency key with the same body gives the job it made, with another
    body `Conflict`.
    """
    _check_key(new.idempotency_key)
    if _insert(ctx, new):
        return store.jobs.of_new(new), True
    slug, key = new.org.slug, new.idempotency_key
    with ctx.db.reading() as session:
        job = key and store.jobs.by_idempotency_key(session, slug, key)
    if not job:
        raise Conflict(f"job {new.task.job_id} exists already", param="id")
    if job.body_sha256 != new.body_sha256:
        raise Conflict(
            "this Idempotency-Key was used for another request; send a new key",
            param="Idempotency-Key",
        )
    return job, False


def _insert(ctx: Context, new: NewJob) -> bool:
    if new.webhook is None:
        return store.jobs.insert_alone(ctx.db, new)
    with ctx.db.session() as session:
        return record(session, new)


def record(session: Session, new: NewJob) -> bool:
    """`accept` within the transaction of something else; False: it is there already.

    Whoever calls it publishes after the commit.
    """
    is_new = store.jobs.insert_all(session, [new]) == 1
    if is_new and new.webhook is not None:
        job_id, now = new.task.job_id, new.task.created_at
        store.webhooks.await_job(session, new.org, new.webhook, job_id, now)
    return is_new


def mark_confirmed(ctx: Context, job_id: str) -> None:
    """The broker has the job's message: the relay need not publish it."""
    with ctx.db.session() as session:
        store.transitions.confirm(session, [job_id], ctx.now())


def refuse(ctx: Context, job_id: str, fault: Fault) -> None:
    """The job could not be published and will not be: it failed."""
    _close(ctx, job_id, JobState.FAILED, fault)


def _close(
    ctx: Context, job_id: str, state: JobState, fault: Fault
) -> tuple[ClosedJob, ...]:
    with ctx.db.session() as session:
        return store.transitions.close(session, [job_id], state, ctx.now(), fault=fault)


def apply(ctx: Context, event: RecordedEvent) -> bool:
    """Record what a worker says of a job; False when it changed nothing.

    The first terminal outcome wins; later ones are counted and dropped.
    """
    if not store.ids.is_id(event.job_id):
        log.warning("event_of_no_job", kind=type(event).__name__)
        return False
    event = store.transitions.storable(event)
    if isinstance(event, AttemptStarted):
        return _start(ctx, event)
    if isinstance(event, AttemptGivenBack):
        return _give_back(ctx, event)
    return _end(ctx, event)


def abort(ctx: Context, job: JobRecord, fault: Fault) -> None:
    """End a job as failed from the cloud's side, and stop whoever runs it."""
    _stop(ctx, _close(ctx, job.id, JobState.FAILED, fault))


def cancel(ctx: Context, org: AnyOrg, job_id: str) -> JobRecord:
    """End an org's job as cancelled and tell the workers that may hold it.

    A job that ended before stays as it is; raises `UnknownJob`.
    """
    job_id, slug = store.ids.bare(job_id), slug_of(org)
    with ctx.db.session() as session:
        closed = store.transitions.close(
            session, [job_id], JobState.CANCELLED, ctx.now(), org=slug
        )
        job = store.jobs.of_org(session, slug, job_id)
    if job is None:
        raise _unknown(job_id)
    _stop(ctx, closed)
    return job


def get(ctx: Context, org: AnyOrg, job_id: str) -> JobRecord:
    """A job of an org, its id with or without prefix; raises `UnknownJob`."""
    with ctx.db.reading() as session:
        job = store.jobs.of_org(session, slug_of(org), store.ids.bare(job_id))
    if job is None:
        raise _unknown(job_id)
    return job


def place(ctx: Context, job: JobRecord) -> QueuePosition:
    """How far an open job is, in one cheap query; raises `UnknownJob`."""
    with ctx.db.reading() as session:
        found = store.jobs.place(session, job)
    if found is None:
        raise _unknown(job.id)
    return found


def find(
    ctx: Context,
    org: AnyOrg,
    *,
    limit: int = 20,
    after: str | None = None,
    **wanted: Unpack[JobFilter],
) -> tuple[JobRecord, ...]:
    """Jobs of an org, newest first; ``after`` is the last id of the page before.

    ``wanted`` may name state, persona, model, worker (its name or id) and since.
    """
    last = store.ids.bare(after) if after else None
    with ctx.db.reading() as session:
        return store.jobs.find(session, slug_of(org), limit=limit, after=last, **wanted)


def mark_delivered(ctx: Context, job: JobRecord) -> None:
    """Whoever asked has the answer; one that is not to be kept is forgotten soon."""
    if job.retain_h != 0 or not job.state.is_terminal:
        return
    with ctx.db.session() as session:
        store.backlog.delivered(session, job.id, ctx.now())


def relay(ctx: Context) -> int:
    """Publish async jobs that were committed and never confirmed; how many went out.

    Round after round while they go: a broker that was away for a minute leaves more
    than one round, and what is accepted meanwhile must not come faster than it goes.
    """
    published = 0
    for _ in range(RELAY_ROUNDS):
        now = ctx.now()
        with ctx.db.session() as session:
            tasks = store.backlog.claim_unconfirmed(
                session,
                before=now - RELAY_AFTER,
                now=now,
                again_before=now - RELAY_AGAIN_AFTER,
                limit=RELAY_LIMIT,
            )
        sent = _publish_all(ctx, tasks)
        published += sent
        if sent < RELAY_LIMIT:
            break
    return published


def reopen(ctx: Context) -> int:
    """After a restart that emptied an in-memory queue: put open jobs right; how many.

    Async jobs are queued again, for the relay; those that somebody waited for failed.
    Only a process that is web, brain and broker in one may call this.
    """
    with ctx.db.session() as session:
        return store.transitions.recover(session, now=ctx.now(), fault=INTERRUPTED)


def sweep(ctx: Context) -> SweepReport:
    """Time out jobs past their deadline and forget texts past their retention."""
    now = ctx.now()
    with ctx.db.session() as session:
        overdue = store.transitions.time_out(
            session, before=now - GRACE, now=now, fault=OVERDUE, limit=SWEEP_LIMIT
        )
        purged = store.backlog.purge(
            session, retain_h=ctx.settings.retain_h, now=now, limit=SWEEP_LIMIT
        )
    stop_workers(ctx, overdue)
    return SweepReport(timed_out=len(overdue), purged=purged)


def _check_key(key: str | None) -> None:
    if key is None or (0 < len(key) <= _MAX_KEY and key.isprintable()):
        return
    raise BadRequest(
        f"Idempotency-Key must be 1 to {_MAX_KEY} printable characters",
        param="Idempotency-Key",
    )


def _start(ctx: Context, event: AttemptStarted) -> bool:
    now = ctx.now()
    with ctx.db.session() as session:
        if event.redelivered:
            store.transitions.note_attempt(session, event, now)
        attempts = store.transitions.start(session.connection(), event, now)
        is_poison = _exceeds_attempt_limit(session, event.job_id, attempts or 0)
        if is_poison:
            store.transitions.close(
                session, [event.job_id], JobState.FAILED, now, fault=POISON
            )
        job = None if attempts else store.jobs.by_id(session, event.job_id)
    if is_poison:
        log.error("job_poison", job_id=event.job_id, worker=event.worker)
    if is_poison or (job is not None and job.state.is_terminal):
        # it ended, perhaps while its message waited: the worker need not finish it
        _tell(ctx, event.worker_id, event.job_id)
    return attempts is not None


def _give_back(ctx: Context, event: AttemptGivenBack) -> bool:
    with ctx.db.session() as session:
        if event.goes_on:
            return store.transitions.lose_attempt(session, event, ctx.now())
        return store.transitions.give_back(session, event)


def _end(ctx: Context, outcome: Outcome) -> bool:
    if not outcome.state.is_terminal:
        log.warning("outcome_not_terminal", job_id=outcome.job_id)
        return False
    with ctx.db.session() as session:
        end = JobCompletion(outcome=outcome)
        if store.transitions.end(session.connection(), [end], ctx.now()):
            return True
        is_known = store.transitions.drop(session, outcome.job_id)
    log.info("outcome_dropped", job_id=outcome.job_id, is_known=is_known)
    return False


def _stop(ctx: Context, closed: Sequence[ClosedJob]) -> None:
    """Tell the worker that runs a job, or every worker that may take it, to stop."""
    stop_workers(ctx, closed)
    for job in closed:
        if job.worker_id is not None:
            continue
        with ctx.db.reading() as session:
            holding = store.workers.holding(session, job.model)
        for worker_id, queues in holding:
            if job.queue in queues:
                _tell(ctx, worker_id, job.job_id)


def stop_workers(ctx: Context, closed: Iterable[ClosedJob]) -> None:
    """Tell the workers that run these ended jobs to stop."""
    for job in closed:
        if job.worker_id is not None:
            _tell(ctx, job.worker_id, job.job_id)


def _tell(ctx: Context, worker_id: str, job_id: str) -> None:
    """Best effort: the record has ended, an answer that comes anyway is dropped."""
    try:
        ctx.bus.cancel(worker_id, job_id)
    except BrokerDown as error:
        log.warning("cancel_not_sent", job_id=job_id, error=str(error))


def _publish_all(ctx: Context, tasks: tuple[InferenceTask, ...]) -> int:
    for sent, task in enumerate(tasks):
        if task.deadline_at <= ctx.now():
            _close(ctx, task.job_id, JobState.TIMEOUT, OVERDUE)
            continue
        try:
            ctx.bus.publish(task)
        except BrokerDown as error:
            log.warning("relay_waits", left=len(tasks) - sent, error=str(error))
            return sent
        except TooLarge as error:
            fault = Fault(code=error.error_code, message=error.message)
            refuse(ctx, task.job_id, fault)
            continue
        mark_confirmed(ctx, task.job_id)
    return len(tasks)


def _unknown(job_id: str) -> UnknownJob:
    return UnknownJob(
        f"there is no job {job_id} in this org; `genie jobs` lists what there is",
        param="id",
    )


def _exceeds_attempt_limit(session: Session, job_id: str, attempts: int) -> bool:
    """True when the latest of so many ``attempts`` is one too many."""
    if attempts <= ATTEMPTS_MAX:
        return False
    return attempts - store.transitions.lost_attempts(session, job_id) > ATTEMPTS_MAX


def record_batch(ctx: Context, events: Sequence[RecordedEvent]) -> Sequence[int]:
    """Record in one transaction what can be; the places of the others, in order.

    Those are to be given to `apply`, one by one. Raises `DatabaseDown`, with nothing
    recorded then.
    """
    if len(events) == 1:
        return () if _is_ended(ctx, events[0]) else (0,)
    said: dict[str, list[int]] = defaultdict(list)
    for place, event in enumerate(events):
        said[event.job_id].append(place)
    changes: list[AttemptStarted | JobCompletion] = []
    left: list[int] = []
    with ctx.db.connection() as connection:
        ids = [job_id for job_id in said if store.ids.is_id(job_id)]
        standings = store.transitions.lock(connection, ids)
        for job_id, places in said.items():
            plain = _plain(standings.get(job_id), [events[place] for place in places])
            changes += plain or ()
            left += places if plain is None else ()
        starts = [one for one in changes if isinstance(one, AttemptStarted)]
        ends = [one for one in changes if isinstance(one, JobCompletion)]
        store.transitions.start_all(connection, starts, ctx.now())
        store.transitions.end(connection, ends, ctx.now())
    return sorted(left)


def _is_ended(ctx: Context, event: RecordedEvent) -> bool:
    """True when this is how an open job has completed, and that is recorded now."""
    if not isinstance(event, Outcome) or event.state is not JobState.COMPLETED:
        return False
    if not store.ids.is_id(event.job_id):
        return False
    end = JobCompletion(outcome=store.transitions.storable(event))
    with ctx.db.single() as connection:
        return store.transitions.end(connection, [end], ctx.now()) == 1


def _plain(
    standing: OpenJobState | None, events: Sequence[RecordedEvent]
) -> Sequence[AttemptStarted | JobCompletion] | None:
    """What is to be recorded of a job's events; None: they are not plain (pure)."""
    start, end = _pair(map(store.transitions.storable, events))
    if standing is None or (start is None and end is None):
        return None
    is_new = start is not None and start.attempt_id != standing.attempt_id
    attempts = standing.attempts + is_new
    if attempts > ATTEMPTS_MAX:
        return None
    if end is None:
        return (start,) if start and is_new else ()
    attempt_id = start.attempt_id if start else standing.attempt_id
    attempts = max(1, attempts)
    return (JobCompletion(outcome=end, attempts=attempts, attempt_id=attempt_id),)


def _pair(
    events: Iterable[RecordedEvent],
) -> tuple[AttemptStarted | None, Outcome | None]:
    """A start, an end, or a start and its end; nothing for anything else."""
    match tuple(events):
        case (AttemptStarted(redelivered=False) as start,):
            return start, None
        case (Outcome(state=JobState.COMPLETED) as end,):
            return None, end
        case (
            AttemptStarted(redelivered=False) as start,
            Outcome(state=JobState.COMPLETED) as end,
        ) if start.attempt_id == end.attempt_id:
            return start, end
    return None, None
