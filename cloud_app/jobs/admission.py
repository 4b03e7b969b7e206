"""A request as an order, and the job it becomes: looked at and decided, not yet run."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from msgspec import structs

from cloud_app.api.orders import Mode, Order
from cloud_app.brain import capacity, router
from cloud_app.context import Context
from cloud_app.fleet import registry
from cloud_app.jobs import failures
from cloud_app.store import ids
from cloud_app.store.records import KeyRecord, NewJob
from cloud_app.webhooks import webhooks
from genie import topology
from genie.catalog import Catalog, Persona
from genie.contracts.inference import InferenceTask, WorkClass
from genie.contracts.model import Capability
from genie.errors import BadRequest, UnknownModel


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTarget:
    """What a request names: one model, or a persona's ladder, or both."""

    model: str | None
    persona: Persona | None


def resolve(catalog: Catalog, model: str | None, persona: str | None) -> ModelTarget:
    """Catalog id, then tier alias, then persona; raises `UnknownModel`."""
    chosen = _persona(catalog, persona, "persona") if persona else None
    if not model:
        if chosen is None:
            raise BadRequest("name a model or a persona", param="model")
        return ModelTarget(model=None, persona=chosen)
    spec = catalog.models.get(model)
    if spec is not None and spec.enabled:
        return ModelTarget(model=model, persona=chosen)
    ladder = catalog.tier(model) or _persona(catalog, model, "model")
    return ModelTarget(model=None, persona=chosen or ladder)


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
    target: ModelTarget,
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
    request = router.RoutingRequest(
        queues=(topology.org_queue(key.org.slug), topology.SHARED),
        model=target.model,
        persona=target.persona,
        work_class=work_class,
        allowed_models=key.allowed_models,
        needed=needed,
        min_context=1 + sum(map(capacity.least_tokens, texts)),
        may_wait=may_wait,
    )
    return router.route(request, registry.view(ctx), ctx.catalog)


def prepare(ctx: Context, order: Order, *, may_wait: bool = False) -> NewJob:
    """The job an order becomes, decided now; nothing is recorded or published.

    ``may_wait``: a job that only an absent worker could serve waits for it. Raises
    `UnknownModel`, `BadRequest` and `NoCapacity`.
    """
    if order.webhook is not None:
        webhooks.check(ctx, order.webhook)
    target = resolve(ctx.catalog, order.model, order.persona)
    work_class = _work_class(order, target)
    texts = [message.content for message in order.input.messages]
    texts.append(order.input.prompt or "")
    route = decide(
        ctx, order.key, target, work_class, order.needed, texts, may_wait=may_wait
    )
    if isinstance(route, router.Refusal):
        raise failures.refusal_error(
            route, "messages" if order.input.messages else "prompt"
        )
    return _new_job(ctx, order, _task(ctx, order, target, route), route)


def _work_class(order: Order, target: ModelTarget) -> WorkClass:
    if order.mode is Mode.BATCH:
        return WorkClass.BATCH
    if order.mode is Mode.ASYNC:
        return WorkClass.JOB
    return target.persona.work_class if target.persona else WorkClass.INTERACTIVE


def _task(
    ctx: Context, order: Order, target: ModelTarget, route: router.Route
) -> InferenceTask:
    settings, persona = ctx.settings, target.persona
    is_watched = order.mode.is_watched
    limit_s = settings.sync_timeout_s if is_watched else settings.async_timeout_s
    now = ctx.now()
    asked = structs.replace(
        order.input, messages=router.messages(order.input.messages, persona)
    )
    return InferenceTask(
        job_id=ids.new_id(now),
        org=order.key.org.slug,
        queue=route.queue,
        model=route.model,
        work_class=route.work_class,
        created_at=now,
        deadline_at=now + timedelta(seconds=min(order.deadline_s or limit_s, limit_s)),
        sampling=router.sampling(order.sampling, persona),
        persona=persona.name if persona else None,
        locality=route.locality,
        reply_to=ctx.replies.name if is_watched else None,
        chunks=order.mode is Mode.STREAM,
        **structs.asdict(asked),
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
    request = structs.replace(
        order.request,
        route=failures.explain(route) | _reading(ctx, task),
        locality=route.locality,
        substituted=route.substituted,
    )
    return NewJob(
        task=task,
        request=request,
        org=order.key.org,
        key_id=order.key.id,
        mode=order.mode.value,
        idempotency_key=order.idempotency_key,
        body_sha256=_digest(order.body) if order.idempotency_key else None,
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
