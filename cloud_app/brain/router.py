"""Decides which model on which logical queue serves a request, with reasons."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import msgspec

from cloud_app.brain import capacity, liveness
from cloud_app.brain.capacity import Fit, NoFit
from cloud_app.brain.views import FleetView, Liveness, WorkerView
from genie.catalog import Catalog, Persona
from genie.contracts.fleet import ModelState
from genie.contracts.inference import Locality, Message, Sampling, WorkClass
from genie.contracts.model import Capability, ModelSpec
from genie.topology import SHARED

NO_CAPACITY = "no_capacity"
NOT_ALLOWED = "permission_denied"
NO_SUCH_MODEL = "model_not_found"
NOT_CAPABLE = "invalid_request"
TOO_LONG = "context_length_exceeded"

_STEPS = {
    NO_CAPACITY: "add a machine that fits with `genie worker join`",
    NOT_ALLOWED: "ask an admin of your org for a key that allows it",
    NO_SUCH_MODEL: "list what there is with `genie models`",
    NOT_CAPABLE: "choose a model that can with `genie models`",
    TOO_LONG: "send a shorter text or a smaller max_tokens",
}

_CANNOT = {
    Capability.CHAT: "cannot chat",
    Capability.TOOLS: "cannot call tools",
    Capability.JSON: "cannot follow a JSON schema",
    Capability.EMBED: "cannot embed",
    Capability.VISION: "cannot see",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingRequest:
    """What is asked, and its limits; an explicit ``model`` wins over a persona.

    ``queues`` are the logical queues the org may use, the preferred one first.
    ``min_context`` is how many tokens prompt and answer need, as far as known.
    ``may_wait``: no caller is connected, so it may wait for a worker to return.
    """

    queues: tuple[str, ...]
    model: str | None = None
    persona: Persona | None = None
    work_class: WorkClass = WorkClass.INTERACTIVE
    allowed_models: tuple[str, ...] | None = None
    needed: tuple[Capability, ...] = ()
    min_context: int = 0
    may_wait: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedCandidate:
    """A model that was considered and rejected; ``retryable``: it may serve later."""

    model: str
    why: str
    code: str = NO_CAPACITY
    retryable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The decision. ``substituted`` is the wanted model when a smaller one serves.

    ``waits`` names the workers it waits for when no live worker can serve it.
    """

    model: str
    queue: str
    work_class: WorkClass
    locality: Locality
    reasons: tuple[str, ...]
    skipped: tuple[SkippedCandidate, ...] = ()
    substituted: str | None = None
    ready: bool = False
    context: int = 0
    waits: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """No model can serve it: an error ``code``, a ``message`` with the next step."""

    code: str
    message: str
    reasons: tuple[str, ...] = ()
    skipped: tuple[SkippedCandidate, ...] = ()
    retryable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderCriteria:
    """What every rung must satisfy. ``allowed`` None means every model."""

    allowed: Collection[str] | None = None
    needed: tuple[Capability, ...] = ()
    min_context: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderChoice:
    """The chosen model (None: no rung serves), with reasons and skipped models.

    ``ready`` is true when a worker holds it ready now; ``context`` is what a request
    may use of it in tokens; ``substituted`` is the floor when the rung is below it.
    """

    spec: ModelSpec | None
    ready: bool = False
    context: int = 0
    substituted: str | None = None
    reasons: tuple[str, ...] = ()
    skipped: tuple[SkippedCandidate, ...] = ()


def route(
    request: RoutingRequest, fleet: FleetView, catalog: Catalog
) -> Route | Refusal:
    """The smallest suitable model, on the first preferred queue that has it.

    An explicit model is served as asked or refused, never replaced. A
    persona's queues are tried for a rung at or above its floor first; only when none
    has one does a smaller model serve, and the route says so. What may wait is refused
    only when no known worker could serve it either, were all of them back, or when it
    is too long for those that are here: they would be given it all the same.
    """
    found = _route_now(request, fleet, catalog)
    if isinstance(found, Refusal) and request.may_wait:
        return _route_later(request, fleet, catalog, found) or found
    return found


def _route_now(
    request: RoutingRequest, fleet: FleetView, catalog: Catalog
) -> Route | Refusal:
    queues = [queue for queue in request.queues if _serving(fleet, queue)]
    if not queues:
        return _no_live_worker(request)
    tried = {queue: _on_queue(request, queue, fleet, catalog) for queue in queues}
    served = [_route(request, q, r.spec, r) for q, r in tried.items() if r.spec]
    if not served:
        return _refusal(request, tried)
    return next((found for found in served if not found.substituted), served[0])


def rung(
    persona: Persona,
    queue: str,
    fleet: FleetView,
    catalog: Catalog,
    criteria: LadderCriteria | None = None,
) -> LadderChoice:
    """The rung of a persona's ladder that serves on ``queue`` now, and skipped ones.

    ``spec`` is None when no rung can be served. Placement asks the same question to
    turn a standing persona into a model.
    """
    asked = criteria or LadderCriteria()
    criteria = replace(asked, needed=(*persona.needs, *asked.needed))
    return _choose(persona.ladder, persona.floor, queue, fleet, catalog, criteria)


