"""Jobs that did not complete, submitted again as new jobs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Unpack

from msgspec import structs

from cloud_app import store
from cloud_app.api.orders import Mode, Order
from cloud_app.context import Context
from cloud_app.jobs import admission, lifecycle, submit
from cloud_app.store.records import (
    JobFilter,
    JobRecord,
    KeyRecord,
    NewJob,
    WebhookConfig,
)
from genie.contracts.base import part
from genie.contracts.inference import (
    InferenceTask,
    JobState,
    ModelInput,
)
from genie.contracts.model import Capability
from genie.errors import BadRequest, GenieError, Unavailable

STATES = (JobState.FAILED, JobState.CANCELLED, JobState.TIMEOUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryReport:
    """What came of retrying many: the new jobs, and why others were left."""

    jobs: tuple[JobRecord, ...]
    skipped: tuple[tuple[str, str], ...]


def retry(ctx: Context, key: KeyRecord, job_id: str) -> JobRecord:
    """A new job with the prompt of one that did not complete, routed anew.

    Retrying the same job twice gives the same new job; if that one did not complete
    either, another. Raises `UnknownJob`, `BadRequest` and what submitting raises.
    """
    job = lifecycle.get(ctx, key.org, job_id)
    while True:
        new = _again(ctx, key, job)
        made, is_new = lifecycle.accept(ctx, new)
        if is_new:
            submit.launch(ctx, new)
            return made
        if made.state not in STATES:
            return made
        job = made


def retry_all(
    ctx: Context, key: KeyRecord, *, limit: int, **wanted: Unpack[JobFilter]
) -> RetryReport:
    """Retry the newest jobs that match and did not complete.

    Without a state those that failed or timed out. Raises `Unavailable` only when
    nothing could be submitted at all.
    """
    made: dict[str, JobRecord] = {}
    skipped: list[tuple[str, str]] = []
    for job in _matching(ctx, key, limit, wanted):
        try:
            new = retry(ctx, key, job.id)
        except Unavailable as error:
            if not made:
                raise
            skipped.append((job.id, error.message))
        except GenieError as error:
            skipped.append((job.id, error.message))
        else:
            made[new.id] = new
    return RetryReport(jobs=tuple(made.values()), skipped=tuple(skipped))


def _matching(
    ctx: Context, key: KeyRecord, limit: int, wanted: JobFilter
) -> Iterator[JobRecord]:
    state = wanted.get("state")
    states = (JobState.FAILED, JobState.TIMEOUT) if state is None else (state,)
    for one in states:
        narrowed: JobFilter = {**wanted, "state": one}
        yield from lifecycle.find(ctx, key.org, limit=limit, **narrowed)


def _again(ctx: Context, key: KeyRecord, job: JobRecord) -> NewJob:
    task = _kept(job)
    new = admission.prepare(ctx, _order(ctx, key, job, task), may_wait=True)
    decided = {
        name: getattr(new.task, name)
        for name in (
            *("job_id", "org", "queue", "model", "work_class", "locality"),
            *("created_at", "deadline_at", "publication", "crashes", "fingerprint"),
        )
    }
    again = structs.replace(task, reply_to=None, **decided)
    return replace(new, task=again)


def _kept(job: JobRecord) -> InferenceTask:
    if job.state not in STATES:
        raise BadRequest(
            f"job {job.id} is {job.state.value}; only failed, cancelled and timed-out "
            "jobs can be retried",
            code="not_retryable",
            param="id",
        )
    if job.task is None:
        raise BadRequest(
            f"the prompt of job {job.id} is not kept: it was waited for, asked not to "
            "be kept, or is past its retention; submit it again",
            code="not_retryable",
            param="id",
        )
    return job.task


def _order(ctx: Context, key: KeyRecord, job: JobRecord, task: InferenceTask) -> Order:
    persona = ctx.catalog.personas.get(task.persona or "")
    is_climbed = persona is not None and task.model in persona.ladder
    allowed = job.deadline_at - job.created_at
    return Order(
        key=key,
        mode=Mode.ASYNC,
        model=None if is_climbed else task.model,
        persona=persona.name if persona else None,
        input=part(ModelInput, task),
        needed=_needed(task),
        sampling=structs.asdict(task.sampling),
        idempotency_key=f"retry-of-{job.id}",
        body=job.id.encode(),
        deadline_s=allowed.total_seconds(),
        request=structs.replace(job.request, retry_of=job.id),
        webhook=_webhook(ctx, job),
        retain_h=job.retain_h,
    )


def _needed(task: InferenceTask) -> tuple[Capability, ...]:
    if task.inputs:
        return (Capability.EMBED,)
    needed = [Capability.CHAT]
    if task.json_schema is not None:
        needed.append(Capability.JSON)
    if task.tools:
        needed.append(Capability.TOOLS)
    return tuple(needed)


def _webhook(ctx: Context, job: JobRecord) -> WebhookConfig | None:
    with ctx.db.reading() as session:
        told = store.webhooks.of_org(session, job.org, job_id=job.id, limit=1)
    return WebhookConfig(url=told[0].url, secret=told[0].secret) if told else None
