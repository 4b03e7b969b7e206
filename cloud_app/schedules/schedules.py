"""Schedules: requests made at the times of a cron line, each run exactly once.

Any number of brains may fire at once: a run's row, its job and the
schedule's next moment are written in one transaction that only one brain wins.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from msgspec import structs
from sqlmodel import Session

from cloud_app import store
from cloud_app.api.orders import Order, of_request
from cloud_app.brain import calendar, template
from cloud_app.brain.calendar import CatchUpPolicy, Cron, OverlapPolicy
from cloud_app.context import Context
from cloud_app.jobs import admission, lifecycle, submit
from cloud_app.orgs import auth
from cloud_app.store.records import (
    AnyOrg,
    KeyRecord,
    NewJob,
    RunRecord,
    RunState,
    RunTrigger,
    ScheduleRecord,
    WebhookConfig,
    slug_of,
)
from cloud_app.webhooks import webhooks
from genie import logs
from genie.errors import (
    BadRequest,
    Conflict,
    GenieError,
    NotFound,
    TooLarge,
    Unauthorized,
    Unavailable,
)

log = logs.logger("schedules")

BURST = 100
"""The most schedules that one run of the task looks at."""

MOST_QUEUED = 100
"""The most runs of one schedule that may wait for the previous one."""

LABEL = "schedule"
"""The metadata key that names the schedule of a job."""

PreparedRun = NewJob | str
"""A run's job, or why there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSchedule:
    """A schedule to be made. ``request`` is a chat body that may hold variables."""

    name: str
    cron: str
    timezone: str = "UTC"
    request: dict[str, Any]
    webhook: WebhookConfig | None = None
    overlap: OverlapPolicy = OverlapPolicy.SKIP
    catch_up: CatchUpPolicy = CatchUpPolicy.LAST
    jitter_s: float = 0.0


def create(ctx: Context, key: KeyRecord, new: NewSchedule) -> ScheduleRecord:
    """Make a schedule; its first run is the next one from now.

    The request is filled in and checked as if it ran now. Raises `BadRequest`,
    `UnknownModel`, and `Conflict` for a name that is taken.
    """
    now = ctx.now()
    cron = calendar.parse(new.cron, new.timezone)
    next_at = next(calendar.after(cron, now), None)
    if next_at is None:
        raise BadRequest("cron: this date never comes; fix day and month", param="cron")
    schedule = ScheduleRecord(
        id=store.ids.new_id(now),
        org=key.org,
        key_id=key.id,
        name=auth.validate_name(new.name),
        cron=cron.line,
        timezone=cron.zone.key,
        request=new.request,
        webhook=new.webhook,
        overlap=new.overlap.value,
        catch_up=new.catch_up.value,
        jitter_s=new.jitter_s,
        created_at=now,
        next_at=next_at,
        due_at=None,
    )
    asked = _order(ctx, key, schedule, next_at)
    admission.resolve(ctx.catalog, asked.model, asked.persona)
    if schedule.webhook is not None:
        webhooks.check(ctx, schedule.webhook)
    return _insert(ctx, replace(schedule, **_moments(schedule, next_at)))


def _insert(ctx: Context, schedule: ScheduleRecord) -> ScheduleRecord:
    with ctx.db.session() as session:
        if store.schedules.insert(session, schedule):
            return schedule
    raise Conflict(
        f"there is already a schedule {schedule.name!r}; remove it with "
        "`genie schedule rm`, or choose another name",
        param="name",
        code="schedule_exists",
    )


def get(ctx: Context, org: AnyOrg, name_or_id: str) -> ScheduleRecord:
    """The schedule of an org with this name or id; raises `NotFound`."""
    with ctx.db.reading() as session:
        found = store.schedules.of_org(session, slug_of(org), name_or_id)
    if found is None:
        raise NotFound(
            f"there is no schedule {name_or_id[:80]!r} in this org; `genie schedule "
            "list` lists them",
            param="schedule",
        )
    return found


def find(ctx: Context, org: AnyOrg) -> tuple[ScheduleRecord, ...]:
    """Every schedule of an org, by name."""
    with ctx.db.reading() as session:
        return store.schedules.all_of_org(session, slug_of(org))


def runs(
    ctx: Context, schedule: ScheduleRecord, limit: int = 20
) -> tuple[RunRecord, ...]:
    """The newest runs of a schedule, newest first."""
    with ctx.db.reading() as session:
        return store.schedules.runs(session, schedule.id, limit)


def pause(ctx: Context, org: AnyOrg, name_or_id: str) -> ScheduleRecord:
    """Start no runs until it is resumed; running jobs go on."""
    schedule = get(ctx, org, name_or_id)
    _change(ctx, schedule, paused_at=schedule.paused_at or ctx.now())
    return get(ctx, org, schedule.id)


