"""Jobs and their events as the API shows them, and as webhooks tell of them."""

from typing import Any, cast

import msgspec

from cloud_app.api import responses
from cloud_app.api.json import encode, unix
from cloud_app.jobs import stream
from cloud_app.jobs.timeline import TimelineEntry
from cloud_app.store.records import DeliveryRecord, JobRecord
from genie.api_types import (
    AnyCompletion,
    EmbeddingsAnswer,
    JobAnswer,
    JobDetails,
    JobEvent,
    JobFault,
    JobTiming,
    RouteAnswer,
    WebhookEvent,
    from_contract,
)
from genie.contracts.inference import JobState


def job_json(job: JobRecord) -> JobAnswer:
    """A job as the API shows it; moments in unix seconds."""
    ended = job.outcome
    return JobAnswer(
        id=job.id,
        status=job.state,
        mode=job.mode,
        persona=job.persona,
        model=job.model,
        worker=job.worker,
        locality=job.request.locality,
        model_substituted=job.request.substituted,
        created_at=unix(job.created_at),
        started_at=unix(job.started_at),
        first_token_at=unix(job.first_token_at),
        finished_at=unix(job.finished_at),
        deadline_at=unix(job.deadline_at),
        attempts=job.attempts,
        retry_of=job.request.retry_of,
        retain=job.retain_h,
        usage=responses.usage(ended.usage) if ended.usage else None,
        timing=from_contract(JobTiming, ended.timing) if ended.timing else None,
        error=from_contract(JobFault, ended.fault) if ended.fault else None,
        route=route_answer(job.request.route),
        result=_result(job),
        label=job.request.label,
        metadata=job.request.metadata,
    )


def job_details(job: JobRecord, timeline: tuple[TimelineEntry, ...]) -> JobDetails:
    """The same with what happened to it."""
    events = tuple(map(entry_json, timeline))
    return JobDetails(**msgspec.structs.asdict(job_json(job)), timeline=events)


def route_answer(route: dict[str, Any]) -> RouteAnswer:
    """A decision as `failures.explain` noted it, without notes of our own."""
    return from_contract(RouteAnswer, route)


def _result(job: JobRecord) -> AnyCompletion | EmbeddingsAnswer | None:
    """The answer, None before the end and after it was purged."""
    if job.state is not JobState.COMPLETED or job.outcome.text is None:
        return None
    outcome = stream.outcome_of(job)
    if outcome.extras and outcome.extras.vectors:
        return responses.vectors(job, outcome)
    dialect = responses.TEXT if job.request.route.get("is_plain") else responses.CHAT
    return responses.whole(dialect, job, outcome)


def entry_json(entry: TimelineEntry) -> JobEvent:
    """One line of a job's timeline."""
    # What is known is written, an empty list too: so these stay the lists they are.
    facts = cast(dict[str, Any], entry.facts)
    return JobEvent(event=entry.name, at=round(entry.at.timestamp(), 3), **facts)


def webhook_payload(delivery: DeliveryRecord, job: JobRecord) -> bytes:
    """What a webhook is told of a job's end; the bytes that are signed."""
    event = WebhookEvent(
        id=delivery.id,
        type=delivery.event,
        created_at=unix(job.finished_at),
        data=job_json(job),
    )
    return encode(event)
