"""Webhooks: the brain signs deliveries, sends them from rows, and retries.

Delivered at least once: a receiver that sees a known ``X-Genie-Delivery`` has
had the event before.
"""

import base64
import binascii
import hashlib
import hmac
import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache, partial
from ipaddress import ip_address
from pathlib import Path
from threading import Timer

import httpx2

from cloud_app import store
from cloud_app.brain import webhook_rules
from cloud_app.brain.webhook_rules import WebhookUrl
from cloud_app.context import Context
from cloud_app.store.records import (
    AnyOrg,
    DeliveryRecord,
    JobRecord,
    WebhookConfig,
    slug_of,
)
from genie import __version__, logs
from genie.errors import BadRequest, NotFound

log = logs.logger("webhooks")

BURST = 64
"""The most deliveries that one run of the task tries."""

SENDERS = 16
TIMEOUT_S = 10.0
"""The longest silence of a receiver."""

DEADLINE_S = 30.0
"""The longest time for a whole try, for receivers that answer byte by byte."""

KEEP = timedelta(days=7)
"""How long an ended delivery is kept, so that it can be sent again."""

Render = Callable[[DeliveryRecord, JobRecord], bytes]
"""The body that reports a job's end."""

Resolve = Callable[[str, int], tuple[str, ...]]
"""Every address of a host; raises OSError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryAttempt:
    """The result of a try; ``status`` None: nobody answered."""

    status: int | None = None
    error: str | None = None


def check(ctx: Context, hook: WebhookConfig) -> None:
    """Refuse a webhook that could never be delivered; raises `BadRequest`.

    A host name is resolved and checked only before sending.
    """
    try:
        target = webhook_rules.parse_webhook_url(hook.url)
        addresses = (str(ip_address(target.host)),)
    except ValueError:
        return  # a name
    _refuse_private(ctx, addresses)


def signature(secret: str, body: bytes) -> str:
    """The value of ``X-Genie-Signature``.

    >>> signature("a secret", b"{}")[:15]
    'sha256=c424c6f5'
    """
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return f"sha256={digest}"


def standard(secret: str, name: str, at: datetime, body: bytes) -> dict[str, str]:
    """The signature by Standard Webhooks, which OpenAI's clients verify.

    The time is signed too, so that a recorded delivery cannot be replayed later.
    """
    moment = str(int(at.timestamp()))
    signed = b".".join((name.encode(), moment.encode(), body))
    digest = hmac.new(_standard_key(secret), signed, hashlib.sha256).digest()
    return {
        "webhook-id": name,
        "webhook-timestamp": moment,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def _standard_key(secret: str) -> bytes:
    """The key of a secret: base64 after ``whsec_``, otherwise the secret's bytes."""
    try:
        if secret.startswith("whsec_"):
            return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        pass
    return secret.encode()


def deliver(ctx: Context, render: Render, resolve: Resolve | None = None) -> int:
    """Try all due deliveries once; returns how many were taken."""
    with ctx.db.session() as session:
        due = store.webhooks.claim(session, ctx.now(), BURST)
        jobs = store.jobs.by_ids(session, [one.job_id for one in due if one.job_id])
    if not due:
        return 0
    known = {job.id: job for job in jobs}
    about = [known.get(one.job_id or "") for one in due]
    send = partial(_send, ctx, render, resolve or addresses_of)
    with ThreadPoolExecutor(SENDERS, "genie-webhook") as pool:
        return sum(pool.map(send, due, about))


def redeliver(ctx: Context, org: AnyOrg, delivery_id: str) -> DeliveryRecord:
    """Send an ended delivery again, now; raises `NotFound`.

    A delivery that is under way stays as it is.
    """
    slug = slug_of(org)
    with ctx.db.session() as session:
        store.webhooks.redeliver(session, slug, delivery_id, ctx.now())
        found = store.webhooks.one_of_org(session, slug, delivery_id)
    if found is None:
        raise NotFound(
            f"there is no webhook delivery {delivery_id[:40]} in this org; GET "
            "/v1/webhook-deliveries lists them for a week",
            param="id",
        )
    return found


def find(
    ctx: Context, org: AnyOrg, *, job_id: str | None = None, limit: int = 20
) -> tuple[DeliveryRecord, ...]:
    """An org's deliveries, newest first."""
    bare = store.ids.bare(job_id) if job_id else None
    with ctx.db.reading() as session:
        return store.webhooks.of_org(session, slug_of(org), job_id=bare, limit=limit)


