"""Whether a model fits a worker: with which quant, slots and context."""

from collections.abc import Iterator
from dataclasses import dataclass

from cloud_app.brain.views import FleetView, PlacementView, WorkerView
from genie import engines, memory, sources
from genie.contracts.fleet import EngineFacts, EngineMemory, ModelState, ModelStatus
from genie.contracts.model import ModelSpec, Quant
from genie.memory import MemoryNeed

SLOTS = {"cuda": 8, "cpu": 4}
CONTEXT = {"cuda": 8192, "cpu": 4096}
MIN_CONTEXT = 1024
"""A replica with less context is useless; a model with less is loaded whole."""

LONGEST_TOKEN = 128
"""Bytes; the longest tokens of open models are runs of blanks."""

_ON_DISK = (
    ModelState.ON_DISK,
    ModelState.LOADING,
    ModelState.READY,
    ModelState.UNLOADING,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A way to load a model on a worker, and the bytes it takes."""

    quant: Quant
    slots: int
    context: int
    need: MemoryNeed


@dataclass(frozen=True, slots=True, kw_only=True)
class NoFit:
    """Why a worker cannot load a model.

    ``context_max`` is the longest request that would fit, in tokens; None: none would.
    """

    reasons: tuple[str, ...]
    context_max: int | None = None


def fit(
    spec: ModelSpec,
    worker: WorkerView,
    *,
    free_bytes: int | None = None,
    min_context: int = 0,
) -> Fit | NoFit:
    """The best way to load ``spec`` on ``worker``, in ``free_bytes`` of its memory.

    Without ``free_bytes`` all of the worker's memory counts. Slots shrink to one before
    the context shrinks, and the context never below ``min_context`` tokens.
    """
    unsuited = _unsuited(spec, worker, min_context)
    if unsuited is not None:
        return unsuited
    free = worker.memory_bytes if free_bytes is None else free_bytes
    engine = _engine(spec, worker)
    for quant in _quants(spec, worker.device, engine):
        for slots, context in _shapes(spec, worker.device, engine, min_context):
            need = memory.need(spec, quant, slots=slots, context=context, engine=engine)
            if need.total <= free:
                return Fit(quant=quant, slots=slots, context=context, need=need)
    least = smallest(spec, worker.device, engine, min_context)
    has = f"{worker.name} has {gigabytes(max(0, free))}"
    return NoFit(reasons=(f"needs {gigabytes(least)} and {has}",))


def smallest(
    spec: ModelSpec, device: str, engine: EngineFacts, min_context: int = 0
) -> int:
    """Least bytes that any quant of ``spec`` takes on a ``device`` that suits it."""
    *_, (slots, context) = _shapes(spec, device, engine, min_context)
    return min(
        memory.need(spec, quant, slots=slots, context=context, engine=engine).total
        for quant in _quants(spec, device, engine)
    )


def held_bytes(spec: ModelSpec, worker: WorkerView, placement: PlacementView) -> int:
    """Bytes a placement takes: the computed need or the measured peak, if more."""
    seen = worker.reported(placement.model)
    peak = seen.peak_bytes if seen is not None else 0
    return max(peak, computed_bytes(spec, placement, worker.engine(spec.engine)))


def computed_bytes(
    spec: ModelSpec, held: PlacementView | ModelStatus, engine: EngineFacts | None
) -> int:
    """Bytes a loaded model should take; 0 when the catalog no longer has its quant."""
    quant = next((q for q in spec.quants if q.name == held.quant), None)
    if quant is None:
        return 0
    slots, context = held.slots, held.context
    return memory.need(spec, quant, slots=slots, context=context, engine=engine).total


def slots_said(spec: ModelSpec, worker: WorkerView) -> int | None:
    """The slots a model's source says, where its engine goes by that."""
    return _slots_said(spec, _engine(spec, worker))


def least_tokens(text: str) -> int:
    """The fewest tokens ``text`` can take with any tokenizer.

    A refusal based on it is safe: no token spans two words or exceeds 128 bytes.

    >>> least_tokens("seven words, and perhaps some more tokens")
    7
    """
    return max(len(text.split()), -(-len(text.encode()) // LONGEST_TOKEN))


def gigabytes(size: int) -> str:
    """Bytes as text.

    >>> gigabytes(24_000_000_000)
    '24.0 GB'
    """
    return f"{size / 1e9:.1f} GB"


def _unsuited(spec: ModelSpec, worker: WorkerView, min_context: int) -> NoFit | None:
    """Why no amount of memory would help; None when it would."""
    engine = worker.engine(spec.engine)
    if engine is None:
        return NoFit(reasons=(f"{worker.name} has no {spec.engine} engine",))
    kind = sources.kind_of(spec.source)
    if kind not in engine.sources:
        why = f"the {engine.name} engine of {worker.name} reads no {kind}: source"
        return NoFit(reasons=(why,))
    if not _quants(spec, worker.device, engine):
        why = f"no quant of {spec.id} runs on {worker.device} ({worker.name})"
        return NoFit(reasons=(why,))
    longest = _context(spec, worker.device)
    if min_context > longest:
        return too_long(spec, worker, min_context, longest)
    return _no_room_on_disk(spec, worker)


def too_long(
    spec: ModelSpec, worker: WorkerView, min_context: int, longest: int
) -> NoFit:
    """Refuses a request longer than the ``longest`` context; names both numbers."""
    serves = f"{worker.name} serves {spec.id} with at most {longest}"
    why = f"at least {min_context} tokens of context are needed and {serves}"
    return NoFit(reasons=(why,), context_max=longest)


def _no_room_on_disk(spec: ModelSpec, worker: WorkerView) -> NoFit | None:
    if sources.kind_of(spec.source) in ("path", spec.engine):  # nothing is copied
        return None
    seen = worker.reported(spec.id)
    if seen is not None and seen.state in _ON_DISK:
        return None
    fitting = _quants(spec, worker.device, _engine(spec, worker))
    size = min(quant.weight_bytes for quant in fitting)
    if size <= worker.disk_free_bytes:
        return None
    has = f"{worker.name} has {gigabytes(worker.disk_free_bytes)}"
    return NoFit(reasons=(f"its files need {gigabytes(size)} of disk and {has}",))


def _engine(spec: ModelSpec, worker: WorkerView) -> EngineFacts:
    return worker.engine(spec.engine) or engines.assumed(spec.engine)


def _quants(spec: ModelSpec, device: str, engine: EngineFacts) -> tuple[Quant, ...]:
    """The quants that the engine computes, on this kind of device.

    One without weights runs anywhere: every machine has a processor.
    """
    if engine.memory is not EngineMemory.NONE and device not in engine.devices:
        return ()
    return tuple(
        quant
        for quant in spec.quants
        if device in quant.devices
        and (not engine.dtypes or quant.dtype in engine.dtypes)
    )


def _slots_said(spec: ModelSpec, engine: EngineFacts) -> int | None:
    if engine.memory is not EngineMemory.NONE:
        return None
    return sources.slots_of(spec.source)


def _context(spec: ModelSpec, device: str) -> int:
    return min(spec.context_max, CONTEXT.get(device, CONTEXT["cpu"]))


def _shapes(
    spec: ModelSpec, device: str, engine: EngineFacts, min_context: int
) -> Iterator[tuple[int, int]]:
    """(slots, context) pairs to try, best first: fewer slots before less context."""
    context = _context(spec, device)
    if (said := _slots_said(spec, engine)) is not None:
        yield said, context
        return
    least = min(context, max(MIN_CONTEXT, min_context))
    for slots in range(SLOTS.get(device, SLOTS["cpu"]), 0, -1):
        yield slots, context
    while context > least:
        context = max(least, context // 2)
        yield 1, context


def eta_s(
    fleet: FleetView, *, queue: str, model: str, ahead: int, tokens: float | None
) -> float | None:
    """Seconds until ``ahead`` requests of ``tokens`` each are served, None if unknown.

    Unknown means that no replica is ready or measured yet, or that nobody has seen
    how long an answer of this model is.
    """
    speed = sum(
        held.tokens_per_s
        for worker in fleet.workers
        if worker.is_open and queue in worker.queues
        for held in worker.models
        if held.model == model and held.state is ModelState.READY
    )
    if tokens is None or speed <= 0:
        return None
    return ahead * tokens / speed
