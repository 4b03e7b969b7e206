"""One request from the door to its answer: look, decide, record, act."""

import hashlib
import json
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import partial

from cloud_app import endings, jobs, registry, webhooks
from cloud_app.asking import Text, Waiting, Watch
from cloud_app.brain import capacity, defaults, router
from cloud_app.bus import Inbox
from cloud_app.context import Context
from cloud_app.store import ids
from cloud_app.store.records import JobRecord, KeyRecord, NewJob, Webhook
from genie import logs, topology
from genie.catalog import Catalog, Persona
from genie.contracts.inference import (
    Fault,
    InferenceTask,
    JobState,
    Message,
    Outcome,
    Sampling,
    Tool,
    WorkClass,
)
from genie.contracts.model import Capability
from genie.errors import (
    BadRequest,
    GenieError,
    JobCancelled,
    JobFailed,
    Unavailable,
    UnknownModel,
)

log = logs.logger("inference")


class Mode(StrEnum):
    """How the asker wants the answer."""

    SYNC = "sync"
    STREAM = "stream"
    ASYNC = "async"
    BATCH = "batch"

    @property
    def is_watched(self) -> bool:
        """True when somebody waits for the answer while it is made."""
        return self in (Mode.SYNC, Mode.STREAM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A checked request; ``sampling`` holds only the fields that were given."""

    key: KeyRecord
    mode: Mode
    model: str | None = None
    persona: str | None = None
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    inputs: tuple[str, ...] = ()
    json_schema: str | None = None
    tools: tuple[Tool, ...] = ()
    force_tool: str | None = None
    one_call: bool = False
    needed: tuple[Capability, ...] = (Capability.CHAT,)
    sampling: Mapping[str, object]
    n: int = 1
    idempotency_key: str | None = None
    body: bytes = b""
    deadline_s: float | None = None
    metadata: dict[str, str]
    webhook: Webhook | None = None
    retain_h: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a request names: one model, or a persona's ladder, or both."""

    model: str | None
    persona: Persona | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A job in the database and, unless replayed, in its queue."""

    job: JobRecord
    replayed: bool
    inbox: Inbox | None
    task: InferenceTask | None = None
    """What was published; None of a replay."""

    @property
    def repeats(self) -> bool:
        """False when another try would give another answer: it samples at random."""
        sampling = self.task.sampling if self.task else Sampling(seed=0)
        return sampling.temperature == 0 or sampling.seed is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How a waited-for job ended well."""

    job: JobRecord
    outcome: Outcome


def resolve(catalog: Catalog, model: str | None, persona: str | None) -> Target:
    """Catalog id, then tier alias, then persona; raises `UnknownModel`."""
    chosen = _persona(catalog, persona, "persona") if persona else None
    if not model:
        if chosen is None:
            raise BadRequest("name a model or a persona", param="model")
        return Target(model=None, persona=chosen)
    spec = catalog.models.get(model)
    if spec is not None and spec.enabled:
        return Target(model=model, persona=chosen)
    ladder = catalog.tier(model) or _persona(catalog, model, "model")
    return Target(model=None, persona=chosen or ladder)


def _persona(catalog: Catalog, name: str, param: str) -> Persona:
    found = catalog.personas.get(name)
    if found is not None:
        return found
    near = catalog.persona_suggestions(name)
    if param == "model":
        near = catalog.suggestions(name) or near
    raise UnknownModel(
        f"there is no {param} {name!r}; did you mean {', '.join(near)}? "
        "`genie models` and GET /v1/personas list what there is",
        param=param,
    )


def decide(
    ctx: Context,
    key: KeyRecord,
    target: Target,
    work_class: WorkClass = WorkClass.INTERACTIVE,
    needed: tuple[Capability, ...] = (),
    texts: Iterable[str] = (),
    *,
    may_wait: bool = False,
) -> router.Route | router.Refusal:
    """Which model and queue this would go to now, with reasons; runs nothing.

    ``texts`` are what the model has to read; one that surely fits no context is
    refused here and not by a worker.
    """
    request = router.Request(
        queues=(topology.org_queue(key.org.slug), topology.SHARED),
        org=key.org.slug,
        model=target.model,
        persona=target.persona,
        work_class=work_class,
        allowed_models=key.allowed_models,
        needed=needed,
        min_context=1 + sum(map(capacity.least_tokens, texts)),
        may_wait=may_wait,
    )
    return router.route(request, registry.view(ctx), ctx.catalog)


def submit(ctx: Context, order: Order) -> Accepted:
    """Accept an order: decided, committed, published; confirmed if nobody waits.

    Raises `UnknownModel`, `BadRequest`, `Conflict`, `TooLarge`, `NoCapacity`,
    `BrokerDown` and `DatabaseDown`; after an error nothing runs.
    """
    new = prepare(ctx, order, may_wait=order.mode is Mode.ASYNC)
    task = new.task
    job, created = jobs.accept(ctx, new)
    if not created:
        return Accepted(job=job, replayed=True, inbox=None)
    inbox = ctx.replies.expect(job.id) if order.mode is not Mode.ASYNC else None
    _publish(ctx, task, order.mode, is_first=True)
    return Accepted(job=job, replayed=False, inbox=inbox, task=task)


def prepare(ctx: Context, order: Order, *, may_wait: bool = False) -> NewJob:
    """The job an order becomes, decided now; nothing is recorded or published.

    ``may_wait``: a job that only an absent worker could serve waits for it. Raises
    `UnknownModel`, `BadRequest` and `NoCapacity`.
    """
    if order.webhook is not None:
        webhooks.check(ctx, order.webhook)
    target = resolve(ctx.catalog, order.model, order.persona)
    work_class = _work_class(order, target)
    texts = [message.content for message in order.messages] + [order.prompt or ""]
    route = decide(
        ctx, order.key, target, work_class, order.needed, texts, may_wait=may_wait
    )
    if isinstance(route, router.Refusal):
        raise endings.refused(route, "messages" if order.messages else "prompt")
    return _new_job(ctx, order, _task(ctx, order, target, route), route)


def launch(ctx: Context, new: NewJob) -> None:
    """Publish an async job that is committed; the relay does it if that fails now.

    Raises `TooLarge`, with the job then failed.
    """
    _publish(ctx, new.task, Mode.ASYNC)


def stream(
    ctx: Context, accepted: Accepted
) -> Generator[Waiting | Text | Outcome, None, None]:
    """The answer as it comes, ending with its `Outcome`.

    Closing the iterator early cancels the job. A worker that died mid-answer is
    followed by the next one: spliced where it repeats the text already given, and
    asked to go on after it where it cannot.
    """
    job, task = accepted.job, accepted.task
    again = partial(_publish, ctx, task, Mode.STREAM) if task else lambda: None
    watch = Watch(ctx, job, accepted.inbox, repeats=accepted.repeats, publish=again)
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
    ctx: Context, accepted: Accepted, is_gone: Callable[[], bool] = lambda: False
) -> Answer:
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
                    raise endings.failure(item.state, item.fault)
                return Answer(job=accepted.job, outcome=item)
            if not stays and is_gone():
                raise JobCancelled("whoever asked has hung up; ask again")
    raise JobFailed(f"job {accepted.job.id} ended without an outcome; ask again")