def _on_queue(
    request: RoutingRequest, queue: str, fleet: FleetView, catalog: Catalog
) -> LadderChoice:
    criteria = LadderCriteria(
        allowed=request.allowed_models,
        needed=request.needed,
        min_context=request.min_context,
    )
    if request.persona is not None and request.model is None:
        return rung(request.persona, queue, fleet, catalog, criteria)
    models = (request.model,) if request.model is not None else ()
    return _choose(models, None, queue, fleet, catalog, criteria)


def _serving(fleet: FleetView, queue: str) -> tuple[WorkerView, ...]:
    """Workers of ``queue`` that take work.

    While most of a fleet is silent at once, the cause is ours and the workers most
    likely go on working, so workers heard of lately count too.
    """
    here = [worker for worker in fleet.workers if queue in worker.queues]
    if liveness.is_mass_silence(fleet):
        return tuple(w for w in here if w.is_open or _works_on(w, fleet))
    return tuple(worker for worker in here if worker.is_open)


def _choose(
    ladder: tuple[str, ...],
    floor: str | None,
    queue: str,
    fleet: FleetView,
    catalog: Catalog,
    criteria: LadderCriteria,
) -> LadderChoice:
    """The first served rung from ``floor`` upwards, or the highest one below."""
    workers, skipped = _serving(fleet, queue), list[SkippedCandidate]()
    start = ladder.index(floor) if floor in ladder else 0
    for model in (*ladder[start:], *reversed(ladder[:start])):
        found = _consider(model, workers, catalog, criteria, fleet.as_of)
        if isinstance(found, SkippedCandidate):
            skipped.append(found)
            continue
        if model not in ladder[:start]:
            return replace(found, skipped=tuple(skipped))
        why = f"{model} is below {floor}, which no worker of the queue can serve"
        reasons = (*found.reasons, why)
        return replace(
            found, skipped=tuple(skipped), substituted=floor, reasons=reasons
        )
    return LadderChoice(spec=None, skipped=tuple(skipped))


def _works_on(worker: WorkerView, fleet: FleetView) -> bool:
    recent = liveness.is_recent(worker, fleet)
    return recent and not worker.draining and not worker.quarantined


def _consider(
    model: str,
    workers: tuple[WorkerView, ...],
    catalog: Catalog,
    criteria: LadderCriteria,
    now: datetime,
) -> LadderChoice | SkippedCandidate:
    spec = catalog.models.get(model)
    if spec is None or not spec.enabled:
        why = "is not in the catalog" if spec is None else "is disabled in the catalog"
        return SkippedCandidate(model=model, why=why, code=NO_SUCH_MODEL)
    if criteria.allowed is not None and model not in criteria.allowed:
        return SkippedCandidate(
            model=model, why="this key may not use it", code=NOT_ALLOWED
        )
    lacking = [c for c in criteria.needed if c not in spec.capabilities]
    if lacking:
        return SkippedCandidate(model=model, why=_CANNOT[lacking[0]], code=NOT_CAPABLE)
    return _held(spec, workers, criteria, now) or _loadable(
        spec, workers, criteria, now
    )


def _held(
    spec: ModelSpec,
    workers: tuple[WorkerView, ...],
    criteria: LadderCriteria,
    now: datetime,
) -> LadderChoice | SkippedCandidate | None:
    """The model where it is placed, with the shortest context of its replicas."""
    holders = [
        (worker, placement.context)
        for worker in workers
        if (placement := worker.placement(spec.id)) is not None
        and not _has_failed(worker, spec.id, now)
    ]
    if not holders:
        return None
    least = min(context for _, context in holders)
    if criteria.min_context > least:
        shortest = next(worker for worker, context in holders if context == least)
        said = capacity.too_long(spec, shortest, criteria.min_context, least)
        return SkippedCandidate(model=spec.id, why=said.reasons[0], code=TOO_LONG)
    ready = [worker for worker, _ in holders if _is_ready(worker, spec.id)]
    names = ", ".join(worker.name for worker in (ready or [w for w, _ in holders])[:3])
    why = f"{spec.id} is {'ready' if ready else 'being loaded'} on {names}"
    return LadderChoice(spec=spec, ready=bool(ready), context=least, reasons=(why,))


def _loadable(
    spec: ModelSpec,
    workers: tuple[WorkerView, ...],
    criteria: LadderCriteria,
    now: datetime,
) -> LadderChoice | SkippedCandidate:
    failed = [worker for worker in workers if _has_failed(worker, spec.id, now)]
    able = [worker for worker in workers if worker not in failed]
    asked = criteria.min_context
    fits = [(w, capacity.fit(spec, w, min_context=asked)) for w in able]
    for worker, found in fits:
        if isinstance(found, Fit):
            size = capacity.gigabytes(found.need.total)
            why = f"{spec.id} is not loaded yet; it fits {worker.name} with {size}"
            return LadderChoice(spec=spec, context=found.context, reasons=(why,))
    return _not_loadable(spec, failed, [f for _, f in fits if isinstance(f, NoFit)])


