"""Computes how much memory a model takes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from genie import engines
from genie.contracts.fleet import EngineFacts, EngineMemory
from genie.contracts.model import Capability, ModelSpec, Quant

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1, "nf4": 1}
"""Bytes of one value by torch dtype name; KV caches of 4/8-bit quants stay 16-bit."""

OVERHEAD_SHARE = 0.10
OVERHEAD_BYTES = 350 * 1024**2
"""Measured: activations take about a tenth, a child 350 MiB before weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeed:
    """Bytes one loaded model takes, by part."""

    weights: int
    kv_cache: int
    overhead: int

    @property
    def total(self) -> int:
        """All parts together, in bytes."""
        return self.weights + self.kv_cache + self.overhead


def kv_bytes_per_token(spec: ModelSpec, quant: Quant) -> int:
    """Bytes of keys and values one token of context takes; an encoder keeps none."""
    if Capability.EMBED in spec.capabilities:
        return 0
    width = max(2, DTYPE_BYTES.get(quant.dtype, 2))
    return 2 * spec.layers * spec.kv_heads * spec.head_dim * width


def need(
    spec: ModelSpec,
    quant: Quant,
    *,
    slots: int,
    context: int,
    engine: EngineFacts | None = None,
) -> MemoryNeed:
    """Memory of ``slots`` concurrent sequences of ``context`` tokens, in bytes.

    ``engine`` is what the worker said of the model's engine, if one is known.
    """
    facts = engine or engines.assumed(spec.engine)
    if facts.memory is EngineMemory.NONE:
        return MemoryNeed(weights=0, kv_cache=0, overhead=0)
    cache = kv_bytes_per_token(spec, quant) * slots * context
    overhead = int((quant.weight_bytes + cache) * OVERHEAD_SHARE) + OVERHEAD_BYTES
    return MemoryNeed(weights=quant.weight_bytes, kv_cache=cache, overhead=overhead)


CONTEXTS = (2048, 8192, 32768)
"""Tokens of one request, prompt and answer, that are shown if nobody asks."""

SLOTS_MAX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPool:
    """Memory a model could be loaded into; ``kind`` is ``cpu`` or ``cuda``."""

    name: str
    kind: str
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FitEstimate:
    """One way to load a model: ``slots`` requests of ``context`` tokens at once.

    ``slots`` is the most that fit, 0 when not one does; ``need`` is then that of one.
    """

    place: MemoryPool
    quant: str
    context: int
    slots: int
    need: MemoryNeed


def fits(
    spec: ModelSpec, places: Iterable[MemoryPool], *, context: int | None = None
) -> Iterator[FitEstimate]:
    """Every quant on every place it runs on, at the usual contexts or at this one."""
    for place in places:
        for quant in spec.quants:
            if place.kind not in quant.devices:
                continue
            for length in contexts(spec, context):
                yield fit(spec, quant, place, length)


def contexts(spec: ModelSpec, context: int | None) -> tuple[int, ...]:
    """The contexts to show: none is longer than the model reads.

    >>> from genie import catalog
    >>> contexts(catalog.load().models["smollm2:135m"], None)
    (2048, 8192)
    """
    if context is not None:
        return (min(context, spec.context_max),)
    shorter = tuple(one for one in CONTEXTS if one < spec.context_max)
    return shorter if len(shorter) == len(CONTEXTS) else (*shorter, spec.context_max)


def fit(spec: ModelSpec, quant: Quant, place: MemoryPool, context: int) -> FitEstimate:
    """The most slots of this context that a place holds."""
    needed = partial(need, spec, quant, context=context)
    slots = SLOTS_MAX
    while slots and needed(slots=slots).total > place.free_bytes:
        slots -= 1
    return FitEstimate(
        place=place,
        quant=quant.name,
        context=context,
        slots=slots,
        need=needed(slots=max(1, slots)),
    )
