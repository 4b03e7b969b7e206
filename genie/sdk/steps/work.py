"""Work that goes on without anybody: jobs, what receivers were told, what is kept."""

from typing import TypedDict

from genie.api_types import ApiObject, JobAnswer, JobEvent, read, read_list
from genie.sdk.chat import check
from genie.sdk.jobs import PATH
from genie.sdk.requests import Steps, get, item_path, post
from genie.sdk.results import strip_job_id_prefix

DELIVERIES = "/v1/webhook-deliveries"
RETENTION = "/v1/retention"


class JobListFilters(TypedDict, total=False):
    """Which jobs to list; each is optional."""

    state: str | None
    persona: str | None
    model: str | None
    worker: str | None
    """A worker's name or id."""
    since: float | None
    """Only newer ones; seconds since 1970."""
    limit: int
    """At most so many; 20 unless given, 200 at most."""
    after: str | None
    """The id of the last job of the page before."""


class RetryFilters(TypedDict, total=False):
    """Which jobs to retry; each is optional."""

    state: str | None
    """``failed``, ``timeout`` or ``cancelled``; the first two unless given."""
    persona: str | None
    model: str | None
    worker: str | None
    since: float | None
    limit: int


class SkippedJob(ApiObject, frozen=True):
    """A job that could not be retried, and why."""

    id: str
    why: str


class RetryAnswer(ApiObject, frozen=True):
    """The new jobs of a retry of many, and those that were left."""

    data: tuple[JobAnswer, ...] = ()
    skipped: tuple[SkippedJob, ...] = ()


class DeliveryAnswer(ApiObject, frozen=True):
    """One webhook delivery; times are seconds since 1970."""

    id: str
    status: str
    event: str | None = None
    job_id: str | None = None
    url: str | None = None
    attempts: int = 0
    response_status: int | None = None
    error: str | None = None
    created_at: float | None = None
    ended_at: float | None = None


class RetentionAnswer(ApiObject, frozen=True):
    """How many hours texts are kept: what the org says, and what comes of it."""

    hours: int | None = None
    kept_h: float = 0.0


class _TimelineResponse(ApiObject, frozen=True):
    timeline: tuple[JobEvent, ...] = ()


def jobs(filters: JobListFilters) -> Steps[tuple[JobAnswer, ...]]:
    """One page of jobs."""
    check(filters, JobListFilters)
    params = {name: str(v) for name, v in filters.items() if v is not None}
    return read_list(JobAnswer, (yield get(PATH, params)))


def retry_jobs(filters: RetryFilters) -> Steps[RetryAnswer]:
    """Retry the newest jobs that match and did not complete."""
    check(filters, RetryFilters)
    wanted = {name: value for name, value in filters.items() if value is not None}
    call = post(f"{PATH}/retry", wanted, safe=True)
    return read(RetryAnswer, (yield call))


def timeline(job_id: str) -> Steps[tuple[JobEvent, ...]]:
    """What happened to a job so far."""
    call = get(item_path(PATH, strip_job_id_prefix(job_id)), {"timeline": "true"})
    return read(_TimelineResponse, (yield call)).timeline


def deliveries(job: str | None, limit: int) -> Steps[tuple[DeliveryAnswer, ...]]:
    """Webhook deliveries, newest first."""
    params = {"limit": str(limit)} | ({"job": strip_job_id_prefix(job)} if job else {})
    return read_list(DeliveryAnswer, (yield get(DELIVERIES, params)))


def redeliver(delivery_id: str) -> Steps[DeliveryAnswer]:
    """Tell a webhook again."""
    call = post(f"{item_path(DELIVERIES, delivery_id)}/redeliver", safe=True)
    return read(DeliveryAnswer, (yield call))


def retention() -> Steps[RetentionAnswer]:
    """How long texts are kept."""
    return read(RetentionAnswer, (yield get(RETENTION)))


def set_retention(hours: int | None) -> Steps[RetentionAnswer]:
    """Keep texts for so many hours."""
    call = post(RETENTION, {"hours": hours}, method="PUT", safe=True)
    return read(RetentionAnswer, (yield call))
