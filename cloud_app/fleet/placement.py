"""Places models: reads the fleet, lets the brain plan, writes the differences."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import datetime, timedelta

from sqlmodel import Session

from cloud_app import store
from cloud_app.brain import liveness, planner, router
from cloud_app.brain.planner import PlacementPlan
from cloud_app.brain.views import DemandView, FleetView, Liveness, PlacementView
from cloud_app.context import Context
from cloud_app.fleet import registry
from cloud_app.store.records import Backlog, PlacementRecord
from genie import logs
from genie.errors import BrokerDown

log = logs.logger("placement")

ARRIVALS_OVER = timedelta(minutes=5)
"""The period over which arrivals per minute are counted."""


def place(ctx: Context) -> PlacementPlan:
    """Plan, write the differences in one transaction, and nudge the changed workers.

    Brains that plan at once take turns, so the second one sees what the first one
    wrote and finds nothing to do.
    """
    gone = _gone(ctx)
    with ctx.db.session() as session:
        store.placements.lock(session)
        fleet = liveness.without(registry.read_fleet(ctx, session), gone)
        demanded = _demand(ctx, session, fleet)
        plan = planner.plan(fleet, demanded, ctx.catalog, fleet.as_of)
        changes = _changes(fleet, plan)
        _write(session, changes)
    if changes:
        registry.invalidate_view(ctx)
        _nudge(ctx, changes)
    _log(plan)
    return plan


def demand(ctx: Context) -> tuple[DemandView, ...]:
    """Open and recent work by queue and model, and standing demand of personas."""
    fleet = registry.view(ctx)
    with ctx.db.reading() as session:
        return _demand(ctx, session, fleet)


def waiting_s(ctx: Context) -> dict[store.backlog.BacklogKey, float]:
    """The age of the oldest waiting job, by queue, model and class."""
    now = ctx.now()
    with ctx.db.reading() as session:
        oldest = store.backlog.oldest(session)
    return {of: max(0.0, (now - at).total_seconds()) for of, at in oldest.items()}


def _gone(ctx: Context) -> frozenset[str]:
    """Late workers that have also lost the broker: most likely dead.

    Asked before the transaction, because that one holds up other brains.
    """
    late = (w.id for w in registry.view(ctx).workers if w.liveness is Liveness.LATE)
    try:
        return frozenset(one for one in late if not ctx.bus.is_listening(one))
    except BrokerDown as error:
        log.warning("late_workers_unknown", error=str(error))
        return frozenset()


PlacementDiff = tuple[tuple[PlacementView, ...], tuple[str, ...]]
"""Placements to write and models to drop for one worker."""


def _changes(fleet: FleetView, plan: PlacementPlan) -> dict[str, PlacementDiff]:
    """What to change, by worker id; unchanged workers have no entry."""
    changes = dict[str, PlacementDiff]()
    for worker in fleet.workers:
        after = plan.desired[worker.id]
        known = {placement.model: placement for placement in worker.placements}
        written = tuple(one for one in after if _is_new(known.get(one.model), one))
        dropped = tuple(sorted(known.keys() - {one.model for one in after}))
        if written or dropped:
            changes[worker.id] = written, dropped
    return changes


def _is_new(before: PlacementView | None, after: PlacementView) -> bool:
    """True unless the placement is the same; a new reason alone is no change."""
    if before is None:
        return True
    shape = (before.quant, before.slots, before.context)
    return shape != (after.quant, after.slots, after.context)


def _write(session: Session, changes: dict[str, PlacementDiff]) -> None:
    for worker_id, (written, dropped) in changes.items():
        if dropped:
            store.placements.drop(session, worker_id, dropped)
        for placement in written:
            record = PlacementRecord(**asdict(placement) | {"worker_id": worker_id})
            store.placements.write(session, record)


def _nudge(ctx: Context, worker_ids: Iterable[str]) -> None:
    """Best effort: a worker that misses the nudge learns it with its next heartbeat."""
    for worker_id in worker_ids:
        try:
            ctx.bus.nudge(worker_id)
        except BrokerDown as error:
            log.warning("nudges_not_sent", error=str(error))
            return


def _demand(ctx: Context, session: Session, fleet: FleetView) -> tuple[DemandView, ...]:
    backlog = store.backlog.counts(session, fleet.as_of - ARRIVALS_OVER)
    work = (_of_backlog(item, fleet.as_of) for item in backlog)
    return (*work, *_standing(ctx, fleet))


def _of_backlog(item: Backlog, now: datetime) -> DemandView:
    oldest_s = (now - item.oldest_at).total_seconds() if item.oldest_at else 0.0
    return DemandView(
        queue=item.queue,
        model=item.model,
        queued=item.queued,
        running=item.running,
        arrivals_per_min=item.arrived / (ARRIVALS_OVER.total_seconds() / 60),
        oldest_s=max(0.0, oldest_s),
    )


def _standing(ctx: Context, fleet: FleetView) -> Iterator[DemandView]:
    """Replicas of the models that serve standing personas, on each queue."""
    open_workers = (worker for worker in fleet.workers if worker.is_open)
    queues = {queue for worker in open_workers for queue in worker.queues}
    for queue in sorted(queues):
        for persona in ctx.catalog.personas.values():
            if not persona.standing:
                continue
            rung = router.rung(persona, queue, fleet, ctx.catalog)
            if rung.spec is not None:
                yield DemandView(
                    queue=queue,
                    model=rung.spec.id,
                    standing=True,
                    replicas=persona.replicas,
                )


def _log(plan: PlacementPlan) -> None:
    for move in plan.moves:
        log.info(
            "placement_moved",
            kind=move.kind.value,
            worker=move.worker,
            model=move.model,
            reason=move.reason,
        )
    if plan.held is not None:
        log.warning("placement_held", reason=plan.held)