def forget(ctx: Context) -> int:
    """Delete deliveries that ended a week ago, and their secrets; returns how many."""
    with ctx.db.session() as session:
        return store.webhooks.forget(session, ctx.now() - KEEP)


def addresses_of(host: str, port: int) -> tuple[str, ...]:
    """Every address of a host name."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


def _send(
    ctx: Context,
    render: Render,
    resolve: Resolve,
    due: DeliveryRecord,
    job: JobRecord | None,
) -> bool:
    """One try, recorded; True when the receiver took it."""
    body = (due.body or "{}").encode()
    if job is not None:
        due = replace(due, event=f"job.{job.state.value}")
        body = render(due, job)
    answered = _attempt(ctx, resolve, due, body)
    _note(ctx, due, job, answered)
    return answered.error is None


def _attempt(
    ctx: Context, resolve: Resolve, due: DeliveryRecord, body: bytes
) -> DeliveryAttempt:
    target = webhook_rules.parse_webhook_url(due.url)
    try:
        headers = {
            "content-type": "application/json",
            "user-agent": f"genie-fleet/{__version__}",
            "x-genie-event": due.event or "event",
            "x-genie-delivery": due.id,
            "x-genie-signature": signature(due.secret, body),
            **standard(due.secret, due.id, ctx.now(), body),
        }
        addresses = resolve(target.host, target.port)
        _refuse_private(ctx, addresses)
        trust = _trust(ctx.settings.webhook_ca_file)
        status = _post(target, addresses[0], headers, body, trust)
    except BadRequest as error:
        return DeliveryAttempt(error=error.message)
    except (OSError, httpx2.HTTPError, UnicodeError) as error:
        return DeliveryAttempt(error=_why(error))
    if 200 <= status < 300:
        return DeliveryAttempt(status=status)
    hint = "; redirects are not followed" if 300 <= status < 400 else ""
    return DeliveryAttempt(status=status, error=f"it answered {status}{hint}")


def _note(
    ctx: Context, due: DeliveryRecord, job: JobRecord | None, answered: DeliveryAttempt
) -> None:
    now = ctx.now()
    gap = webhook_rules.next_gap(due.attempts)
    with ctx.db.session() as session:
        store.webhooks.note_try(
            session,
            due,
            error=answered.error,
            status=answered.status,
            now=now,
            again_at=None if gap is None else now + gap,
        )
        if answered.error is None and job is not None and job.retain_h == 0:
            store.backlog.delivered(session, job.id, now)
    if answered.error is not None:
        log.warning(
            "webhook_not_delivered",
            delivery=due.id,
            attempt=due.attempts,
            status=answered.status,
            is_last=gap is None,
        )


def _refuse_private(ctx: Context, addresses: tuple[str, ...]) -> None:
    if ctx.settings.webhook_allow_private:
        return
    if webhook_rules.non_public_addresses(addresses):
        raise BadRequest(
            "webhook.url: it leads into a private network, where webhooks do not go; "
            "whoever runs the cloud can allow it with GENIE_WEBHOOK_ALLOW_PRIVATE=1",
            param="webhook.url",
        )


def _why(error: Exception) -> str:
    """What went wrong on the way; certificate errors are named as such."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return f"its certificate was refused: {str(error).rpartition(': ')[2]}"
    return f"nobody answered: {type(error).__name__}"


@lru_cache(maxsize=2)
def _trust(authorities: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if authorities is not None:
        context.load_verify_locations(cafile=authorities)
    return context


def _post(
    target: WebhookUrl,
    address: str,
    headers: dict[str, str],
    body: bytes,
    trust: ssl.SSLContext,
) -> int:
    """The status of one POST to this address, without resolving the name again.

    The certificate is still checked against the name.
    """
    scheme = "https" if target.is_tls else "http"
    host = f"[{address}]" if ":" in address else address
    url = f"{scheme}://{host}:{target.port}{target.path}"
    client = httpx2.Client(
        follow_redirects=False, trust_env=False, timeout=TIMEOUT_S, verify=trust
    )
    with (
        _closed_in_time(client),
        client.stream(
            "POST",
            url,
            content=body,
            headers={**headers, "host": target.authority},
            extensions={"sni_hostname": target.host},
        ) as response,
    ):
        return response.status_code  # the response body does not matter


@contextmanager
def _closed_in_time(client: httpx2.Client) -> Iterator[None]:
    alarm = Timer(DEADLINE_S, client.close)
    alarm.daemon = True
    alarm.start()
    try:
        yield
    finally:
        alarm.cancel()
        client.close()
