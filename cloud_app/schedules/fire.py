"""Fires schedules: a due run and its job are written in one transaction."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial

from msgspec import structs
from sqlmodel import Session

from cloud_app import store
from cloud_app.brain import calendar
from cloud_app.brain.calendar import CatchUpPolicy, OverlapPolicy
from cloud_app.context import Context
from cloud_app.jobs import admission, lifecycle, submit
from cloud_app.schedules import schedules
from cloud_app.schedules.schedules import ReadOrder
from cloud_app.store.records import (
    KeyRecord,
    NewJob,
    RunRecord,
    RunState,
    RunTrigger,
    ScheduleRecord,
)
from genie import logs
from genie.errors import BadRequest, GenieError, TooLarge, Unauthorized, Unavailable

log = logs.logger("schedules")

BURST = 100
"""The most schedules that one run of the task looks at."""

MOST_QUEUED = 100
"""The most runs of one schedule that may wait for the previous one."""

LABEL = "schedule"
"""The metadata key that names the schedule of a job."""

PreparedRun = NewJob | str
"""A run's job, or why there is none."""


@dataclass(slots=True, kw_only=True)
class _FiringResult:
    """The decisions of one transaction, acted on after its commit."""

    started: list[NewJob] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)


def fire(ctx: Context, read: ReadOrder) -> int:
    """Start all due runs that nobody has started; returns how many."""
    now = ctx.now()
    with ctx.db.reading() as session:
        due = store.schedules.due(session, now, BURST)
        waiting = store.schedules.waiting(session, BURST)
    started = sum(_guarded(ctx, one, partial(_fire, ctx, read, one)) for one in due)
    for schedule, run in waiting:
        begin = partial(_begin, ctx, read, schedule, run)
        started += _guarded(ctx, schedule, begin)
    return started


def run_now(
    ctx: Context, key: KeyRecord, name_or_id: str, read: ReadOrder
) -> RunRecord:
    """Start a run at once, whatever the clock says and the previous run does.

    Paused schedules run too. Raises what submitting the request would raise.
    """
    schedule = schedules.get(ctx, key.org, name_or_id)
    now = ctx.now()
    new = _prepare(ctx, key, schedule, now, read)
    run = _run(schedule, now, now, RunState.STARTED, new.task.job_id)
    run = replace(run, trigger=RunTrigger.MANUAL)
    with ctx.db.session() as session:
        if not store.schedules.add_run(session, run):
            raise BadRequest("this schedule was run a moment ago; try again")
        lifecycle.record(session, new)
    _act(ctx, schedule, _FiringResult(started=[new]))
    return run


def _guarded(ctx: Context, schedule: ScheduleRecord, work: Callable[[], int]) -> int:
    """Note what keeps a schedule from starting on its row, and go on with others."""
    try:
        return work()
    except Unauthorized as error:
        values = {"paused_at": ctx.now(), "trouble": error.message}
    except GenieError as error:
        values = {"trouble": error.message}
    log.warning("schedule_waits", schedule=schedule.id, reason=values["trouble"])
    if values != {"trouble": schedule.trouble}:
        with ctx.db.session() as session:
            store.schedules.change(session, schedule.id, **values)
    return 0


def _fire(ctx: Context, read: ReadOrder, schedule: ScheduleRecord) -> int:
    if schedule.next_at is None:
        return 0
    now, cron = ctx.now(), schedules.cron_of(schedule)
    decided = calendar.due(
        cron,
        schedule.next_at,
        now,
        CatchUpPolicy(schedule.catch_up),
        partial(schedules.delay, schedule),
    )
    key = _key(ctx, schedule)
    wanted = [(at, _prepared(ctx, key, schedule, at, read)) for at in decided.fire]
    result = _FiringResult()
    with ctx.db.session() as session:
        if not store.schedules.claim(session, schedule):
            return 0
        for at in decided.missed:
            late = f"{(now - at).total_seconds():.0f} s late; catch-up is "
            run = _run(schedule, at, now, RunState.SKIPPED)
            run = replace(run, reason=late + schedule.catch_up)
            store.schedules.add_run(session, run)
        for at, prepared in wanted:
            _decide(session, schedule, at, prepared, now, result)
        store.schedules.change(
            session,
            schedule.id,
            next_at=decided.next_at,
            due_at=schedules.due_at(schedule, decided.next_at),
            trouble=None,
        )
    _act(ctx, schedule, result)
    return len(result.started)


