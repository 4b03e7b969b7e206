"""One request from the door to its answer: look, decide, record, act; and once more."""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Unpack

from msgspec import structs

from cloud_app import store
from cloud_app.api.orders import Mode, Order
from cloud_app.bus import JobInbox
from cloud_app.context import Context
from cloud_app.jobs import admission, failures, lifecycle
from cloud_app.jobs.stream import AnswerText, JobStream, QueueWait
from cloud_app.store.records import (
    JobFilter,
    JobRecord,
    KeyRecord,
    NewJob,
    WebhookConfig,
)
from genie import logs
from genie.contracts.base import part
from genie.contracts.inference import (
    Fault,
    InferenceTask,
    JobState,
    ModelInput,
    Outcome,
    Sampling,
)
from genie.errors import BadRequest, GenieError, JobCancelled, JobFailed, Unavailable

log = logs.logger("submit")

STATES = (JobState.FAILED, JobState.CANCELLED, JobState.TIMEOUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmittedJob:
    """A job in the database and, unless replayed, in its queue."""

    job: JobRecord
    replayed: bool
    inbox: JobInbox | None
    task: InferenceTask | None = None
    """What was published; None of a replay."""

    @property
    def repeats(self) -> bool:
        """False when another try would give another answer: it samples at random."""
        sampling = self.task.sampling if self.task else Sampling(seed=0)
        return sampling.temperature == 0 or sampling.seed is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletedJob:
    """How a waited-for job ended well."""

    job: JobRecord
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryReport:
    """What came of retrying many: the new jobs, and why others were left."""

    jobs: tuple[JobRecord, ...]
    skipped: tuple[tuple[str, str], ...]


def submit(ctx: Context, order: Order) -> SubmittedJob:
    """Accept an order: decided, committed, published; confirmed if nobody waits.

    Raises `UnknownModel`, `BadRequest`, `Conflict`, `TooLarge`, `NoCapacity`,
    `BrokerDown` and `DatabaseDown`; after an error nothing runs.
    """
    new = admission.prepare(ctx, order, may_wait=order.mode is Mode.ASYNC)
    task = new.task
    job, created = lifecycle.accept(ctx, new)
    if not created:
        return SubmittedJob(job=job, replayed=True, inbox=None)
    inbox = ctx.replies.expect(job.id) if order.mode is not Mode.ASYNC else None
    _publish(ctx, task, order.mode, is_first=True)
    return SubmittedJob(job=job, replayed=False, inbox=inbox, task=task)


def launch(ctx: Context, task: InferenceTask) -> None:
    """Publish an async job that is committed; the relay does it if that fails now.

    Raises `TooLarge`, with the job then failed.
    """
    _publish(ctx, task, Mode.ASYNC)


def stream(
    ctx: Context, accepted: SubmittedJob
) -> Generator[QueueWait | AnswerText | Outcome, None, None]:
    """The answer as it comes, ending with its `Outcome`.

    Closing the iterator early cancels the job. A worker that died mid-answer is
    followed by the next one: spliced where it repeats the text already given, and
    asked to go on after it where it cannot.
    """
    job, task = accepted.job, accepted.task
    again = partial(_publish, ctx, task, Mode.STREAM) if task else lambda: None
    watch = JobStream(ctx, job, accepted.inbox, repeats=accepted.repeats, publish=again)
    is_over = False
    try:
        for item in watch.items():
            is_over = isinstance(item, Outcome)
            yield item
    finally:
        ctx.replies.forget(job.id)
        if not accepted.replayed and (watch.gave_up or not is_over):
            _abandon(ctx, job, watch.gave_up)  # a replay's job is somebody else's


def collect(
    ctx: Context, accepted: SubmittedJob, is_gone: Callable[[], bool] = lambda: False
) -> CompletedJob:
    """Wait for the whole answer.

    A job whose asker ``is_gone`` is cancelled within a second, unless it was asked for
    under an idempotency key: who lost the connection comes back for it.

    Raises `ContextTooLong`, `JobFailed`, `JobCancelled`, `JobTimeout` or
    `Unavailable` with the worker's reason.
    """
    stays = accepted.job.idempotency_key is not None
    with closing(stream(ctx, accepted)) as items:
        for item in items:
            if isinstance(item, Outcome):
                if item.state is not JobState.COMPLETED:
                    raise failures.job_failure(item.state, item.fault)
                return CompletedJob(job=accepted.job, outcome=item)
            if not stays and is_gone():
                raise JobCancelled("whoever asked has hung up; ask again")
    raise JobFailed(f"job {accepted.job.id} ended without an outcome; ask again")


def _publish(
    ctx: Context, task: InferenceTask, mode: Mode, *, is_first: bool = False
) -> None:
    try:
        if is_first and mode.is_watched:
            ctx.bus.ask(task, ctx.replies)
        else:
            ctx.bus.publish(task)
    except GenieError as error:
        if mode is Mode.ASYNC and isinstance(error, Unavailable):
            log.warning("publish_waits", job_id=task.job_id)
            return  # the row is committed: the relay publishes it when it can
        _unpublished(ctx, task.job_id)
        raise
    if mode is Mode.ASYNC:
        _confirm(ctx, task.job_id)


def _confirm(ctx: Context, job_id: str) -> None:
    """Best effort: it is committed and in its queue, so it was accepted."""
    try:
        lifecycle.mark_confirmed(ctx, job_id)
    except Unavailable as error:  # the relay publishes it again, which is harmless
        log.warning("confirm_waits", job_id=job_id, error=str(error))


def _unpublished(ctx: Context, job_id: str) -> None:
    ctx.replies.forget(job_id)
    fault = Fault(
        code="not_published",
        message="the work could not be handed to the broker; ask again",
        retryable=True,
    )
    lifecycle.refuse(ctx, job_id, fault)


def _abandon(ctx: Context, job: JobRecord, fault: Fault | None) -> None:
    """Nobody reads on: stop the work, best effort, and say so in the record."""
    try:
        if fault is None:
            lifecycle.cancel(ctx, job.org, job.id)
        else:
            lifecycle.abort(ctx, job, fault)
    except Unavailable as error:
        log.warning("cancel_failed", job_id=job.id, error=str(error))


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
            launch(ctx, new.task)
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
        except GenieError as error:
            if isinstance(error, Unavailable) and not made:
                raise
            skipped.append((job.id, error.message))
        else:
            made[new.id] = new
    return RetryReport(jobs=tuple(made.values()), skipped=tuple(skipped))


def _matching(
    ctx: Context, key: KeyRecord, limit: int, wanted: JobFilter
) -> Iterator[JobRecord]:
    state = wanted.get("state")
    for one in (state,) if state else (JobState.FAILED, JobState.TIMEOUT):
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
        sampling=structs.asdict(task.sampling),
        idempotency_key=f"retry-of-{job.id}",
        body=job.id.encode(),
        deadline_s=allowed.total_seconds(),
        request=structs.replace(job.request, retry_of=job.id),
        webhook=_webhook(ctx, job),
        retain_h=job.retain_h,
    )


def _webhook(ctx: Context, job: JobRecord) -> WebhookConfig | None:
    with ctx.db.reading() as session:
        told = store.webhooks.of_org(session, job.org, job_id=job.id, limit=1)
    return WebhookConfig(url=told[0].url, secret=told[0].secret) if told else None
