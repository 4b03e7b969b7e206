"""Jobs: what was submitted, how far it is, and how to stop it."""

from contextlib import closing
from datetime import UTC, datetime
from typing import Annotated, Literal

from flask import Response, g, request
from pydantic import BaseModel, Field

from cloud_app import store
from cloud_app.api import responses
from cloud_app.api.json import of_record
from cloud_app.api.requests import NulFreeText, RequestModel
from cloud_app.jobs import lifecycle, submit, timeline
from cloud_app.jobs.job_json import entry_json, job_details, job_json
from cloud_app.jobs.stream import JobListener
from cloud_app.jobs.timeline import TimelineEntry
from cloud_app.store.records import DeliveryRecord, JobFilter, JobRecord
from cloud_app.web import streaming
from cloud_app.web.openapi import EVENTS, HeaderSpec, ResponseSpec
from cloud_app.web.request import (
    blueprint,
    context,
    key,
    only_waits,
    take_place,
    tell,
)
from cloud_app.webhooks import webhooks
from genie.api_types import (
    ChatChunk,
    DeliveryAnswer,
    DeliveryList,
    ErrorBody,
    JobAnswer,
    JobDetails,
    JobEvent,
    JobList,
    RetryAnswer,
    SkippedJob,
    TextCompletion,
)
from genie.contracts.inference import JobState

PAGE_MAX = 200

api = blueprint("jobs", "jobs", prefix="/v1/jobs")


class JobPath(BaseModel):
    """Which job."""

    job_id: str = Field(max_length=64, description="With or without its prefix.")


class JobsQuery(BaseModel):
    """Which jobs; newest first."""

    state: JobState | None = None
    persona: str | None = None
    model: str | None = None
    label: str | None = None
    worker: str | None = Field(None, description="A worker's name or id.")
    since: float | None = Field(None, ge=0, le=2**33, description="Unix seconds.")
    ids: str | None = Field(
        None,
        max_length=PAGE_MAX * 28,
        pattern=r"^[A-Za-z0-9_,-]*$",
        description="Only these, with commas between them.",
    )
    limit: int = Field(20, ge=1, le=PAGE_MAX)
    after: str | None = Field(None, max_length=64, description="The last id seen.")


class RetryRequest(RequestModel):
    """Which jobs to retry: the newest that match and did not complete."""

    state: Literal["failed", "timeout", "cancelled"] | None = Field(
        None, description="failed and timeout unless given."
    )
    persona: NulFreeText | None = None
    model: NulFreeText | None = None
    label: NulFreeText | None = None
    worker: NulFreeText | None = Field(None, description="A worker's name or id.")
    since: float | None = Field(None, ge=0, le=2**33, description="Unix seconds.")
    limit: int = Field(100, ge=1, le=PAGE_MAX)


class JobQuery(BaseModel):
    """What to show of one job."""

    timeline: bool = Field(False, description="Also when what happened.")


@api.get("")
def list_jobs(query: JobsQuery) -> JobList:
    """List this org's jobs, newest first."""
    wanted = _filter(query)
    if query.ids is not None:
        wanted["ids"] = tuple(store.ids.bare(one) for one in query.ids.split(","))
    limit, after = query.limit + 1, query.after
    found = lifecycle.find(
        context(), key().org.slug, limit=limit, after=after, **wanted
    )
    page = found[: query.limit]
    return JobList(data=tuple(map(job_json, page)), has_more=len(found) > len(page))


@api.post("/retry")
def retry_jobs(body: RetryRequest) -> RetryAnswer:
    """Submit again, as new jobs, those that match and did not complete."""
    found = submit.retry_all(context(), key(), limit=body.limit, **_filter(body))
    skipped = tuple(SkippedJob(id=job_id, why=why) for job_id, why in found.skipped)
    return RetryAnswer(data=tuple(map(job_json, found.jobs)), skipped=skipped)


def _filter(query: JobsQuery | RetryRequest) -> JobFilter:
    since = None if query.since is None else datetime.fromtimestamp(query.since, UTC)
    state = JobState(query.state) if query.state else None
    return {
        "state": state,
        "persona": query.persona,
        "model": query.model,
        "label": query.label,
        "worker": query.worker,
        "since": since,
    }


