"""Authenticates callers by API keys, join tokens and worker secrets.

Each is shown once and stored as a SHA-256 digest under a lookup prefix; they carry over
120 random bits, so a slow hash would protect nothing.
"""

import hashlib
import hmac
import re
import secrets
import string
from datetime import datetime, timedelta

from sqlmodel import Session

from cloud_app import store
from cloud_app.context import Context
from cloud_app.store.records import (
    AnyOrg,
    JoinTokenRecord,
    KeyRecord,
    OrgRecord,
    WorkerRecord,
    slug_of,
)
from genie import logs, topology
from genie.errors import BadRequest, NotFound, Unauthorized

log = logs.logger("auth")

KEY = "sk-genie-"
JOIN = "gj-"
WORKER = "gw-"
JOIN_TTL_S = 3600.0

_BASE62 = string.ascii_letters + string.digits
_KEY_LENGTH = 24
_TOKEN_LENGTH = 40
_SHOWN = 6
_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,37}[a-z0-9])?")
_MAX_NAME = 80
_MAX_SECRET = 200


def authenticate(
    ctx: Context, bearer: str | None, *, remote_addr: str | None = None
) -> KeyRecord:
    """The live key of a bearer credential; raises `Unauthorized`."""
    if not bearer:
        raise Unauthorized(
            "no API key was sent; set GENIE_API_KEY, or send the header "
            "`Authorization: Bearer sk-genie-…`"
        )
    found = _look_up(ctx, _prefix(bearer, _KEY_LENGTH))
    if found is None or not _matches(bearer, found[1]):
        log.warning("key_refused", remote_addr=remote_addr)
        raise Unauthorized(
            "this API key is not known here; check GENIE_API_KEY, or make a key with "
            "`genie keys create`"
        )
    if found[0].revoked_at is not None:
        log.warning("key_revoked", remote_addr=remote_addr, key=found[0].prefix)
        raise Unauthorized(
            "this API key was revoked; make a new one with `genie keys create`"
        )
    return found[0]


def is_known(ctx: Context, bearer: str) -> bool:
    """True for a live API key, join token or worker secret; raises `DatabaseDown`."""
    try:
        if bearer.startswith(KEY):
            authenticate(ctx, bearer)
        else:
            check_joiner(ctx, bearer)
    except Unauthorized:
        return False
    return True


def _look_up(ctx: Context, prefix: str) -> tuple[KeyRecord, str] | None:
    """A key and its digest; a live one may be as old as the context's cache allows."""
    if (known := ctx.keys.get(prefix, ctx.now())) is not None:
        return known
    with ctx.keys.alone(prefix):
        return ctx.keys.get(prefix, ctx.now()) or _read_key(ctx, prefix)


def _read_key(ctx: Context, prefix: str) -> tuple[KeyRecord, str] | None:
    generation, now = ctx.keys.generation, ctx.now()
    with ctx.db.reading() as session:
        found = store.keys.by_prefix(session, prefix)
    ctx.keys.put(prefix, found, now, generation)
    return found


def live_key(ctx: Context, prefix: str) -> KeyRecord:
    """The live key with this lookup prefix, for a session that showed it earlier.

    Raises `Unauthorized` once it is revoked.
    """
    with ctx.db.reading() as session:
        found = store.keys.by_prefix(session, prefix)
    if found is None or found[0].revoked_at is not None:
        raise Unauthorized("this key was revoked; log in with another one")
    return found[0]


def ensure_org(ctx: Context, slug: str, name: str | None = None) -> OrgRecord:
    """The org with this slug, created if missing."""
    if not _SLUG.fullmatch(slug):
        raise BadRequest(
            f"org {slug!r} is not a slug; use 1 to 39 of a-z, 0-9 and -", param="org"
        )
    with ctx.db.session() as session:
        if store.orgs.insert(session, slug, validate_name(name or slug), ctx.now()):
            log.info("org_created", org=slug)
        return _org(session, slug)


