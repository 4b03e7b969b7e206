"""Schedules: made, looked at, run now, paused, resumed, removed."""

from datetime import datetime
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field

from cloud_app.api.json import of_record
from cloud_app.api.requests import RequestModel, WebhookInput
from cloud_app.brain import calendar
from cloud_app.brain.calendar import CatchUpPolicy, OverlapPolicy
from cloud_app.schedules import schedules
from cloud_app.schedules.schedules import NewSchedule
from cloud_app.store.records import RunRecord, ScheduleRecord
from cloud_app.web.request import blueprint, context, key
from genie.api_types import (
    DeletedSchedule,
    RunAnswer,
    RunList,
    ScheduleAnswer,
    ScheduleList,
    ScheduleSummary,
    Webhook,
)
from genie.errors import BadRequest

UPCOMING = 3
RUNS_MAX = 200

S = TypeVar("S", bound=ScheduleSummary)

api = blueprint("schedules", "schedules", prefix="/v1/schedules")


class SchedulePath(BaseModel):
    """Which schedule."""

    schedule: str = Field(max_length=80, description="Its name or id.")


class RunsQuery(BaseModel):
    """How many of its newest runs."""

    limit: int = Field(20, ge=1, le=RUNS_MAX)


class ScheduleRequest(RequestModel):
    """A schedule to make."""

    name: str = Field(
        min_length=1,
        max_length=80,
        description="How you call it; unique in the org.",
        examples=["news"],
    )
    cron: str = Field(
        max_length=200,
        description="minute hour day month weekday, or @hourly @daily @weekly "
        "@monthly @yearly.",
        examples=["30 7 * * 1-5"],
    )
    timezone: str = Field(
        "UTC",
        max_length=60,
        description="Like Europe/Berlin.",
        examples=["Europe/Berlin"],
    )
    request: dict[str, Any] = Field(
        description="A body of /v1/chat/completions. Texts in it may hold {{date}} "
        "{{time}} {{weekday}} {{week}} {{month}} {{year}} {{yesterday}} {{tomorrow}} "
        "{{fire_at}} {{now}} {{schedule}}.",
        examples=[
            {
                "model": "chat",
                "messages": [{"role": "user", "content": "News of {{date}}?"}],
            }
        ],
    )
    webhook: WebhookInput | None = None
    overlap: OverlapPolicy = Field(
        OverlapPolicy.SKIP,
        strict=False,
        description="What a run does while the one before goes on.",
    )
    catch_up: CatchUpPolicy = Field(
        CatchUpPolicy.LAST,
        strict=False,
        description="Which missed runs are made up for.",
    )
    jitter_s: float = Field(
        0.0, ge=0, le=3600, description="Runs start up to so many seconds later."
    )


@api.post("")
def create_schedule(body: ScheduleRequest) -> tuple[ScheduleSummary, Literal[201]]:
    """Make a schedule; its first run is the next one from now."""
    if "webhook" in body.request:
        raise BadRequest(
            "request.webhook: give the webhook beside the request, not in it",
            param="request.webhook",
        )
    hook = body.webhook
    new = NewSchedule(
        name=body.name,
        cron=body.cron,
        timezone=body.timezone,
        request=body.request,
        webhook=hook.webhook() if hook else None,
        overlap=body.overlap,
        catch_up=body.catch_up,
        jitter_s=body.jitter_s,
    )
    made = schedules.create(context(), key(), new)
    return _shown(made), 201


@api.get("")
def list_schedules() -> ScheduleList:
    """Every schedule of this org, by name."""
    found = schedules.find(context(), key().org)
    return ScheduleList(data=tuple(map(_shown, found)))


@api.get("/<schedule>")
def get_schedule(path: SchedulePath) -> ScheduleAnswer:
    """One schedule, its next runs in words, and what became of the last."""
    found = schedules.get(context(), key().org, path.schedule)
    runs = tuple(map(run_answer, schedules.runs(context(), found)))
    return schedule_answer(ScheduleAnswer, found, context().now(), runs=runs)


@api.get("/<schedule>/runs")
def list_runs(path: SchedulePath, query: RunsQuery) -> RunList:
    """The newest runs of a schedule, newest first."""
    found = schedules.get(context(), key().org, path.schedule)
    runs = schedules.runs(context(), found, query.limit)
    return RunList(data=tuple(map(run_answer, runs)))


@api.post("/<schedule>/run")
def run_schedule(path: SchedulePath) -> tuple[RunAnswer, Literal[202]]:
    """Start a run at once, paused or not, whatever the run before does."""
    run = schedules.run_now(context(), key(), path.schedule)
    return run_answer(run), 202


@api.post("/<schedule>/pause")
def pause_schedule(path: SchedulePath) -> ScheduleSummary:
    """Start nothing until it is resumed."""
    return _shown(schedules.pause(context(), key().org, path.schedule))


@api.post("/<schedule>/resume")
def resume_schedule(path: SchedulePath) -> ScheduleSummary:
    """Go on with the next run from now."""
    return _shown(schedules.resume(context(), key().org, path.schedule))


@api.delete("/<schedule>")
def delete_schedule(path: SchedulePath) -> DeletedSchedule:
    """Remove a schedule; its jobs stay."""
    gone = schedules.remove(context(), key().org, path.schedule)
    return DeletedSchedule(id=gone.id)


def _shown(schedule: ScheduleRecord) -> ScheduleSummary:
    return schedule_answer(ScheduleSummary, schedule, context().now())


def schedule_answer(
    kind: type[S], schedule: ScheduleRecord, now: datetime, **given: object
) -> S:
    """A schedule as the API shows it, without the webhook's secret."""
    cron = schedules.cron_of(schedule)
    hook, is_paused = schedule.webhook, schedule.paused_at is not None
    if is_paused:
        given["next_at"] = None
    return of_record(
        kind,
        schedule,
        in_words=calendar.explain(cron),
        next_runs=() if is_paused else calendar.upcoming(cron, now, UPCOMING),
        paused=is_paused,
        webhook=Webhook(url=hook.url) if hook else None,
        **given,
    )


def run_answer(run: RunRecord) -> RunAnswer:
    """One run of a schedule."""
    return of_record(RunAnswer, run, status=run.state)
