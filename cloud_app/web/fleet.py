"""The fleet over HTTP: what workers call, and what its admins see of it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated

from flask import Response, request
from msgspec import structs
from pydantic import BaseModel, Field

from cloud_app.api.json import of_record
from cloud_app.brain import liveness
from cloud_app.brain.views import Liveness, PlacementView
from cloud_app.bus import QueueDepth
from cloud_app.context import Context
from cloud_app.fleet import placement, registry
from cloud_app.jobs import admission, failures
from cloud_app.jobs.job_json import route_answer
from cloud_app.orgs import auth
from cloud_app.store import reports
from cloud_app.store.records import KeyRecord, WorkerRecord
from cloud_app.store.reports import JobTimes
from cloud_app.web import figures
from cloud_app.web.figures import WorkShare
from cloud_app.web.openapi import BodySpec, ResponseSpec
from cloud_app.web.request import bearer, blueprint, context, key, require_admin
from genie import topology
from genie.api_types import (
    FleetAnswer,
    GpuAnswer,
    HostAnswer,
    JobLine,
    PlacementAnswer,
    QueueAnswer,
    QueueList,
    ReasonAnswer,
    WorkerAnswer,
    WorkerList,
    WorkerModel,
    from_contract,
)
from genie.contracts import codec
from genie.contracts.fleet import (
    Heartbeat,
    HeartbeatReply,
    Registration,
    RegistrationReply,
)
from genie.contracts.inference import JobState, WorkClass

api = blueprint("admin_api", "admin", guard=require_admin)


class FleetQuery(BaseModel):
    """How much to show."""

    jobs: int = Field(20, ge=0, le=200, description="So many jobs at most.")


@api.get("/workers")
def list_workers() -> WorkerList:
    """Every worker of this org: state, GPUs, models, placements."""
    return WorkerList(data=workers_now(context(), key()))


@api.get("/queues")
def list_queues() -> QueueList:
    """What waits in each queue this org may use, by model and class of work."""
    return QueueList(data=queues_now())


@api.get("/fleet")
def show_fleet(query: FleetQuery) -> FleetAnswer:
    """The whole fleet now: figures, workers, queues, jobs, where personas go."""
    ctx, org = context(), key().org
    now = ctx.now()
    jobs = reports.since(ctx.db, org, now - figures.HOUR)
    counts = reports.counts(ctx.db, org, now - figures.HOUR)
    return FleetAnswer(
        org=org.slug,
        now=round(now.timestamp(), 3),
        figures=figures.figures_now(jobs, counts, now),
        workers=workers_now(ctx, key()),
        queues=queues_now(),
        jobs=tuple(
            of_record(JobLine, job, status=job.state)
            for job in _running_first(jobs)[: query.jobs]
        ),
        routes=routing_reasons(ctx, key(), figures.shares(jobs, now)),
    )


def _running_first(jobs: Sequence[JobTimes]) -> list[JobTimes]:
    return sorted(jobs, key=lambda job: job.state is not JobState.RUNNING)


def workers_now(ctx: Context, key: KeyRecord) -> tuple[WorkerAnswer, ...]:
    """Every worker of the org that asks."""
    held = {view.id: view.placements for view in registry.view(ctx).workers}
    known = registry.workers(ctx, key.org.slug)
    return tuple(_worker(ctx, worker, held.get(worker.id, ())) for worker in known)


def queues_now() -> tuple[QueueAnswer, ...]:
    """Every queue the org that asks may use."""
    ctx = context()
    names = {topology.SHARED, topology.org_queue(key().org.slug)}
    used = {(d.queue, d.model) for d in placement.demand(ctx) if d.queue in names}
    wanted = [(*pair, kind) for pair in sorted(used) for kind in WorkClass]
    waiting_s = placement.waiting_s(ctx)
    return tuple(
        _queue(depth, waiting_s.get((depth.queue, depth.model, depth.work_class)))
        for depth in ctx.bus.depths(wanted)
    )


def _worker(
    ctx: Context, worker: WorkerRecord, held: tuple[PlacementView, ...]
) -> WorkerAnswer:
    seen_at = worker.seen_at or worker.registered_at
    age_s = max(0.0, (ctx.now() - seen_at).total_seconds())
    status = worker.status
    return of_record(
        WorkerAnswer,
        worker,
        org=worker.org.slug,
        state=worker_state(worker, age_s, ctx.settings.heartbeat_s),
        gpus=from_contract(tuple[GpuAnswer, ...], status.gpus) if status else (),
        host=from_contract(HostAnswer, status.host) if status else None,
        models=from_contract(tuple[WorkerModel, ...], status.models) if status else (),
        placements=tuple(of_record(PlacementAnswer, one) for one in held),
        last_heartbeat_s=round(age_s, 1),
    )


def _queue(depth: QueueDepth, oldest_s: float | None) -> QueueAnswer:
    return of_record(
        QueueAnswer,
        depth,
        oldest_s=None if oldest_s is None else round(oldest_s, 1),
        sla_s=sla_s(context(), depth.model),
    )


def worker_state(worker: WorkerRecord, age_s: float, heartbeat_s: float) -> str:
    """A worker in one word: how alive it is, or that it takes nothing new."""
    heard = liveness.liveness(age_s, heartbeat_s)
    if heard is not Liveness.ONLINE:
        return heard.value
    if worker.quarantined_at is not None:
        return "quarantined"
    return "draining" if worker.status and worker.status.draining else heard.value


def sla_s(ctx: Context, model: str | None = None) -> float:
    """The shortest wait promised to a persona (that may use ``model``), in seconds."""
    promises = [
        persona.sla.queue_wait_p95_s
        for persona in ctx.catalog.personas.values()
        if model is None or model in persona.ladder
    ]
    return min(promises, default=30.0)


def routing_reasons(
    ctx: Context, key: KeyRecord, shares: Sequence[WorkShare]
) -> tuple[ReasonAnswer, ...]:
    """Last hour's work first, then where the other personas would go now."""
    newest = [share.newest_job_id for share in shares]
    why = reports.reasons(ctx.db, key.org, newest)
    asked = {share.persona for share in shares}
    idle = [name for name in ctx.catalog.personas if name not in asked]
    return (
        *(_asked(share, why) for share in shares),
        *_merged(_unasked(ctx, key, name) for name in idle),
    )


