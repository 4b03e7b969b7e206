"""Chooses the rung of a ladder that a queue's workers can serve."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime

from cloud_app.brain import capacity, liveness
from cloud_app.brain.capacity import Fit, NoFit
from cloud_app.brain.views import FleetView, WorkerView
from genie.catalog import Catalog
from genie.contracts.fleet import ModelState
from genie.contracts.model import Capability, ModelSpec

NO_CAPACITY = "no_capacity"
NOT_ALLOWED = "permission_denied"
NO_SUCH_MODEL = "model_not_found"
NOT_CAPABLE = "invalid_request"
TOO_LONG = "context_length_exceeded"


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedCandidate:
    """A model that was considered and rejected; ``retryable``: it may serve later."""

    model: str
    why: str
    code: str = NO_CAPACITY
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _LadderCandidate:
    """A model that a queue's workers hold or can hold."""

    spec: ModelSpec
    ready: bool
    context: int
    why: str


def serving(fleet: FleetView, queue: str) -> tuple[WorkerView, ...]:
    """Workers of ``queue`` that take work.

    While most of a fleet is silent at once, the cause is ours and the workers most
    likely go on working, so workers heard of lately count too.
    """
    here = [worker for worker in fleet.workers if queue in worker.queues]
    if liveness.is_mass_silence(fleet):
        return tuple(w for w in here if w.is_open or _works_on(w, fleet))
    return tuple(worker for worker in here if worker.is_open)


def choose(
    ladder: tuple[str, ...],
    floor: str | None,
    queue: str,
    fleet: FleetView,
    catalog: Catalog,
    criteria: LadderCriteria,
) -> LadderChoice:
    """The first served rung from ``floor`` upwards, or the highest one below."""
    workers, skipped = serving(fleet, queue), list[SkippedCandidate]()
    start = ladder.index(floor) if floor in ladder else 0
    for model in (*ladder[start:], *reversed(ladder[:start])):
        found = _consider(model, workers, catalog, criteria, fleet.as_of)
        if isinstance(found, _LadderCandidate):
            return _chosen(found, model in ladder[:start] and floor, skipped)
        skipped.append(found)
    return LadderChoice(spec=None, skipped=tuple(skipped))


def _chosen(
    found: _LadderCandidate, floor: str | bool | None, skipped: list[SkippedCandidate]
) -> LadderChoice:
    rung = LadderChoice(
        spec=found.spec,
        ready=found.ready,
        context=found.context,
        reasons=(found.why,),
        skipped=tuple(skipped),
    )
    if not isinstance(floor, str):
        return rung
    why = f"{found.spec.id} is below {floor}, which no worker of the queue can serve"
    return replace(rung, substituted=floor, reasons=(found.why, why))


_CANNOT = {
    Capability.CHAT: "cannot chat",
    Capability.TOOLS: "cannot call tools",
    Capability.JSON: "cannot follow a JSON schema",
    Capability.EMBED: "cannot embed",
    Capability.VISION: "cannot see",
}


def _works_on(worker: WorkerView, fleet: FleetView) -> bool:
    recent = liveness.is_recent(worker, fleet)
    return recent and not worker.draining and not worker.quarantined


def _consider(
    model: str,
    workers: tuple[WorkerView, ...],
    catalog: Catalog,
    criteria: LadderCriteria,
    now: datetime,
) -> _LadderCandidate | SkippedCandidate:
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
) -> _LadderCandidate | SkippedCandidate | None:
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
    return _LadderCandidate(spec=spec, ready=bool(ready), context=least, why=why)


def _loadable(
    spec: ModelSpec,
    workers: tuple[WorkerView, ...],
    criteria: LadderCriteria,
    now: datetime,
) -> _LadderCandidate | SkippedCandidate:
    failed = [worker for worker in workers if _has_failed(worker, spec.id, now)]
    able = [worker for worker in workers if worker not in failed]
    asked = criteria.min_context
    fits = [(w, capacity.fit(spec, w, min_context=asked)) for w in able]
    for worker, found in fits:
        if isinstance(found, Fit):
            size = capacity.gigabytes(found.need.total)
            why = f"{spec.id} is not loaded yet; it fits {worker.name} with {size}"
            return _LadderCandidate(
                spec=spec, ready=False, context=found.context, why=why
            )
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