def resume(ctx: Context, org: AnyOrg, name_or_id: str) -> ScheduleRecord:
    """Continue with the next run from now; missed runs are not made up for."""
    schedule = get(ctx, org, name_or_id)
    if schedule.paused_at is None:
        return schedule
    next_at = next(calendar.after(cron_of(schedule), ctx.now()), None)
    moments = _moments(schedule, next_at)
    _change(ctx, schedule, paused_at=None, trouble=None, **moments)
    return get(ctx, org, schedule.id)


def remove(ctx: Context, org: AnyOrg, name_or_id: str) -> ScheduleRecord:
    """Delete a schedule and the record of its runs; their jobs stay."""
    schedule = get(ctx, org, name_or_id)
    with ctx.db.session() as session:
        store.schedules.remove(session, schedule.id)
    return schedule


def _change(ctx: Context, schedule: ScheduleRecord, **values: Any) -> None:
    with ctx.db.session() as session:
        store.schedules.change(session, schedule.id, **values)


def cron_of(schedule: ScheduleRecord) -> Cron:
    """The schedule's cron line and time zone."""
    return calendar.parse(schedule.cron, schedule.timezone)


def delay(schedule: ScheduleRecord, run: datetime) -> timedelta:
    """How much later than scheduled a run starts, by its jitter."""
    return calendar.jitter(schedule.id, run, schedule.jitter_s)


def run_now(ctx: Context, key: KeyRecord, name_or_id: str) -> RunRecord:
    """Start a run at once, whatever the clock says and the previous run does.

    Paused schedules run too. Raises what submitting the request would raise.
    """
    schedule = get(ctx, key.org, name_or_id)
    now = ctx.now()
    new = admission.prepare(ctx, _order(ctx, key, schedule, now))
    run = _run(schedule, now, now, RunState.STARTED, new.task.job_id)
    run = replace(run, trigger=RunTrigger.MANUAL)
    with ctx.db.session() as session:
        if not store.schedules.add_run(session, run):
            raise BadRequest("this schedule was run a moment ago; try again")
        lifecycle.record(session, new)
    _act(ctx, schedule, _FiringResult(started=[new]))
    return run


def fire(ctx: Context) -> int:
    """Start all due runs that nobody has started; returns how many."""
    now = ctx.now()
    with ctx.db.reading() as session:
        due = store.schedules.due(session, now, BURST)
        waiting = store.schedules.waiting(session, BURST)
    started = sum(_guarded(ctx, one, partial(_fire, ctx, one)) for one in due)
    for schedule, run in waiting:
        begin = partial(_begin, ctx, schedule, run)
        started += _guarded(ctx, schedule, begin)
    return started


@dataclass(slots=True, kw_only=True)
class _FiringResult:
    """The decisions of one transaction, acted on after its commit."""

    started: list[NewJob] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)


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
        _change(ctx, schedule, **values)
    return 0


def _fire(ctx: Context, schedule: ScheduleRecord) -> int:
    if schedule.next_at is None:
        return 0
    now, cron = ctx.now(), cron_of(schedule)
    decided = calendar.due(
        cron,
        schedule.next_at,
        now,
        CatchUpPolicy(schedule.catch_up),
        partial(delay, schedule),
    )
    key = _key(ctx, schedule)
    wanted = [(at, _prepared(ctx, key, schedule, at)) for at in decided.fire]
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
            trouble=None,
            **_moments(schedule, decided.next_at),
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


def _begin(ctx: Context, schedule: ScheduleRecord, run: RunRecord) -> int:
    """Start a queued run once the previous one has ended."""
    with ctx.db.reading() as session:
        if store.schedules.open_jobs(session, schedule.id):
            return 0
    key = _key(ctx, schedule)
    prepared = _prepared(ctx, key, schedule, run.fire_at)
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
    ctx: Context, key: KeyRecord, schedule: ScheduleRecord, at: datetime
) -> PreparedRun:
    """The job of a run, or why there can never be one; raises `Unavailable`."""
    try:
        return admission.prepare(ctx, _order(ctx, key, schedule, at))
    except Unavailable:
        raise  # nobody can serve it now: the run stays due
    except GenieError as error:
        return error.message


def _order(
    ctx: Context, key: KeyRecord, schedule: ScheduleRecord, at: datetime
) -> Order:
    """The request of the run of ``at``, with its variables filled in."""
    zone = cron_of(schedule).zone
    local, now = at.astimezone(zone), ctx.now().astimezone(zone)
    filled = template.fill_all(schedule.request, local, now, schedule.name)
    assert isinstance(filled, dict)  # noqa: S101  # a dict is filled to a dict
    hook = schedule.webhook
    if hook is not None:
        filled["webhook"] = {"url": hook.url, "secret": hook.secret}
    order = of_request(filled, key)
    metadata = {**order.request.metadata, LABEL: schedule.name}
    return replace(order, request=structs.replace(order.request, metadata=metadata))


def _moments(schedule: ScheduleRecord, run: datetime | None) -> dict[str, Any]:
    """The next run, and when it starts: its jitter later."""
    due_at = None if run is None else run + delay(schedule, run)
    return {"next_at": run, "due_at": due_at}


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