@api.get("/<job_id>")
def get_job(path: JobPath, query: JobQuery) -> JobAnswer | JobDetails:
    """One job: its status and, when it is completed, its result."""
    if not query.timeline:
        job = lifecycle.get(context(), key().org.slug, path.job_id)
        return _delivered(job, job_json(job))
    job, entries = timeline.read(context(), key().org.slug, path.job_id)
    return _delivered(job, job_details(job, entries))


GOES_ON = HeaderSpec("Last-Event-ID", "The id of the last event seen: go on after it.")


@api.get("/<job_id>/events")
def follow_job(
    path: JobPath,
) -> Annotated[Response, ResponseSpec(JobEvent, media=EVENTS), GOES_ON]:
    """The job's timeline as server-sent events, until it ends.

    Send the id of the last event seen as Last-Event-ID to go on after it.
    """
    last = request.headers.get("Last-Event-ID")
    entries = timeline.follow(context(), key().org.slug, path.job_id, last)
    with take_place() as held:
        only_waits()
        return streaming.answer(map(_event, entries), held)


def _event(entry: TimelineEntry | None) -> bytes:
    if entry is None:
        return streaming.comment("nothing new")
    return streaming.event(entry.id, entry.name, entry_json(entry))


@api.get("/<job_id>/stream")
def stream_job(
    path: JobPath,
) -> Annotated[
    Response, ResponseSpec(ChatChunk | TextCompletion | ErrorBody, media=EVENTS)
]:
    """The job's answer as server-sent events, while it is written; from its start.

    Leaving does not stop the job.
    """
    job = lifecycle.get(context(), key().org.slug, path.job_id)
    tell(job)
    listening = JobListener(context(), job)
    plan = streaming.StreamPlan(
        dialect=responses.TEXT if job.request.route.get("is_plain") else responses.CHAT,
        job=job,
        includes_usage=True,
        request_id=g.request_id,
        n=listening.answers,
    )
    with take_place() as held:
        items = held.enter_context(closing(listening.items()))
        only_waits()
        return streaming.answer(streaming.frames(plan, items), held)


@api.post("/<job_id>/retry")
def retry_job(path: JobPath) -> tuple[JobAnswer, Literal[202]]:
    """Submit a job that did not complete again; doing it twice is doing it once."""
    return _answer(submit.retry(context(), key(), path.job_id)), 202


@api.post("/<job_id>/cancel")
def cancel_job(path: JobPath) -> JobAnswer:
    """Stop a job; one that already ended stays as it is."""
    return _answer(lifecycle.cancel(context(), key().org.slug, path.job_id))


@api.delete("/<job_id>")
def delete_job(path: JobPath) -> JobAnswer:
    """Stop a job; the same as cancel."""
    return _answer(lifecycle.cancel(context(), key().org.slug, path.job_id))


def _answer(job: JobRecord) -> JobAnswer:
    tell(job)
    return job_json(job)


def _delivered(job: JobRecord, shown: JobAnswer) -> JobAnswer:
    tell(job)
    lifecycle.mark_delivered(context(), job)
    return shown


deliveries_api = blueprint("webhooks", "webhooks", prefix="/v1/webhook-deliveries")


class DeliveryPath(BaseModel):
    """Which delivery: what its X-Genie-Delivery said."""

    delivery_id: str = Field(max_length=64)


class DeliveriesQuery(BaseModel):
    """Which deliveries; newest first."""

    job: str | None = Field(None, max_length=64, description="Only of this job.")
    limit: int = Field(20, ge=1, le=200)


@deliveries_api.get("")
def list_deliveries(query: DeliveriesQuery) -> DeliveryList:
    """This org's webhook deliveries of the last week, newest first."""
    org, limit = key().org, query.limit
    found = webhooks.find(context(), org, job_id=query.job, limit=limit)
    data = tuple(map(delivery_answer, found))
    return DeliveryList(data=data, has_more=len(data) == limit)


@deliveries_api.post("/<delivery_id>/redeliver")
def redeliver(path: DeliveryPath) -> tuple[DeliveryAnswer, Literal[202]]:
    """Send one that was delivered or given up again, now."""
    again = webhooks.redeliver(context(), key().org, path.delivery_id)
    return delivery_answer(again), 202


def delivery_answer(delivery: DeliveryRecord) -> DeliveryAnswer:
    """A delivery as the API shows it, without its secret."""
    status, heard = delivery.state, delivery.status
    return of_record(DeliveryAnswer, delivery, status=status, response_status=heard)
