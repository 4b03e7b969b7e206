"""Schedules: requests made at the times of a cron line, each run exactly once.

Any number of brains may fire at once: a run's row, its job and the
schedule's next moment are written in one transaction that only one brain wins.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from cloud_app import store
from cloud_app.api.orders import Order
from cloud_app.brain import calendar, template
from cloud_app.brain.calendar import CatchUpPolicy, Cron, OverlapPolicy
from cloud_app.context import Context
from cloud_app.jobs import admission
from cloud_app.orgs import auth
from cloud_app.store.records import (
    AnyOrg,
    KeyRecord,
    RunRecord,
    ScheduleRecord,
    WebhookConfig,
    slug_of,
)
from cloud_app.webhooks import webhooks
from genie.errors import BadRequest, Conflict, NotFound

RequestBody = dict[str, Any]

ReadOrder = Callable[[RequestBody, KeyRecord], Order]
"""Turns a request body (parsed JSON) into an order; raises `BadRequest`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSchedule:
    """A schedule to be made. ``request`` is a chat body that may hold variables."""

    name: str
    cron: str
    timezone: str = "UTC"
    request: RequestBody
    webhook: WebhookConfig | None = None
    overlap: OverlapPolicy = OverlapPolicy.SKIP
    catch_up: CatchUpPolicy = CatchUpPolicy.LAST
    jitter_s: float = 0.0


def create(
    ctx: Context, key: KeyRecord, new: NewSchedule, read: ReadOrder
) -> ScheduleRecord:
    """Make a schedule; its first run is the next one from now.

    The request is filled in and checked as if it ran now. Raises `BadRequest`,
    `UnknownModel`, and `Conflict` for a name that is taken.
    """
    now = ctx.now()
    cron = calendar.parse(new.cron, new.timezone)
    next_at = next_run_after(cron, now)
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
    _check(ctx, key, schedule, read)
    return _insert(ctx, schedule)


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
    with ctx.db.session() as session:
        at = schedule.paused_at or ctx.now()
        store.schedules.change(session, schedule.id, paused_at=at)
    return get(ctx, org, schedule.id)


def resume(ctx: Context, org: AnyOrg, name_or_id: str) -> ScheduleRecord:
    """Continue with the next run from now; missed runs are not made up for."""
    schedule = get(ctx, org, name_or_id)
    if schedule.paused_at is None:
        return schedule
    next_at = next_run_after(cron_of(schedule), ctx.now())
    moments = {"next_at": next_at, "due_at": due_at(schedule, next_at)}
    with ctx.db.session() as session:
        store.schedules.change(
            session, schedule.id, paused_at=None, trouble=None, **moments
        )
    return get(ctx, org, schedule.id)


def remove(ctx: Context, org: AnyOrg, name_or_id: str) -> ScheduleRecord:
    """Delete a schedule and the record of its runs; their jobs stay."""
    schedule = get(ctx, org, name_or_id)
    with ctx.db.session() as session:
        store.schedules.remove(session, schedule.id)
    return schedule


def order(
    ctx: Context,
    key: KeyRecord,
    schedule: ScheduleRecord,
    at: datetime,
    read: ReadOrder,
) -> Order:
    """The request of the run of ``at``, with its variables filled in."""
    zone = cron_of(schedule).zone
    local, now = at.astimezone(zone), ctx.now().astimezone(zone)
    filled = template.fill_all(schedule.request, local, now, schedule.name)
    assert isinstance(filled, dict)  # noqa: S101  # a dict is filled to a dict
    hook = schedule.webhook
    if hook is not None:
        filled["webhook"] = {"url": hook.url, "secret": hook.secret}
    return read(filled, key)


def cron_of(schedule: ScheduleRecord) -> Cron:
    """The schedule's cron line and time zone."""
    return calendar.parse(schedule.cron, schedule.timezone)


def next_run_after(cron: Cron, moment: datetime) -> datetime | None:
    """The first run after a moment; None when there is none."""
    return next(calendar.after(cron, moment), None)


def delay(schedule: ScheduleRecord, run: datetime) -> timedelta:
    """How much later than scheduled a run starts, by its jitter."""
    return calendar.jitter(schedule.id, run, schedule.jitter_s)


def due_at(schedule: ScheduleRecord, run: datetime | None) -> datetime | None:
    """When a run starts, jitter included."""
    return None if run is None else run + delay(schedule, run)


def _check(
    ctx: Context, key: KeyRecord, schedule: ScheduleRecord, read: ReadOrder
) -> None:
    asked = order(ctx, key, schedule, schedule.next_at or ctx.now(), read)
    admission.resolve(ctx.catalog, asked.model, asked.persona)
    if schedule.webhook is not None:
        webhooks.check(ctx, schedule.webhook)


def _insert(ctx: Context, schedule: ScheduleRecord) -> ScheduleRecord:
    schedule = replace(schedule, due_at=due_at(schedule, schedule.next_at))
    with ctx.db.session() as session:
        if store.schedules.insert(session, schedule):
            return schedule
    raise Conflict(
        f"there is already a schedule {schedule.name!r}; remove it with "
        "`genie schedule rm`, or choose another name",
        param="name",
        code="schedule_exists",
    )