def _asked(share: WorkShare, why: Mapping[str, tuple[str, ...]]) -> ReasonAnswer:
    return ReasonAnswer(
        personas=(share.persona,) if share.persona else (),
        model=share.model,
        share=round(share.share, 3),
        first_token_p95_s=share.first_token_p95_s,
        why="; ".join(why.get(share.newest_job_id, ())),
    )


def _unasked(ctx: Context, key: KeyRecord, persona: str) -> ReasonAnswer:
    target = admission.resolve(ctx.catalog, None, persona)
    route = route_answer(failures.explain(admission.decide(ctx, key, target)))
    why = route.message or "; ".join(route.reasons)
    return ReasonAnswer(personas=(persona,), model=route.model, why=why)


def _merged(found: Iterable[ReasonAnswer]) -> Iterator[ReasonAnswer]:
    """Personas that would go to the same model for the same reason, as one."""
    groups: dict[tuple[str | None, str], list[ReasonAnswer]] = {}
    for reason in found:
        groups.setdefault((reason.model, reason.why), []).append(reason)
    for group in groups.values():
        personas = tuple(name for reason in group for name in reason.personas)
        yield structs.replace(group[0], personas=personas)


fleet_api = blueprint("fleet", "fleet", prefix="/fleet/v1", guard=None)


@fleet_api.post("/register")
def register() -> Annotated[
    Response, BodySpec(Registration), ResponseSpec(RegistrationReply)
]:
    """Join the fleet with a join token, or come back with the worker's own secret."""
    token = bearer()
    auth.check_joiner(context(), token)
    registration = codec.decode(Registration, request.get_data())
    return _contract(registry.register(context(), registration, token))


@fleet_api.post("/heartbeat")
def heartbeat() -> Annotated[
    Response, BodySpec(Heartbeat), ResponseSpec(HeartbeatReply)
]:
    """Report status; the answer always holds the full set of desired models."""
    worker = auth.authenticate_worker(context(), bearer())
    beat = codec.decode(Heartbeat, request.get_data())
    return _contract(registry.heartbeat(context(), worker, beat))


def _contract(value: RegistrationReply | HeartbeatReply) -> Response:
    return Response(codec.encode(value), mimetype="application/json")