def retain(
    ctx: Context, org: AnyOrg, hours: int | None, *, actor: str = "cli"
) -> int | None:
    """Set how long an org's texts are kept; None: the cloud's setting."""
    now = ctx.now()
    with ctx.db.session() as session:
        owner = _org(session, org)
        store.orgs.retain(session, owner, hours)
        _audit(session, owner, now, actor, "retention_set", str(hours))
    ctx.keys.clear()
    return hours


def create_key(
    ctx: Context,
    org: AnyOrg,
    name: str,
    is_admin: bool = False,
    allowed_models: tuple[str, ...] | None = None,
    *,
    actor: str = "cli",
) -> tuple[KeyRecord, str]:
    """A new key of an org, and its secret, which is never shown again."""
    secret = f"{KEY}{slug_of(org)}-{_random(_KEY_LENGTH)}"
    now = ctx.now()
    with ctx.db.session() as session:
        owner = _org(session, org)
        key = store.keys.insert(
            session,
            owner,
            name=validate_name(name),
            prefix=_prefix(secret, _KEY_LENGTH),
            digest=digest(secret),
            is_admin=is_admin,
            allowed_models=allowed_models,
            now=now,
        )
        _audit(session, owner, now, actor, "key_created", key.prefix)
    return key, secret


def revoke_key(ctx: Context, org: AnyOrg, key: str, *, actor: str = "cli") -> None:
    """Revoke a key by id or prefix at once; raises `NotFound`."""
    now = ctx.now()
    with ctx.db.session() as session:
        owner = _org(session, org)
        if not store.keys.revoke(session, owner, key, now):
            raise NotFound(
                f"org {owner.slug} has no live key {key!r}; `genie keys` lists them",
                param="key",
            )
        _audit(session, owner, now, actor, "key_revoked", key)
    ctx.keys.clear()


def list_keys(ctx: Context, org: AnyOrg) -> tuple[KeyRecord, ...]:
    """All keys of an org, revoked ones included, oldest first."""
    with ctx.db.reading() as session:
        return store.keys.of_org(session, _org(session, org))


def create_join_token(
    ctx: Context,
    org: AnyOrg,
    queues: tuple[str, ...] = (topology.SHARED,),
    ttl_s: float = JOIN_TTL_S,
    *,
    actor: str = "cli",
) -> str:
    """A token with which one worker may join an org, once, within ``ttl_s`` seconds."""
    _check_queues(slug_of(org), queues)
    token = f"{JOIN}{_random(_TOKEN_LENGTH)}"
    prefix, now = _prefix(token, _TOKEN_LENGTH), ctx.now()
    with ctx.db.session() as session:
        owner = _org(session, org)
        store.keys.insert_token(
            session,
            owner,
            prefix=prefix,
            digest=digest(token),
            queues=queues,
            now=now,
            expires_at=now + timedelta(seconds=ttl_s),
        )
        _audit(session, owner, now, actor, "join_token_created", prefix)
    return token


def redeem(session: Session, token: str | None, now: datetime) -> JoinTokenRecord:
    """Use up a join token; raises `Unauthorized` with the reason and the next step."""
    record = _join_token(session, token, now)
    if not store.keys.use_token(session, record.id, now):
        raise _bad_token("was used before")
    return record


def check_joiner(ctx: Context, bearer: str | None) -> None:
    """Refuse a worker that may not register before its message is read.

    Uses up no token. Raises `Unauthorized` with the reason and the next step.
    """
    with ctx.db.reading() as session:
        if worker_id_of(bearer) is not None:
            authenticate_returning_worker(session, bearer)
            return
        if _join_token(session, bearer, ctx.now()).used_at is not None:
            raise _bad_token("was used before")


def _join_token(session: Session, token: str | None, now: datetime) -> JoinTokenRecord:
    if token is None:
        raise Unauthorized(
            "no join token was sent; make one with `genie worker token` and set "
            "GENIE_JOIN_TOKEN"
        )
    found = store.keys.token_by_prefix(session, _prefix(token, _TOKEN_LENGTH))
    if found is None or not _matches(token, found[1]):
        raise _bad_token("is not known here")
    if found[0].expires_at <= now:
        raise _bad_token("has expired")
    return found[0]


