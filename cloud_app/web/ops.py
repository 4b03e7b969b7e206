"""Health, readiness, version and metrics: for probes, no key needed."""

import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from threading import Lock
from typing import Annotated, Any

from flask import Flask, Response, current_app, jsonify

from cloud_app import store
from cloud_app.api.json import response as json_response
from cloud_app.context import Context
from cloud_app.web.openapi import OpenApiDocument, ResponseSpec
from cloud_app.web.request import blueprint
from genie.api_types import (
    HealthAnswer,
    LivenessStatus,
    ReadinessAnswer,
    SchemaVersion,
    VersionInfo,
)
from genie.contracts.base import PROTOCOL
from genie.errors import GenieError

CHECK_EVERY_S = 1.0
"""Probes come from anybody: database and broker are asked this often at most."""

RETRY_AFTER_S = "2"

api = blueprint("ops", "ops", prefix=None, guard=None, failures={503: None})


class Readiness:
    """Whether work can be accepted now, asked at most once a second."""

    def __init__(
        self, checks: dict[str, Callable[[], None]], found: Callable[[], str | None]
    ) -> None:
        self._checks = checks
        self._revision = found
        self._found: str | None = None
        self._lock = Lock()
        self._asked_at = float("-inf")
        self._last: dict[str, str] = {}

    def states(self) -> tuple[dict[str, str], str | None]:
        """``ok`` or the reason, by part; and the revision the schema is at."""
        with self._lock:
            if time.monotonic() - self._asked_at >= CHECK_EVERY_S:
                self._last = {name: _state(c) for name, c in self._checks.items()}
                self._found = self._revision_if_up()
                self._asked_at = time.monotonic()
            return self._last, self._found

    def _revision_if_up(self) -> str | None:
        try:
            return self._revision()
        except GenieError:
            return None


def _state(check: Callable[[], None]) -> str:
    try:
        check()
    except GenieError as error:
        return error.message
    return "ok"


def install(app: Flask, ctx: Context) -> None:
    """Have ``/readyz`` ask these: database, its schema, broker."""
    app.extensions["genie.readiness"] = Readiness(
        {
            "database": ctx.db.ping,
            "schema": lambda: store.schema.check(ctx.db),
            "broker": ctx.bus.ping,
        },
        lambda: store.schema.current(ctx.db),
    )


def release() -> str:
    """The installed version."""
    try:
        return version("genie-fleet")
    except PackageNotFoundError:
        return "0+unknown"


@api.get("/livez")
def livez() -> LivenessStatus:
    """Whether this process answers at all."""
    return LivenessStatus()


@api.get("/readyz")
def readyz() -> Annotated[
    Response, ResponseSpec(ReadinessAnswer), ResponseSpec(ReadinessAnswer, 503)
]:
    """Whether work can be accepted: database, schema and broker are there."""
    return _readiness(ReadinessAnswer(**_checked()))


@api.get("/health")
def health() -> Annotated[
    Response, ResponseSpec(HealthAnswer), ResponseSpec(HealthAnswer, 503)
]:
    """The same as readyz, with the version."""
    return _readiness(HealthAnswer(**_checked(), version=release()))


@api.get("/version")
def show_version() -> VersionInfo:
    """Which release this is, and which worker protocol it speaks."""
    return VersionInfo(version=release(), protocol=PROTOCOL)


@api.get("/metrics")
def metrics() -> Annotated[Response, ResponseSpec(str, media="text/plain")]:
    """Figures for Prometheus; no names of orgs, keys or users are in there."""
    text = current_app.extensions["genie.metrics"].text()
    return Response(text, content_type="text/plain; version=0.0.4; charset=utf-8")


@api.get("/openapi")
def openapi() -> Annotated[Response, ResponseSpec(dict[str, Any])]:
    """This description."""
    document: OpenApiDocument = current_app.extensions["genie.document"]
    return jsonify(document.json)


def _checked() -> dict[str, Any]:
    readiness: Readiness = current_app.extensions["genie.readiness"]
    checks, found = readiness.states()
    is_ready = all(state == "ok" for state in checks.values())
    return {
        "status": "ok" if is_ready else "unavailable",
        "checks": checks,
        "schema": SchemaVersion(needs=store.schema.newest(), found=found),
    }


def _readiness(found: ReadinessAnswer) -> Response:
    if found.status == "ok":
        return json_response(found)
    response = json_response(found, 503)
    response.headers["Retry-After"] = RETRY_AFTER_S
    return response
