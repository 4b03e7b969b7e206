"""Reports how far a worker is with the cloud's directives, from its state (pure).

Directives repeat what the desired set already says; the set is obeyed, this reports.
"""

from collections.abc import Iterable, Sequence

from genie.contracts.fleet import (
    Directive,
    DirectiveKind,
    DirectiveStatus,
    ModelState,
    ModelStatus,
)

ON_DISK = frozenset(
    {ModelState.ON_DISK, ModelState.LOADING, ModelState.READY, ModelState.UNLOADING}
)
UNDER_WAY = frozenset({ModelState.FETCHING, ModelState.ON_DISK, ModelState.LOADING})
GONE = frozenset({ModelState.ABSENT, ModelState.ON_DISK})


def wants_drain(directives: Iterable[Directive], *, is_draining: bool) -> bool:
    """Whether the worker as a whole should take no new work from now on."""
    for directive in directives:
        if directive.kind is DirectiveKind.DRAIN:
            return True
        if directive.kind is DirectiveKind.RESUME:
            is_draining = False
    return is_draining


def progress(
    directives: Iterable[Directive],
    models: Sequence[ModelStatus],
    *,
    is_draining: bool,
) -> tuple[DirectiveStatus, ...]:
    """One status for each directive: accepted, running, done or failed."""
    by_model = {status.model: status for status in models}
    is_idle = not any(status.in_flight for status in models)
    return tuple(
        _worker(directive, is_draining=is_draining, is_idle=is_idle)
        if directive.kind in (DirectiveKind.DRAIN, DirectiveKind.RESUME)
        else _model(directive, by_model.get(directive.model or ""))
        for directive in directives
    )


def _worker(
    directive: Directive, *, is_draining: bool, is_idle: bool
) -> DirectiveStatus:
    is_done = not is_draining
    if directive.kind is DirectiveKind.DRAIN:
        is_done = is_draining and is_idle
    return DirectiveStatus(id=directive.id, state="done" if is_done else "running")


DONE = {DirectiveKind.UNLOAD: GONE, DirectiveKind.PREFETCH: ON_DISK}


def _model(directive: Directive, status: ModelStatus | None) -> DirectiveStatus:
    status = status or ModelStatus(model="", quant="", state=ModelState.ABSENT)
    if status.state in DONE.get(directive.kind, {ModelState.READY}):
        return DirectiveStatus(id=directive.id, state="done")
    if directive.kind is DirectiveKind.UNLOAD:
        return DirectiveStatus(id=directive.id, state="running")
    if status.state is ModelState.FAILED:
        return DirectiveStatus(id=directive.id, state="failed", error=status.error)
    word = "running" if status.state in UNDER_WAY else "accepted"
    return DirectiveStatus(id=directive.id, state=word, progress=status.progress)