def authenticate_worker(ctx: Context, bearer: str | None) -> WorkerRecord | None:
    """The worker of a worker secret; None when the cloud does not know it.

    Raises `Unauthorized` when the worker is known and the secret is wrong.
    """
    with ctx.db.reading() as session:
        return worker(session, bearer)


def authenticate_returning_worker(session: Session, bearer: str | None) -> WorkerRecord:
    """The worker that returns with its secret; `Unauthorized` once it is removed."""
    known = worker(session, bearer)
    if known is None:
        raise Unauthorized(
            "this worker was removed from the fleet; make a join token with "
            "`genie worker token` and join again"
        )
    return known


def worker(session: Session, bearer: str | None) -> WorkerRecord | None:
    """`authenticate_worker` within a transaction."""
    worker_id = worker_id_of(bearer)
    if bearer is None or worker_id is None:
        raise Unauthorized(
            "no worker secret was sent; join again with `genie worker join`"
        )
    found = store.workers.by_id(session, worker_id)
    if found is None:
        return None
    if not _matches(bearer, found[1]):
        log.warning("worker_refused", worker_id=worker_id)
        raise Unauthorized(
            "this worker secret is wrong; join again with `genie worker join` and a "
            "new join token"
        )
    return found[0]


def worker_id_of(bearer: str | None) -> str | None:
    """The worker that a secret names; None when it is no worker secret."""
    if bearer is None or not bearer.startswith(WORKER) or len(bearer) > _MAX_SECRET:
        return None
    worker_id = bearer.removeprefix(WORKER).partition("-")[0]
    return worker_id if store.ids.is_id(worker_id) else None


def worker_secret(worker_id: str) -> str:
    """A new secret for a worker, shown once."""
    return f"{WORKER}{worker_id}-{_random(_TOKEN_LENGTH)}"


def digest(secret: str) -> str:
    """The digest of a secret, which is all that is stored."""
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()


def validate_name(name: str, param: str = "name") -> str:
    """A name that people gave; raises `BadRequest` when it cannot be displayed."""
    cleaned = name.strip()
    if cleaned and len(cleaned) <= _MAX_NAME and cleaned.isprintable():
        return cleaned
    raise BadRequest(
        f"{param} must be 1 to {_MAX_NAME} printable characters", param=param
    )


def _matches(secret: str, stored: str) -> bool:
    return hmac.compare_digest(digest(secret), stored)


def _prefix(secret: str, length: int) -> str:
    """The lookup prefix of a secret; "" for a text that is no secret of ours."""
    if len(secret) > _MAX_SECRET or not secret.isascii() or not secret.isprintable():
        return ""
    return secret[: _SHOWN - length] if len(secret) > length else ""


def _random(length: int) -> str:
    return "".join(secrets.choice(_BASE62) for _ in range(length))


def _org(session: Session, org: AnyOrg) -> OrgRecord:
    slug = slug_of(org)
    found = store.orgs.by_slug(session, slug)
    if found is None:
        raise NotFound(
            f"there is no org {slug!r}; `genie orgs create {slug}` makes it",
            param="org",
        )
    return found


def _check_queues(org: str, queues: tuple[str, ...]) -> None:
    allowed = (topology.SHARED, topology.org_queue(org))
    if queues and set(queues) <= set(allowed):
        return
    raise BadRequest(
        f"a worker of org {org} may serve {' and '.join(allowed)}", param="queues"
    )


def _bad_token(why: str) -> Unauthorized:
    return Unauthorized(
        f"this join token {why}; make a new one with `genie worker token` and join "
        "again"
    )


def _audit(
    session: Session,
    org: OrgRecord,
    at: datetime,
    actor: str,
    action: str,
    subject: str,
) -> None:
    store.orgs.note(session, org, at=at, actor=actor, action=action, subject=subject)
