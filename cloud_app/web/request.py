"""One HTTP request: who asks, its id, and what its answer's headers say."""

import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from flask import Flask, Response, current_app, g, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from cloud_app.api import errors
from cloud_app.context import Context
from cloud_app.orgs import auth
from cloud_app.store import ids
from cloud_app.store.records import JobRecord, KeyRecord
from cloud_app.web.metrics import Metrics
from cloud_app.web.stream_limit import StreamLimit
from genie import logs
from genie.errors import BadRequest, Forbidden

log = logs.logger("web")

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_QUIET = frozenset(
    {"ops.livez", "ops.readyz", "ops.health", "ops.metrics", "static", "admin.live"}
)
"""Asked every few seconds by machines; a log line each would drown the others."""


def install(app: Flask) -> None:
    """Give every request an id, and every answer its headers and its log line."""
    app.before_request(_begin)
    app.before_request(_check)
    app.after_request(_finish)


def context() -> Context:
    """What this process works with."""
    ctx: Context = current_app.extensions["genie"]
    return ctx


def take_place() -> ExitStack:
    """One place of those that wait for their answer; closing it gives it back.

    Raises `Unavailable` when all are taken.
    """
    limit: StreamLimit = current_app.extensions["genie.stream_limit"]
    limit.take()
    held = ExitStack()
    held.callback(limit.give_back)
    return held


def has_hung_up() -> Callable[[], bool]:
    """Says, at each call, whether the client of this request has closed its connection.

    The server tells; under one that cannot tell, everybody is there.
    """
    ask = request.environ.get("waitress.client_disconnected")
    return ask if callable(ask) else lambda: False


def only_waits() -> None:
    """Say that this request only waits from now on, so the next one may begin."""
    tell = request.environ.get("genie.waits")
    if callable(tell):
        tell()


def metrics() -> Metrics:
    """What this process counts."""
    found: Metrics = current_app.extensions["genie.metrics"]
    return found


def key() -> KeyRecord:
    """The API key of this request; only behind `require_key`."""
    found: KeyRecord = g.key
    return found


def bearer() -> str | None:
    """The credential after ``Authorization: Bearer``, None when there is none."""
    kind, _, credential = request.headers.get("Authorization", "").partition(" ")
    return credential.strip() or None if kind.lower() == "bearer" else None


def require_key() -> None:
    """Let only requests with a good API key pass; raises `Unauthorized`."""
    g.key = auth.authenticate(context(), bearer(), remote_addr=request.remote_addr)


def require_admin() -> None:
    """Let only admin keys pass; raises `Unauthorized` or `Forbidden`."""
    require_key()
    if not key().is_admin:
        raise Forbidden(
            "this needs an admin key; ask whoever runs your fleet for one "
            "(`genie up` prints the first)"
        )


TAGS = {
    "admin": "For admin keys",
    "batches": "Many requests in one file",
    "fleet": "What workers call",
    "inference": "OpenAI-compatible inference",
    "jobs": "Work that was accepted",
    "models": "What can be asked",
    "ops": "For probes; no key",
    "schedules": "Requests made again and again",
    "webhooks": "What receivers were told",
}


def blueprint(
    name: str,
    tag: str,
    *,
    prefix: str | None = "/v1",
    guard: Callable[[], None] | None = require_key,
    failures: dict[int | str, Any] = errors.RESPONSES,
) -> APIBlueprint:
    """Operations that stand under one tag in ``/openapi`` and behind one guard."""
    made = APIBlueprint(
        name,
        __name__,
        url_prefix=prefix,
        abp_tags=[Tag(name=tag, description=TAGS[tag])],
        abp_security=[{"key": []}] if guard else None,
        abp_responses=failures,
    )
    if guard:
        made.before_request(guard)
    return made


def tell(job: JobRecord, *, worker: str | None = None, replayed: bool = False) -> None:
    """Say in the answer's headers which job, model and machines this is about."""
    facts = {
        "x-genie-model": job.model,
        "x-genie-locality": job.request.locality.value,
        "x-genie-worker": worker or job.worker,
        "x-genie-replayed": "true" if replayed else None,
    }
    said = {name: _plain(value) for name, value in facts.items() if value}
    g.facts = {"x-genie-job-id": job.id, **said}


@lru_cache(1024)
def _plain(value: str) -> str:
    """A value as a header may hold it; names of workers and models come again."""
    return quote(value, safe=" :.-_/")


def _begin() -> None:
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{ids.new_id()}"
    g.began = time.perf_counter()


def _check() -> None:
    """Refuse what would be read as something else, or cannot be looked up.

    No name or id holds a NUL, and no column of PostgreSQL takes one.
    """
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise BadRequest(
            f"the body is encoded as {encoding[:20]}; send it as it is",
            param="Content-Encoding",
        )
    if "\0" in request.path or "%00" in request.query_string.decode("latin-1"):
        raise BadRequest("the URL holds a NUL character (%00); leave it out")


def _finish(response: Response) -> Response:
    response.headers["x-request-id"] = g.request_id
    response.headers.update(g.get("facts", {}))
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    route = request.url_rule.rule if request.url_rule else "none"
    seconds = time.perf_counter() - g.began
    metrics().count(route, request.method, response.status_code, seconds)
    if request.endpoint not in _QUIET:
        log.info(
            "request",
            request_id=g.request_id,
            method=request.method,
            route=route,
            status=response.status_code,
            seconds=round(seconds, 4),
            key=g.key.prefix if "key" in g else None,
            job=g.get("facts", {}).get("x-genie-job-id"),
        )
    return response
