"""The whole fleet at one moment, in one answer: what `genie top` draws."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, ConfigDict, Field

from cloud_app.api import errors
from cloud_app.jobs.job_json import unix
from cloud_app.store import reports
from cloud_app.store.reports import JobTimes
from cloud_app.web.fleet import queues_now, workers_now
from cloud_app.web.pages import figures, routing
from cloud_app.web.pages.routing import RoutingReason
from cloud_app.web.request import context, key, require_admin
from genie.api_types import FiguresAnswer, FleetAnswer, JobLine, ReasonAnswer
from genie.contracts.inference import JobState

api = APIBlueprint(
    "overview",
    __name__,
    url_prefix="/v1",
    abp_tags=[Tag(name="admin", description="For admin keys")],
    abp_security=[{"key": []}],
    abp_responses=errors.RESPONSES,
)
api.before_request(require_admin)


class FleetQuery(BaseModel):
    """How much to show."""

    model_config = ConfigDict(extra="ignore")

    jobs: int = Field(20, ge=0, le=200, description="So many jobs at most.")


@api.get("/fleet")
def show_fleet(query: FleetQuery) -> FleetAnswer:
    """The whole fleet now: figures, workers, queues, jobs, where personas go."""
    ctx, org = context(), key().org
    now = ctx.now()
    jobs = reports.since(ctx.db, org, now - figures.HOUR)
    found = routing.routing_reasons(ctx, key(), figures.shares(jobs, now))
    return FleetAnswer(
        org=org.slug,
        now=round(now.timestamp(), 3),
        figures=_figures(jobs, now),
        workers=workers_now(),
        queues=queues_now(),
        jobs=tuple(map(_line, _running_first(jobs)[: query.jobs])),
        routes=tuple(map(_route, found)),
    )


def _figures(jobs: Sequence[JobTimes], now: datetime) -> FiguresAnswer:
    ctx = context()
    counts = reports.counts(ctx.db, key().org, now - figures.HOUR)
    minute = now - timedelta(seconds=figures.NOW_S)
    rate = figures.tokens_between(jobs, minute, now) / figures.NOW_S
    return FiguresAnswer(
        tokens_per_s=round(rate, 1),
        running=counts[JobState.RUNNING],
        waiting=counts[JobState.QUEUED],
        first_token_p95_s=figures.first_token_p95_s(jobs, now),
        failed_1h=sum(counts[state] for state in figures.FAILURES),
    )


def _running_first(jobs: Sequence[JobTimes]) -> list[JobTimes]:
    return sorted(jobs, key=lambda job: job.state is not JobState.RUNNING)


def _line(job: JobTimes) -> JobLine:
    return JobLine(
        id=job.id,
        status=job.state,
        persona=job.persona,
        model=job.model,
        worker=job.worker,
        created_at=round(job.created_at.timestamp(), 3),
        started_at=unix(job.started_at),
        finished_at=unix(job.finished_at),
        tokens=job.tokens,
    )


def _route(found: RoutingReason) -> ReasonAnswer:
    return ReasonAnswer(
        personas=found.personas,
        model=found.model,
        share=None if found.share is None else round(found.share, 3),
        first_token_p95_s=found.first_token_p95_s,
        why=found.why,
    )