def _not_loadable(
    spec: ModelSpec, failed: list[WorkerView], refused: list[NoFit]
) -> SkippedCandidate:
    said = [f"failed on {worker.name}{_error(worker, spec.id)}" for worker in failed]
    said += [reason for fit in refused for reason in fit.reasons]
    limits = [fit.context_max for fit in refused if fit.context_max is not None]
    only_length = bool(limits) and not failed
    return SkippedCandidate(
        model=spec.id,
        why="; ".join(dict.fromkeys(said[:3])) or "no worker of the queue takes work",
        code=TOO_LONG if only_length else NO_CAPACITY,
        retryable=bool(failed),
    )


def _error(worker: WorkerView, model: str) -> str:
    seen = worker.reported(model)
    return f" ({seen.error})" if seen is not None and seen.error else ""


def _has_failed(worker: WorkerView, model: str, now: datetime) -> bool:
    """True while a request for it would wait for a retry that may fail again.

    A worker retries placed models by itself and reports the result. Other models are
    tried again only on demand, so for them the retry time decides.
    """
    seen = worker.reported(model)
    retries = seen is not None and seen.state is ModelState.FAILED
    is_placed = worker.placement(model) is not None
    return (retries and is_placed) or worker.has_failed(model, now)


def _is_ready(worker: WorkerView, model: str) -> bool:
    seen = worker.reported(model)
    return seen is not None and seen.state is ModelState.READY


def _route(
    request: RoutingRequest, queue: str, spec: ModelSpec, chosen: LadderChoice
) -> Route:
    shared = queue == SHARED
    return Route(
        model=spec.id,
        queue=queue,
        work_class=request.work_class,
        locality=Locality.LOCAL if shared else Locality.DEDICATED,
        reasons=chosen.reasons,
        skipped=chosen.skipped,
        substituted=chosen.substituted,
        ready=chosen.ready,
        context=chosen.context,
    )


def _route_later(
    request: RoutingRequest, fleet: FleetView, catalog: Catalog, refusal: Refusal
) -> Route | None:
    """The route it waits on for workers to return; None when that would not help."""
    away = [worker for worker in fleet.workers if not worker.is_open]
    if refusal.code != NO_CAPACITY or not away:
        return None
    back = replace(fleet, workers=tuple(map(_returned, fleet.workers)))
    found = _route_now(request, back, catalog)
    if isinstance(found, Refusal):
        return None
    missed = [one for one in away if found.queue in one.queues]
    names = ", ".join(f"{one.name} ({_why_away(one)})" for one in missed[:3])
    waits = f"no live worker can serve it now; it waits for {names} to return"
    return replace(found, ready=False, reasons=(waits,), waits=waits)


def _returned(worker: WorkerView) -> WorkerView:
    return replace(worker, liveness=Liveness.ONLINE, draining=False, quarantined=False)


def _why_away(worker: WorkerView) -> str:
    if worker.quarantined:
        return "quarantined"
    return "draining" if worker.draining else worker.liveness.value


def _no_live_worker(request: RoutingRequest) -> Refusal:
    names = " or ".join(request.queues) or "that this key may use"
    return Refusal(
        code="no_capacity",
        message=f"no live worker serves the queue {names}; "
        "add a machine with `genie worker join`",
        reasons=(f"no live worker serves {names}",),
        retryable=True,
    )


def _refusal(request: RoutingRequest, tried: dict[str, LadderChoice]) -> Refusal:
    """A refusal that people can act on, with what was considered on every queue."""
    skipped = tuple(skip for found in tried.values() for skip in found.skipped)
    code = _code({skip.code for skip in skipped})
    wanted = request.model or (request.persona and request.persona.name) or "nothing"
    reasons = tuple(dict.fromkeys(f"{skip.model}: {skip.why}" for skip in skipped))
    return Refusal(
        code=code,
        message=f"{wanted} cannot be served: {'; '.join(reasons[:3])}; {_STEPS[code]}",
        reasons=reasons,
        skipped=skipped,
        retryable=any(skip.retryable for skip in skipped),
    )


def _code(codes: set[str]) -> str:
    """The reason all rungs share; a text that is too long always counts."""
    if TOO_LONG in codes:
        return TOO_LONG
    return codes.pop() if len(codes) == 1 else NO_CAPACITY


def sampling(given: Mapping[str, object], persona: Persona | None) -> Sampling:
    """Sampling as ``given``, with the persona's defaults for the rest."""
    defaults: dict[str, object] = {}
    if persona is not None:
        defaults = {
            "max_tokens": persona.max_tokens,
            "temperature": persona.temperature,
        }
    return msgspec.convert({**defaults, **given}, Sampling)


def messages(
    given: tuple[Message, ...], persona: Persona | None
) -> tuple[Message, ...]:
    """The messages; the persona's system message comes first if they have none."""
    has_system = any(message.role == "system" for message in given)
    if not given or persona is None or not persona.system_prompt or has_system:
        return given
    return (Message(role="system", content=persona.system_prompt), *given)
