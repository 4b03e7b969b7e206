"""Registers workers, takes their heartbeats, and watches who falls silent."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlmodel import Session

from cloud_app import store
from cloud_app.brain import directives, liveness
from cloud_app.brain.views import FleetView, Liveness, WorkerView
from cloud_app.context import Context
from cloud_app.fleet import snapshot
from cloud_app.orgs import auth
from cloud_app.store.records import AnyOrg, PlacementRecord, WorkerRecord, slug_of
from genie import logs
from genie.contracts.base import PROTOCOL
from genie.contracts.fleet import (
    DesiredModel,
    Heartbeat,
    HeartbeatReply,
    ModelState,
    Registration,
    RegistrationReply,
)
from genie.errors import BadRequest, NotFound

log = logs.logger("registry")

VIEW_FOR_S = 0.5
"""How long a process uses one snapshot of the fleet for its requests."""

KNOWN_FOR = timedelta(days=1)
"""A worker silent for longer is left out of the snapshot."""

_MAX_SEQ = 2**63 - 1
_MAX_FACTS = 10_000


def register(ctx: Context, said: Registration, token: str | None) -> RegistrationReply:
    """Register a worker by a join token, or again by its own secret.

    Raises `Unauthorized` with the next step, `BadRequest` for another protocol.
    """
    _check_protocol(said.protocol)
    for param in ("name", "hostname", "boot_id", "version"):
        auth.validate_name(getattr(said, param), param)
    with ctx.db.session() as session:
        if auth.worker_id_of(token) is not None:
            worker, secret = auth.authenticate_returning_worker(session, token), token
            store.workers.update_registration(session, worker.id, said, ctx.now())
        else:
            worker, secret = _join(ctx, session, said, token)
    invalidate_view(ctx)
    log.info("worker_registered", worker=said.name, worker_id=worker.id)
    return RegistrationReply(
        worker_id=worker.id,
        worker_secret=secret or "",
        name=said.name,
        org=worker.org.slug,
        broker_url=ctx.settings.worker_broker_url or ctx.settings.broker_url,
        queues=worker.queues,
        heartbeat_s=ctx.settings.heartbeat_s,
    )


def heartbeat(
    ctx: Context, worker: WorkerRecord | None, beat: Heartbeat
) -> HeartbeatReply:
    """Store a heartbeat and reply with everything the worker should hold.

    None: the cloud does not know the worker, which must register. A heartbeat older
    than the stored one changes nothing. This function never plans.
    """
    _check_beat(beat)
    now = ctx.now()
    if worker is None:
        return _unknown(ctx, beat, now)
    with ctx.db.session() as session:
        is_new = store.workers.save_heartbeat(session, worker.id, beat, now)
        seq = beat.seq if is_new else store.workers.seq(session, worker.id)
        placements = store.placements.of_worker(session, worker.id)
        _keep_facts(ctx, session, beat, now)
    if seq is None:
        return _unknown(ctx, beat, now)
    wanted = (
        ()
        if worker.quarantined_at
        else placements or snapshot.kept_placements(worker, beat, now)
    )
    return HeartbeatReply(
        ack_seq=max(0, seq),
        server_time=now,
        next_in_s=ctx.settings.heartbeat_s,
        desired=_desired(ctx, wanted),
        directives=directives.open_for(wanted, beat.models),
    )


def view(ctx: Context) -> FleetView:
    """The whole fleet now, at most half a second old."""
    memory = ctx.fleet
    with memory.lock:  # one thread reads, the others take what it read
        known = memory.view
        if known is not None:
            age_s = (ctx.now() - known.as_of).total_seconds()
            if 0 <= age_s <= VIEW_FOR_S:
                return known
        with ctx.db.reading() as session:
            memory.view = seen = read_fleet(ctx, session)
        return seen


def read_fleet(ctx: Context, session: Session) -> FleetView:
    """The fleet as this transaction sees it."""
    now = ctx.now()
    placements = store.placements.everything(session)
    workers = known(session, now)
    beat_s = ctx.settings.heartbeat_s
    return snapshot.fleet_view(workers, placements, ctx.catalog, now, beat_s)


def invalidate_view(ctx: Context) -> None:
    """Let the next `view` of this process read anew."""
    ctx.fleet.view = None


def workers(ctx: Context, org: AnyOrg) -> tuple[WorkerRecord, ...]:
    """The workers of an org that were not removed, by name."""
    with ctx.db.reading() as session:
        owner = store.orgs.by_slug(session, slug_of(org))
        return () if owner is None else store.workers.of_org(session, owner)


def quarantine(ctx: Context, org: AnyOrg, worker_id: str, *, on: bool = True) -> None:
    """Exclude a worker of an org from planning, or include it; raises `NotFound`."""
    with ctx.db.session() as session:
        owner = store.orgs.by_slug(session, slug_of(org))
        at = ctx.now() if on else None
        if owner and store.workers.quarantine(session, owner, worker_id, at):
            return
    raise _no_worker(worker_id)


def remove(ctx: Context, org: AnyOrg, worker_id: str) -> None:
    """Remove a worker of an org and its placements; raises `NotFound`."""
    with ctx.db.session() as session:
        owner = store.orgs.by_slug(session, slug_of(org))
        if owner and store.workers.remove(session, owner, worker_id, ctx.now()):
            store.placements.release(session, (worker_id,))
            return
    raise _no_worker(worker_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class LivenessTransition:
    """A worker as it is now, and its liveness at the last look."""

    was: str
    worker: WorkerView


@dataclass(frozen=True, slots=True, kw_only=True)
class GatherReport:
    """The transitions, and how many placements were released."""

    transitions: tuple[LivenessTransition, ...]
    released: int


def gather(ctx: Context) -> GatherReport:
    """Note who is late, offline or lost; release what lost workers held.

    When more than half of the fleet fell silent at once, the cause is ours: nothing is
    released.
    """
    now = ctx.now()
    with ctx.db.reading() as session:
        records = known(session, now)
        held = store.placements.everything(session)
    beat_s = ctx.settings.heartbeat_s
    fleet = snapshot.fleet_view(records, held, ctx.catalog, now, beat_s)
    is_held = liveness.is_mass_silence(fleet)
    changes = _transitions(records, fleet.workers)
    lost = [w.id for w in fleet.workers if w.liveness is Liveness.LOST and w.placements]
    released = _record(ctx, changes, () if is_held else lost)
    _log(changes, is_held)
    return GatherReport(transitions=changes, released=released)


def _transitions(
    records: Iterable[WorkerRecord], views: Iterable[WorkerView]
) -> tuple[LivenessTransition, ...]:
    noted = {record.id: record.noted for record in records}
    return tuple(
        LivenessTransition(was=noted[worker.id], worker=worker)
        for worker in views
        if noted[worker.id] != worker.liveness
    )


def _record(
    ctx: Context, changes: Sequence[LivenessTransition], lost: Sequence[str]
) -> int:
    """Note transitions and release placements; an unchanged fleet costs no write."""
    if not changes and not lost:
        return 0
    with ctx.db.session() as session:
        for change in changes:
            now_is = change.worker.liveness.value
            store.workers.note_liveness(session, change.worker.id, change.was, now_is)
        return store.placements.release(session, lost) if lost else 0


def _log(changes: Iterable[LivenessTransition], is_held: bool) -> None:
    for change in changes:
        worker = change.worker
        is_back = worker.liveness is Liveness.ONLINE
        log.info(
            "worker_back" if is_back else f"worker_{worker.liveness.value}",
            worker=worker.name,
            worker_id=worker.id,
            age_s=round(worker.age_s, 1),
        )
    if is_held:
        log.warning("mass_silence", next_step="look at this cloud's own network first")


def _join(
    ctx: Context, session: Session, said: Registration, token: str | None
) -> tuple[WorkerRecord, str]:
    now = ctx.now()
    grant = auth.redeem(session, token, now)
    silent = now - timedelta(seconds=liveness.OFFLINE_BEATS * ctx.settings.heartbeat_s)
    gone = store.workers.retire(
        session, grant.org, said.name, seen_before=silent, now=now
    )
    if gone:
        store.placements.release(session, gone)
    worker_id = store.ids.new_id(now)
    secret = auth.worker_secret(worker_id)
    store.workers.insert(
        session,
        worker_id,
        grant.org,
        said,
        queues=grant.queues,
        secret_digest=auth.digest(secret),
        now=now,
    )
    store.orgs.note(
        session,
        grant.org,
        at=now,
        actor=f"worker:{worker_id}",
        action="worker_joined",
        subject=said.name,
    )
    return auth.authenticate_returning_worker(session, secret), secret


def _check_protocol(theirs: int) -> None:
    if theirs == PROTOCOL:
        return
    older = "worker" if theirs < PROTOCOL else "cloud"
    raise BadRequest(
        f"the worker speaks protocol {theirs} and this cloud speaks {PROTOCOL}; "
        f"upgrade the {older} (`pip install -U genie-fleet`)",
        param="protocol",
    )


def _check_beat(beat: Heartbeat) -> None:
    _check_protocol(beat.protocol)
    auth.validate_name(beat.boot_id, "boot_id")
    if beat.seq > _MAX_SEQ:
        raise BadRequest(f"seq must be at most {_MAX_SEQ}", param="seq")


def _unknown(ctx: Context, beat: Heartbeat, now: datetime) -> HeartbeatReply:
    return HeartbeatReply(
        ack_seq=beat.seq,
        server_time=now,
        next_in_s=ctx.settings.heartbeat_s,
        register=True,
    )


def _desired(
    ctx: Context, placements: Iterable[PlacementRecord]
) -> tuple[DesiredModel, ...]:
    """Placements with all that is needed to load them; the catalog may have changed."""
    models = ctx.catalog.models
    specs = ((placement, models.get(placement.model)) for placement in placements)
    return tuple(
        DesiredModel(
            spec=spec,
            quant=placement.quant,
            slots=placement.slots,
            context=placement.context,
            reason=placement.reason,
        )
        for placement, spec in specs
        if spec is not None
    )


def _keep_facts(ctx: Context, session: Session, beat: Heartbeat, now: datetime) -> None:
    """Keep what was measured of models never seen before: one statement, seldom."""
    memory = ctx.fleet
    new = {
        (model.model, model.quant, model.fingerprint): model
        for model in beat.models
        if model.state is ModelState.READY
        and model.fingerprint
        and model.fingerprint.isprintable()
        and model.model in ctx.catalog.models
        and model.quant.isprintable()
    }
    for fact in memory.facts & new.keys():
        del new[fact]
    if not new or len(memory.facts) > _MAX_FACTS:
        return
    store.workers.insert_facts(session, new, now)
    memory.facts.update(new)


def known(session: Session, now: datetime) -> tuple[WorkerRecord, ...]:
    """Workers heard of within a day."""
    return store.workers.seen_since(session, now - KNOWN_FOR)


def _no_worker(worker_id: str) -> NotFound:
    return NotFound(
        f"there is no worker {worker_id} in this org; `genie workers` lists them",
        param="worker",
    )
