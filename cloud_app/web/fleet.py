"""The fleet for its admins: workers, queues, join tokens and API keys."""

from datetime import timedelta
from typing import Annotated, Literal

from flask import request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from msgspec import structs
from pydantic import BaseModel, Field

from cloud_app.api import errors
from cloud_app.api.requests import RequestModel
from cloud_app.brain.views import PlacementView
from cloud_app.bus import QueueDepth
from cloud_app.fleet import placement, registry
from cloud_app.orgs import auth
from cloud_app.settings import ALONE
from cloud_app.store.records import KeyRecord, WorkerRecord
from cloud_app.web.pages import fleet
from cloud_app.web.pages.commands import join_command
from cloud_app.web.request import context, key, require_admin
from genie import topology
from genie.api_types import (
    GpuAnswer,
    HostAnswer,
    JoinTokenAnswer,
    KeyAnswer,
    KeyList,
    NewKeyAnswer,
    PlacementAnswer,
    QueueAnswer,
    QueueList,
    RevokedKey,
    WorkerAnswer,
    WorkerList,
    WorkerModel,
    from_contract,
)
from genie.contracts.inference import WorkClass
from genie.errors import Conflict

api = APIBlueprint(
    "admin_api",
    __name__,
    url_prefix="/v1",
    abp_tags=[Tag(name="admin", description="For admin keys")],
    abp_security=[{"key": []}],
    abp_responses=errors.RESPONSES,
)
api.before_request(require_admin)

DisplayName = Annotated[str, Field(min_length=1, max_length=80)]


class JoinTokenRequest(RequestModel):
    """Which queues the new worker shall serve; the shared one if not said."""

    queues: list[str] | None = Field(None, min_length=1, max_length=8)


class KeyRequest(RequestModel):
    """The key to make."""

    name: DisplayName
    is_admin: bool = False
    allowed_models: list[str] | None = Field(None, min_length=1, max_length=100)


class KeyPath(BaseModel):
    """Which key, by id or prefix."""

    key_id: str = Field(max_length=100)


@api.get("/workers")
def list_workers() -> WorkerList:
    """Every worker of this org: state, GPUs, models, placements."""
    return WorkerList(data=workers_now())


@api.get("/queues")
def list_queues() -> QueueList:
    """What waits in each queue this org may use, by model and class of work."""
    return QueueList(data=queues_now())


@api.post("/join-tokens")
def make_join_token(body: JoinTokenRequest) -> tuple[JoinTokenAnswer, Literal[201]]:
    """Make a token one worker joins with, once, within an hour; shown only now."""
    ctx = context()
    if not ctx.settings.takes_machines:
        raise Conflict(ALONE, code="embedded_fleet")
    queues = tuple(body.queues or (topology.SHARED,))
    token = auth.create_join_token(ctx, key().org.slug, queues, actor=key().prefix)
    expires_at = ctx.now() + timedelta(seconds=auth.JOIN_TTL_S)
    made = JoinTokenAnswer(
        token=token,
        queues=queues,
        expires_at=int(expires_at.timestamp()),
        command=join_command(ctx.settings, request.host_url, token),
    )
    return made, 201


@api.get("/keys")
def list_keys() -> KeyList:
    """Every API key of this org, without its secret."""
    found = auth.list_keys(context(), key().org.slug)
    return KeyList(data=tuple(map(_key, found)))


@api.post("/keys")
def make_key(body: KeyRequest) -> tuple[NewKeyAnswer, Literal[201]]:
    """Make an API key; its secret is shown only now."""
    allowed = body.allowed_models
    record, secret = auth.create_key(
        context(),
        key().org.slug,
        body.name,
        body.is_admin,
        None if allowed is None else tuple(allowed),
        actor=key().prefix,
    )
    return NewKeyAnswer(**structs.asdict(_key(record)), secret=secret), 201


@api.delete("/keys/<key_id>")
def revoke_key(path: KeyPath) -> RevokedKey:
    """Revoke an API key, at once."""
    auth.revoke_key(context(), key().org.slug, path.key_id, actor=key().prefix)
    return RevokedKey(id=path.key_id)


def workers_now() -> tuple[WorkerAnswer, ...]:
    """Every worker of the org that asks."""
    ctx = context()
    held = {view.id: view.placements for view in registry.view(ctx).workers}
    known = registry.workers(ctx, key().org.slug)
    return tuple(_worker(worker, held.get(worker.id, ())) for worker in known)


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


def _worker(worker: WorkerRecord, held: tuple[PlacementView, ...]) -> WorkerAnswer:
    seen_at = worker.seen_at or worker.registered_at
    age_s = max(0.0, (context().now() - seen_at).total_seconds())
    status = worker.status
    return WorkerAnswer(
        id=worker.id,
        name=worker.name,
        org=worker.org.slug,
        state=fleet.state(worker, age_s, context().settings.heartbeat_s),
        queues=worker.queues,
        hostname=worker.hostname,
        version=worker.version,
        gpus=from_contract(tuple[GpuAnswer, ...], status.gpus) if status else (),
        host=from_contract(HostAnswer, status.host) if status else None,
        models=from_contract(tuple[WorkerModel, ...], status.models) if status else (),
        placements=tuple(map(_placement, held)),
        last_heartbeat_s=round(age_s, 1),
    )


def _placement(held: PlacementView) -> PlacementAnswer:
    return PlacementAnswer(
        model=held.model,
        quant=held.quant,
        slots=held.slots,
        context=held.context,
        reason=held.reason,
        since=int(held.since.timestamp()),
    )


def _queue(depth: QueueDepth, oldest_s: float | None) -> QueueAnswer:
    return QueueAnswer(
        queue=depth.queue,
        model=depth.model,
        work_class=depth.work_class.value,
        waiting=depth.waiting,
        consumers=depth.consumers,
        oldest_s=None if oldest_s is None else round(oldest_s, 1),
        sla_s=fleet.sla_s(context(), depth.model),
    )


def _key(record: KeyRecord) -> KeyAnswer:
    revoked_at = record.revoked_at
    return KeyAnswer(
        id=record.id,
        name=record.name,
        prefix=record.prefix,
        is_admin=record.is_admin,
        allowed_models=record.allowed_models,
        created_at=int(record.created_at.timestamp()),
        revoked_at=None if revoked_at is None else int(revoked_at.timestamp()),
    )
