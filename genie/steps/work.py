"""Work that goes on without anybody: jobs, what receivers were told, what is kept."""

from typing import TypedDict

from genie.answers import Answer, JobAnswer, JobEvent, read, read_list
from genie.calls import Steps, get, post, under
from genie.chat import check
from genie.jobs import PATH
from genie.results import bare

DELIVERIES = "/v1/webhook-deliveries"
RETENTION = "/v1/retention"


class Filters(TypedDict, total=False):
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


class SkippedJob(Answer, frozen=True):
    """A job that could not be retried, and why."""

    id: str
    why: str


class RetriedAnswer(Answer, frozen=True):
    """The new jobs of a retry of many, and those that were left."""

    data: tuple[JobAnswer, ...] = ()
    skipped: tuple[SkippedJob, ...] = ()


class DeliveryAnswer(Answer, frozen=True):
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


class RetentionAnswer(Answer, frozen=True):
    """How many hours texts are kept: what the org says, and what comes of it."""

    hours: int | None = None
    kept_h: float = 0.0


class _Timeline(Answer, frozen=True):
    timeline: tuple[JobEvent, ...] = ()


def jobs(filters: Filters) -> Steps[tuple[JobAnswer, ...]]:
    """One page of jobs."""
    check(filters, Filters)
    params = {name: str(v) for name, v in filters.items() if v is not None}
    return read_list(JobAnswer, (yield get(PATH, params)))


def retry_jobs(filters: RetryFilters) -> Steps[RetriedAnswer]:
    """Retry the newest jobs that match and did not complete."""
    check(filters, RetryFilters)
    wanted = {name: value for name, value in filters.items() if value is not None}
    call = post(f"{PATH}/retry", wanted, safe=True)
    return read(RetriedAnswer, (yield call))


def timeline(job_id: str) -> Steps[tuple[JobEvent, ...]]:
    """What happened to a job so far."""
    call = get(under(PATH, bare(job_id)), {"timeline": "true"})
    return read(_Timeline, (yield call)).timeline


def deliveries(job: str | None, limit: int) -> Steps[tuple[DeliveryAnswer, ...]]:
    """Webhook deliveries, newest first."""
    params = {"limit": str(limit)} | ({"job": bare(job)} if job else {})
    return read_list(DeliveryAnswer, (yield get(DELIVERIES, params)))


def redeliver(delivery_id: str) -> Steps[DeliveryAnswer]:
    """Tell a webhook again."""
    call = post(f"{under(DELIVERIES, delivery_id)}/redeliver", safe=True)
    return read(DeliveryAnswer, (yield call))


def retention() -> Steps[RetentionAnswer]:
    """How long texts are kept."""
    return read(RetentionAnswer, (yield get(RETENTION)))


def set_retention(hours: int | None) -> Steps[RetentionAnswer]:
    """Keep texts for so many hours."""
    call = post(RETENTION, {"hours": hours}, method="PUT", safe=True)
    return read(RetentionAnswer, (yield call))