def _decide(
    session: Session,
    schedule: ScheduleRecord,
    at: datetime,
    prepared: PreparedRun,
    now: datetime,
    result: _FiringResult,
) -> None:
    """Record what becomes of the run of ``at``."""
    run = _run(schedule, at, now, RunState.REFUSED)
    if isinstance(prepared, str):
        store.schedules.add_run(session, replace(run, reason=prepared))
        return
    going_on = store.schedules.open_jobs(session, schedule.id)
    queued = store.schedules.count_queued(session, schedule.id)
    overlap = OverlapPolicy(schedule.overlap)
    if going_on and overlap is OverlapPolicy.SKIP:
        run = replace(run, state=RunState.SKIPPED, reason=_busy(going_on))
    elif (going_on or queued) and overlap is OverlapPolicy.QUEUE:
        run = _behind(run, queued, going_on)
    else:
        run = replace(run, state=RunState.STARTED, job_id=prepared.task.job_id)
    if not store.schedules.add_run(session, run) or run.state is not RunState.STARTED:
        return
    lifecycle.record(session, prepared)
    result.started.append(prepared)
    result.replaced.extend(going_on)


def _behind(run: RunRecord, queued: int, going_on: tuple[str, ...]) -> RunRecord:
    if queued < MOST_QUEUED:
        return replace(run, state=RunState.QUEUED, reason=_busy(going_on))
    reason = f"{MOST_QUEUED} runs are already waiting"
    return replace(run, state=RunState.SKIPPED, reason=reason)


def _busy(going_on: tuple[str, ...]) -> str:
    return f"job {going_on[0]} was still running" if going_on else "others wait"


def _begin(
    ctx: Context, read: ReadOrder, schedule: ScheduleRecord, run: RunRecord
) -> int:
    """Start a queued run once the previous one has ended."""
    with ctx.db.reading() as session:
        if store.schedules.open_jobs(session, schedule.id):
            return 0
    key = _key(ctx, schedule)
    prepared = _prepared(ctx, key, schedule, run.fire_at, read)
    now = ctx.now()
    with ctx.db.session() as session:
        if isinstance(prepared, str):
            store.schedules.refuse(session, run.id, prepared, now)
            return 0
        if not store.schedules.start(session, run.id, prepared.task.job_id, now):
            return 0
        lifecycle.record(session, prepared)
    _act(ctx, schedule, _FiringResult(started=[prepared]))
    return 1


def _act(ctx: Context, schedule: ScheduleRecord, result: _FiringResult) -> None:
    """After the commit: cancel replaced jobs, publish started ones."""
    for job_id in result.replaced:
        lifecycle.cancel(ctx, schedule.org, job_id)
    for new in result.started:
        if new.task.job_id in result.replaced:
            continue  # by the run after it, of the same moment
        log.info("schedule_fired", schedule=schedule.id, job_id=new.task.job_id)
        try:
            submit.launch(ctx, new.task)
        except TooLarge as error:  # the job has failed with it
            log.warning("schedule_job_failed", reason=error.message)


def _key(ctx: Context, schedule: ScheduleRecord) -> KeyRecord:
    with ctx.db.reading() as session:
        key = store.keys.by_id(session, schedule.key_id)
    if key is None or key.revoked_at is not None:
        raise Unauthorized(
            "the key this schedule was made with was revoked; create it again with "
            "another key"
        )
    return key


def _prepared(
    ctx: Context,
    key: KeyRecord,
    schedule: ScheduleRecord,
    at: datetime,
    read: ReadOrder,
) -> PreparedRun:
    """The job of a run, or why there can never be one; raises `Unavailable`."""
    try:
        return _prepare(ctx, key, schedule, at, read)
    except Unavailable:
        raise  # nobody can serve it now: the run stays due
    except GenieError as error:
        return error.message


def _prepare(
    ctx: Context,
    key: KeyRecord,
    schedule: ScheduleRecord,
    at: datetime,
    read: ReadOrder,
) -> NewJob:
    order = schedules.order(ctx, key, schedule, at, read)
    metadata = {**order.request.metadata, LABEL: schedule.name}
    request = structs.replace(order.request, metadata=metadata)
    return admission.prepare(ctx, replace(order, request=request))


def _run(
    schedule: ScheduleRecord,
    at: datetime,
    now: datetime,
    state: RunState,
    job_id: str | None = None,
) -> RunRecord:
    return RunRecord(
        id=store.ids.new_id(now),
        schedule_id=schedule.id,
        fire_at=at,
        trigger=RunTrigger.CRON,
        state=state,
        job_id=job_id,
        decided_at=now,
    )
