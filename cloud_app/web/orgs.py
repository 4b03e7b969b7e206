"""An org for its admins: join tokens, API keys, how long texts are kept."""

from datetime import timedelta
from typing import Annotated, Literal

from flask import request
from pydantic import BaseModel, Field

from cloud_app.api.json import of_record
from cloud_app.api.requests import RequestModel
from cloud_app.orgs import auth
from cloud_app.settings import ALONE, CloudSettings
from cloud_app.web.ops import release
from cloud_app.web.request import blueprint, context, key, require_admin
from genie import topology
from genie.api_types import (
    JoinTokenAnswer,
    KeyAnswer,
    KeyList,
    NewKeyAnswer,
    RetentionAnswer,
    RevokedKey,
)
from genie.errors import Conflict

api = blueprint("orgs", "admin", guard=require_admin)

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


class RetentionRequest(RequestModel):
    """How long to keep texts; for jobs submitted from now on."""

    hours: int | None = Field(
        ge=0, le=8760, description="null: as long as the cloud keeps them."
    )


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
    return KeyList(data=tuple(of_record(KeyAnswer, one) for one in found))


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
    return of_record(NewKeyAnswer, record, secret=secret), 201


@api.delete("/keys/<key_id>")
def revoke_key(path: KeyPath) -> RevokedKey:
    """Revoke an API key, at once."""
    auth.revoke_key(context(), key().org.slug, path.key_id, actor=key().prefix)
    return RevokedKey(id=path.key_id)


@api.get("/retention")
def get_retention() -> RetentionAnswer:
    """Hours that prompts and answers are kept after the end of a job."""
    return _retention(key().org.retain_h)


@api.put("/retention")
def set_retention(body: RetentionRequest) -> RetentionAnswer:
    """Keep them for so many hours; 0: not past their delivery."""
    actor = key().prefix
    return _retention(auth.retain(context(), key().org, body.hours, actor=actor))


def _retention(hours: int | None) -> RetentionAnswer:
    most = context().settings.retain_h
    kept = most if hours is None else min(hours, most)
    return RetentionAnswer(hours=hours, kept_h=kept)


def join_command(settings: CloudSettings, host_url: str, token: str) -> str:
    """The command for a machine that shall join, beside a copy of the wheel there."""
    url = (settings.public_url or host_url).rstrip("/")
    return (
        f"pip install 'genie_fleet-{release()}-py3-none-any.whl[worker]' && "
        f"genie worker join {url} --token {token}"
    )
