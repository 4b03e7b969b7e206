"""Decides which model on which logical queue serves a request, with reasons."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import msgspec

from cloud_app.brain import ladder as ladders
from cloud_app.brain.ladder import LadderChoice, LadderCriteria, SkippedCandidate
from cloud_app.brain.views import FleetView, Liveness, WorkerView
from genie.catalog import Catalog, Persona
from genie.contracts.inference import Locality, Message, Sampling, WorkClass
from genie.contracts.model import Capability, ModelSpec
from genie.topology import SHARED


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingRequest:
    """What is asked, and its limits; an explicit ``model`` wins over a persona.

    ``queues`` are the logical queues the org may use, the preferred one first.
    ``min_context`` is how many tokens prompt and answer need, as far as known.
    ``may_wait``: no caller is connected, so it may wait for a worker to return.
    """

    queues: tuple[str, ...]
    org: str
    model: str | None = None
    persona: Persona | None = None
    work_class: WorkClass = WorkClass.INTERACTIVE
    allowed_models: tuple[str, ...] | None = None
    needed: tuple[Capability, ...] = ()
    min_context: int = 0
    may_wait: bool = False


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
    found = _now(request, fleet, catalog)
    if isinstance(found, Refusal) and request.may_wait:
        return _later(request, fleet, catalog, found) or found
    return found


def _now(
    request: RoutingRequest, fleet: FleetView, catalog: Catalog
) -> Route | Refusal:
    queues = [queue for queue in request.queues if ladders.serving(fleet, queue)]
    if not queues:
        return _nobody(request)
    tried = {queue: _choose(request, queue, fleet, catalog) for queue in queues}
    served = [_route(request, q, r.spec, r) for q, r in tried.items() if r.spec]
    if not served:
        return _refusal(request, tried)
    return next((found for found in served if not found.substituted), served[0])


def rung(
    persona: Persona,
    queue: str,
    fleet: FleetView,
    catalog: Catalog,
    *,
    allowed: Collection[str] | None = None,
    needed: tuple[Capability, ...] = (),
    min_context: int = 0,
) -> LadderChoice:
    """The rung of a persona's ladder that serves on ``queue`` now, and skipped ones.

    ``spec`` is None when no rung can be served. Placement asks the same question to
    turn a standing persona into a model.
    """
    criteria = LadderCriteria(
        allowed=allowed,
        needed=(*persona.needs, *needed),
        min_context=min_context,
    )
    ladder, floor = persona.ladder, persona.floor
    return ladders.choose(ladder, floor, queue, fleet, catalog, criteria)


def _choose(
    request: RoutingRequest, queue: str, fleet: FleetView, catalog: Catalog
) -> LadderChoice:
    if request.persona is not None and request.model is None:
        return rung(
            request.persona,
            queue,
            fleet,
            catalog,
            allowed=request.allowed_models,
            needed=request.needed,
            min_context=request.min_context,
        )
    criteria = LadderCriteria(
        allowed=request.allowed_models,
        needed=request.needed,
        min_context=request.min_context,
    )
    ladder = (request.model,) if request.model is not None else ()
    return ladders.choose(ladder, None, queue, fleet, catalog, criteria)


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


def _later(
    request: RoutingRequest, fleet: FleetView, catalog: Catalog, refusal: Refusal
) -> Route | None:
    """The route it waits on for workers to return; None when that would not help."""
    away = [worker for worker in fleet.workers if not worker.is_open]
    if refusal.code != ladders.NO_CAPACITY or not away:
        return None
    back = replace(fleet, workers=tuple(map(_back, fleet.workers)))
    found = _now(request, back, catalog)
    if isinstance(found, Refusal):
        return None
    missed = [one for one in away if found.queue in one.queues]
    names = ", ".join(f"{one.name} ({_why_away(one)})" for one in missed[:3])
    waits = f"no live worker can serve it now; it waits for {names} to return"
    return replace(found, ready=False, reasons=(waits,), waits=waits)


def _back(worker: WorkerView) -> WorkerView:
    return replace(worker, liveness=Liveness.ONLINE, draining=False, quarantined=False)


def _why_away(worker: WorkerView) -> str:
    if worker.quarantined:
        return "quarantined"
    return "draining" if worker.draining else worker.liveness.value


def _nobody(request: RoutingRequest) -> Refusal:
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
    if ladders.TOO_LONG in codes:
        return ladders.TOO_LONG
    return codes.pop() if len(codes) == 1 else ladders.NO_CAPACITY


_STEPS = {
    ladders.NO_CAPACITY: "add a machine that fits with `genie worker join`",
    ladders.NOT_ALLOWED: "ask an admin of your org for a key that allows it",
    ladders.NO_SUCH_MODEL: "list what there is with `genie models`",
    ladders.NOT_CAPABLE: "choose a model that can with `genie models`",
    ladders.TOO_LONG: "send a shorter text or a smaller max_tokens",
}


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


__all__ = [
    "LadderChoice",
    "Refusal",
    "Route",
    "RoutingRequest",
    "SkippedCandidate",
    "route",
    "rung",
]
