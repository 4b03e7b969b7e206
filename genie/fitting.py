"""How many requests of which length fit where: the arithmetic of a model's memory."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from genie import sizing
from genie.contracts.model import ModelSpec, Quant
from genie.sizing import Need

CONTEXTS = (2048, 8192, 32768)
"""Tokens of one request, prompt and answer, that are shown if nobody asks."""

SLOTS_MAX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Memory a model could be loaded into; ``kind`` is ``cpu`` or ``cuda``."""

    name: str
    kind: str
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """One way to load a model: ``slots`` requests of ``context`` tokens at once.

    ``slots`` is the most that fit, 0 when not one does; ``need`` is then that of one.
    """

    place: Place
    quant: str
    context: int
    slots: int
    need: Need


def fits(
    spec: ModelSpec, places: Iterable[Place], *, context: int | None = None
) -> Iterator[Fit]:
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


def fit(spec: ModelSpec, quant: Quant, place: Place, context: int) -> Fit:
    """The most slots of this context that a place holds."""
    slots = SLOTS_MAX
    while slots and _need(spec, quant, slots, context).total > place.free_bytes:
        slots -= 1
    return Fit(
        place=place,
        quant=quant.name,
        context=context,
        slots=slots,
        need=_need(spec, quant, max(1, slots), context),
    )


def _need(spec: ModelSpec, quant: Quant, slots: int, context: int) -> Need:
    return sizing.need(spec, quant, slots=slots, context=context)
