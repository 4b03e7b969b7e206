"""Watches liveness: notes transitions and releases what lost workers held."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from cloud_app import store
from cloud_app.brain import liveness
from cloud_app.brain.views import Liveness, WorkerView
from cloud_app.context import Context
from cloud_app.fleet import registry, snapshot
from cloud_app.store.records import WorkerRecord
from genie import logs

log = logs.logger("watch")


@dataclass(frozen=True, slots=True, kw_only=True)
class LivenessTransition:
    """A worker whose liveness changed since the last look."""

    worker_id: str
    worker: str
    was: str
    now_is: str
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GatherReport:
    """Workers by liveness, transitions, and how many placements were released.

    ``is_held``: mass silence, so nothing is released.
    """

    counts: dict[Liveness, int]
    transitions: tuple[LivenessTransition, ...]
    released: int
    is_held: bool


def gather(ctx: Context) -> GatherReport:
    """Note who is late, offline or lost; release what lost workers held.

    When more than half of the fleet fell silent at once, the cause is ours: nothing is
    released.
    """
    now = ctx.now()
    with ctx.db.reading() as session:
        records = registry.known(session, now)
        held = store.placements.everything(session)
    beat_s = ctx.settings.heartbeat_s
    fleet = snapshot.fleet_view(records, held, ctx.catalog, now, beat_s)
    is_held = liveness.is_mass_silence(fleet)
    changes = _transitions(records, fleet.workers)
    lost = [w.id for w in fleet.workers if w.liveness is Liveness.LOST and w.placements]
    released = _record(ctx, changes, () if is_held else lost)
    _tell(changes, is_held)
    return GatherReport(
        counts=dict(Counter(worker.liveness for worker in fleet.workers)),
        transitions=changes,
        released=released,
        is_held=is_held,
    )


def _transitions(
    records: Iterable[WorkerRecord], views: Iterable[WorkerView]
) -> tuple[LivenessTransition, ...]:
    noted = {record.id: record.noted for record in records}
    return tuple(
        LivenessTransition(
            worker_id=worker.id,
            worker=worker.name,
            was=noted[worker.id],
            now_is=worker.liveness.value,
            age_s=worker.age_s,
        )
        for worker in views
        if noted[worker.id] != worker.liveness.value
    )


def _record(
    ctx: Context, changes: Iterable[LivenessTransition], lost: Iterable[str]
) -> int:
    """Note transitions and release placements; an unchanged fleet costs no write."""
    changes, lost = tuple(changes), tuple(lost)
    if not changes and not lost:
        return 0
    with ctx.db.session() as session:
        for change in changes:
            store.workers.note_liveness(
                session, change.worker_id, change.was, change.now_is
            )
        return store.placements.release(session, lost) if lost else 0


def _tell(changes: Iterable[LivenessTransition], is_held: bool) -> None:
    for change in changes:
        event = "back" if change.now_is == Liveness.ONLINE else change.now_is
        log.info(
            f"worker_{event}",
            worker=change.worker,
            worker_id=change.worker_id,
            age_s=round(change.age_s, 1),
        )
    if is_held:
        log.warning("mass_silence", next_step="look at this cloud's own network first")
