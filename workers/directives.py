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
    in_flight = sum(status.in_flight for status in models)
    return tuple(
        _worker(directive, is_draining=is_draining, in_flight=in_flight)
        if directive.kind in (DirectiveKind.DRAIN, DirectiveKind.RESUME)
        else _model(directive, by_model.get(directive.model or ""))
        for directive in directives
    )


def _worker(
    directive: Directive, *, is_draining: bool, in_flight: int
) -> DirectiveStatus:
    if directive.kind is DirectiveKind.RESUME:
        return DirectiveStatus(
            id=directive.id, state="running" if is_draining else "done"
        )
    is_done = is_draining and in_flight == 0
    return DirectiveStatus(id=directive.id, state="done" if is_done else "running")


def _model(directive: Directive, status: ModelStatus | None) -> DirectiveStatus:
    state = ModelState.ABSENT if status is None else status.state
    if directive.kind is DirectiveKind.UNLOAD:
        return DirectiveStatus(
            id=directive.id, state="done" if state in GONE else "running"
        )
    if state is ModelState.FAILED and status is not None:
        return DirectiveStatus(id=directive.id, state="failed", error=status.error)
    done = {ModelState.READY}
    if directive.kind is DirectiveKind.PREFETCH:
        done = set(ON_DISK)
    if state in done:
        return DirectiveStatus(id=directive.id, state="done")
    share = None if status is None else status.progress
    word = "running" if state in UNDER_WAY else "accepted"
    return DirectiveStatus(id=directive.id, state=word, progress=share)
