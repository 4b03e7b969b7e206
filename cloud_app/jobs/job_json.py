"""Jobs and runs as the API shows them, and as webhooks tell of them."""

from datetime import datetime
from typing import cast

from cloud_app.api import responses
from cloud_app.api.bodies.inference import ChatCompletion, Embeddings, TextCompletion
from cloud_app.api.bodies.work import Event, Job
from cloud_app.api.json import dumps
from cloud_app.jobs import stream
from cloud_app.jobs.timeline import TimelineEntry
from cloud_app.store.records import DeliveryRecord, JobRecord
from genie.contracts import codec
from genie.contracts.inference import JobState


def job_json(job: JobRecord) -> Job:
    """A job as the API shows it; moments in unix seconds."""
    return {
        "id": job.id,
        "object": "job",
        "status": job.state.value,
        "mode": job.mode,
        "persona": job.persona,
        "model": job.model,
        "worker": job.worker,
        "locality": job.locality,
        "model_substituted": job.substituted,
        "created_at": unix(job.created_at),
        "started_at": unix(job.started_at),
        "first_token_at": unix(job.first_token_at),
        "finished_at": unix(job.finished_at),
        "deadline_at": unix(job.deadline_at),
        "attempts": job.attempts,
        "retry_of": job.retry_of,
        "retain": job.retain_h,
        "usage": responses.usage(job.usage) if job.usage else None,
        "timing": codec.shown(job.timing) if job.timing else None,
        "error": codec.shown(job.fault) if job.fault else None,
        "route": job.route,
        "result": _result(job),
        "metadata": job.metadata,
    }


def _result(job: JobRecord) -> ChatCompletion | TextCompletion | Embeddings | None:
    """The answer, None before the end and after it was purged."""
    if job.state is not JobState.COMPLETED or job.text is None:
        return None
    outcome = stream.outcome_of(job)
    if outcome.extras and outcome.extras.vectors:
        return responses.vectors(job, outcome)
    if job.route.get("is_plain"):
        return cast(TextCompletion, responses.whole(responses.TEXT, job, outcome))
    return cast(ChatCompletion, responses.whole(responses.CHAT, job, outcome))


def unix(at: datetime | None) -> float | None:
    """A moment in seconds since 1970, to the millisecond."""
    return None if at is None else round(at.timestamp(), 3)


def entry_json(entry: TimelineEntry) -> Event:
    """One line of a job's timeline."""
    told = {"event": entry.name, "at": unix(entry.at), **entry.facts}
    return cast(Event, told)  # the facts of each name are the timeline's to choose


def webhook_payload(delivery: DeliveryRecord, job: JobRecord) -> bytes:
    """What a webhook is told of a job's end; the bytes that are signed."""
    event = {
        "id": delivery.id,
        "object": "event",
        "type": delivery.event,
        "created_at": unix(job.finished_at),
        "data": job_json(job),
    }
    return dumps(event).encode()
