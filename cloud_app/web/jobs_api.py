"""Jobs: what was submitted, how far it is, and how to stop it."""

from datetime import UTC, datetime

from flask import Response, jsonify
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, ConfigDict, Field

from cloud_app import asking, jobs
from cloud_app.store.records import JobRecord
from cloud_app.web import answers, errors
from cloud_app.web.answers import Json
from cloud_app.web.request import context, key, require_key, tell
from genie import codec
from genie.contracts.inference import JobState

PAGE_MAX = 200

api = APIBlueprint(
    "jobs",
    __name__,
    url_prefix="/v1/jobs",
    abp_tags=[Tag(name="jobs", description="Work that was accepted")],
    abp_security=[{"key": []}],
    abp_responses=errors.RESPONSES,
)
api.before_request(require_key)


class JobPath(BaseModel):
    """Which job."""

    job_id: str = Field(max_length=64, description="With or without its prefix.")


class JobsQuery(BaseModel):
    """Which jobs; newest first."""

    model_config = ConfigDict(extra="ignore")

    state: JobState | None = None
    persona: str | None = None
    model: str | None = None
    worker: str | None = Field(None, description="A worker's name or id.")
    since: float | None = Field(None, ge=0, le=2**33, description="Unix seconds.")
    limit: int = Field(20, ge=1, le=PAGE_MAX)
    after: str | None = Field(None, max_length=64, description="The last id seen.")


@api.get("")
def list_jobs(query: JobsQuery) -> Response:
    """List this org's jobs, newest first."""
    since = None if query.since is None else datetime.fromtimestamp(query.since, UTC)
    found = jobs.find(
        context(),
        key().org.slug,
        state=query.state,
        persona=query.persona,
        model=query.model,
        worker=query.worker,
        since=since,
        limit=query.limit + 1,
        after=query.after,
    )
    page = found[: query.limit]
    return jsonify(
        {
            "object": "list",
            "data": [job_json(job) for job in page],
            "has_more": len(found) > len(page),
        }
    )


@api.get("/<job_id>")
def get_job(path: JobPath) -> Response:
    """One job: its status and, when it is completed, its result."""
    return _answer(jobs.get(context(), key().org.slug, path.job_id))


@api.post("/<job_id>/cancel")
def cancel_job(path: JobPath) -> Response:
    """Stop a job; one that already ended stays as it is."""
    return _answer(jobs.cancel(context(), key().org.slug, path.job_id))


@api.delete("/<job_id>")
def delete_job(path: JobPath) -> Response:
    """Stop a job; the same as cancel."""
    return _answer(jobs.cancel(context(), key().org.slug, path.job_id))


def _answer(job: JobRecord) -> Response:
    tell(job)
    return jsonify(job_json(job))


def job_json(job: JobRecord) -> Json:
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
        "created_at": _unix(job.created_at),
        "started_at": _unix(job.started_at),
        "first_token_at": _unix(job.first_token_at),
        "finished_at": _unix(job.finished_at),
        "deadline_at": _unix(job.deadline_at),
        "attempts": job.attempts,
        "usage": answers.usage(job.usage) if job.usage else None,
        "timing": codec.builtins(job.timing) if job.timing else None,
        "error": codec.builtins(job.fault) if job.fault else None,
        "route": job.route,
        "result": _result(job),
        "metadata": job.metadata,
    }


def _result(job: JobRecord) -> Json | None:
    """The answer, None before the end and after it was purged."""
    if job.state is not JobState.COMPLETED or job.text is None:
        return None
    outcome = asking.outcome_of(job)
    if outcome.extras and outcome.extras.vectors:
        return answers.vectors(job, outcome)
    return answers.whole(answers.CHAT, job, outcome)


def _unix(at: datetime | None) -> float | None:
    return None if at is None else round(at.timestamp(), 3)