def _work_class(order: Order, target: Target) -> WorkClass:
    if order.mode is Mode.BATCH:
        return WorkClass.BATCH
    if order.mode is Mode.ASYNC:
        return WorkClass.JOB
    return target.persona.work_class if target.persona else WorkClass.INTERACTIVE


def _task(
    ctx: Context, order: Order, target: Target, route: router.Route
) -> InferenceTask:
    settings, persona = ctx.settings, target.persona
    is_watched = order.mode.is_watched
    limit_s = settings.sync_timeout_s if is_watched else settings.async_timeout_s
    now = ctx.now()
    return InferenceTask(
        job_id=ids.new_id(now),
        org=order.key.org.slug,
        queue=route.queue,
        model=route.model,
        work_class=route.work_class,
        created_at=now,
        deadline_at=now + timedelta(seconds=min(order.deadline_s or limit_s, limit_s)),
        sampling=defaults.sampling(order.sampling, persona),
        messages=defaults.messages(order.messages, persona),
        prompt=order.prompt,
        inputs=order.inputs,
        n=order.n,
        json_schema=order.json_schema,
        tools=order.tools,
        force_tool=order.force_tool,
        one_call=order.one_call,
        persona=persona.name if persona else None,
        locality=route.locality,
        reply_to=ctx.replies.name if is_watched else None,
        chunks=order.mode is Mode.STREAM,
    )


def _reading(ctx: Context, task: InferenceTask) -> dict[str, object]:
    """What whoever reads the answer later needs to know of the request.

    How the chosen model writes calls of tools, and whether it continued a prompt.
    """
    spec = ctx.catalog.models.get(task.model)
    if task.prompt is not None:
        return {"is_plain": True}
    if not task.tools or spec is None:
        return {}
    return {"tool_format": spec.tool_format, "one_call": task.one_call}


def _new_job(
    ctx: Context, order: Order, task: InferenceTask, route: router.Route
) -> NewJob:
    return NewJob(
        task=task,
        org=order.key.org,
        key_id=order.key.id,
        mode=order.mode.value,
        route=endings.explain(route) | _reading(ctx, task),
        substituted=route.substituted,
        idempotency_key=order.idempotency_key,
        body_sha256=_digest(order.body),
        metadata=order.metadata,
        webhook=order.webhook,
        retain_h=_retain_h(order.key.org.retain_h, order.retain_h),
    )


def _retain_h(of_org: int | None, of_request: int | None) -> int | None:
    """Hours to keep the texts: a request may ask for less than its org, never more."""
    return min((h for h in (of_org, of_request) if h is not None), default=None)


def _digest(body: bytes) -> str:
    """Digest of what a body means: key order and white space do not count."""
    try:
        meant = json.dumps(json.loads(body), sort_keys=True).encode()
    except ValueError:
        meant = body
    return hashlib.sha256(meant).hexdigest()


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
        jobs.confirmed(ctx, job_id)
    except Unavailable as error:  # the relay publishes it again, which is harmless
        log.warning("confirm_waits", job_id=job_id, error=str(error))


def _unpublished(ctx: Context, job_id: str) -> None:
    ctx.replies.forget(job_id)
    fault = Fault(
        code="not_published",
        message="the work could not be handed to the broker; ask again",
        retryable=True,
    )
    jobs.refuse(ctx, job_id, fault)


def _abandon(ctx: Context, job: JobRecord, fault: Fault | None) -> None:
    """Nobody reads on: stop the work, best effort, and say so in the record."""
    try:
        if fault is None:
            jobs.cancel(ctx, job.org, job.id)
        else:
            jobs.abort(ctx, job, fault)
    except Unavailable as error:
        log.warning("cancel_failed", job_id=job.id, error=str(error))
