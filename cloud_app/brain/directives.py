"""Computes directives: the difference between the desired and the held models."""

from collections.abc import Iterable

from cloud_app.brain.views import PlacementView
from genie.contracts.fleet import Directive, DirectiveKind, ModelState, ModelStatus

_HOLDS = (
    ModelState.FETCHING,
    ModelState.LOADING,
    ModelState.READY,
    ModelState.UNLOADING,
)
"""States in which a model takes memory or soon will."""


def open_for(
    desired: Iterable[PlacementView], reported: Iterable[ModelStatus]
) -> tuple[Directive, ...]:
    """What a worker still has to do; unloads come first because they free memory.

    The same difference always gives the same ids; a model that is placed
    again later gets a new id.
    """
    wanted, seen = tuple(desired), tuple(reported)
    keep = {(p.model, p.quant) for p in wanted}
    done = {(m.model, m.quant) for m in seen if m.state is ModelState.READY}
    gone = [m for m in seen if m.state in _HOLDS and (m.model, m.quant) not in keep]
    missing = [p for p in wanted if (p.model, p.quant) not in done]
    unloads = sorted((_unload(m) for m in gone), key=lambda directive: directive.id)
    loads = sorted((_load(p) for p in missing), key=lambda directive: directive.id)
    return (*unloads, *loads)


def _load(placement: PlacementView) -> Directive:
    since = int(placement.since.timestamp())
    return Directive(
        id=f"load-{placement.model}-{placement.quant}-{since}",
        kind=DirectiveKind.LOAD,
        model=placement.model,
        quant=placement.quant,
    )


def _unload(status: ModelStatus) -> Directive:
    return Directive(
        id=f"unload-{status.model}-{status.quant}",
        kind=DirectiveKind.UNLOAD,
        model=status.model,
        quant=status.quant,
        fingerprint=status.fingerprint,
    )
