"""The web process: one Flask application with everything the cloud serves."""

from threading import Lock
from typing import Any

import flask
from flask import Flask, Response
from flask_openapi3.models.info import Info
from flask_openapi3.openapi import OpenAPI

from cloud_app import context, store
from cloud_app.api import errors
from cloud_app.api.json import JsonRequest, StrictJson
from cloud_app.api.json import response as json_response
from cloud_app.context import Context
from cloud_app.settings import CloudSettings
from cloud_app.store import reports
from cloud_app.web import (
    batches,
    dead_letters,
    files,
    fleet,
    inference,
    jobs,
    models,
    ops,
    orgs,
    request,
    schedules,
)
from cloud_app.web.metrics import Metrics
from cloud_app.web.openapi import OpenApiDocument
from cloud_app.web.pages import admin, sessions
from cloud_app.web.stream_limit import StreamLimit
from genie import env, logs
from genie.api_types import ApiObject
from genie.errors import DatabaseDown, SettingsError, Unavailable

log = logs.logger("app")

PUBLIC = frozenset({"ops.livez", "ops.readyz", "ops.health", "ops.version", "static"})


class GenieApp(OpenAPI):
    """A Flask application that reads and writes JSON our way."""

    request_class = JsonRequest
    json_provider_class = StrictJson

    def make_response(self, rv: Any) -> Response:
        """What a view returned as a response: an API object, with its status or not."""
        if isinstance(rv, ApiObject):
            return json_response(rv)
        if isinstance(rv, tuple) and isinstance(rv[0], ApiObject):
            return json_response(*rv)
        return super().make_response(rv)


def create_app(ctx: Context | None = None) -> Flask:
    """The application; without a context it is built from ``GENIE_*`` variables.

    Raises `SettingsError` when the database's schema is not this release's. A database
    that is down stops nothing: requests get 503 until it is back.
    """
    if ctx is None:
        settings = env.read(CloudSettings)
        logs.configure(level=settings.log_level)
        ctx = context.build(settings)
    app = _application(ctx)
    gate = SchemaGate(ctx)
    gate.open_if_up()
    request.install(app)
    app.before_request(gate.require)
    errors.install(app)
    sessions.install(app, ctx.settings)
    ops.install(app, ctx)
    asked = (inference.api, files.api, batches.api)
    fleets = (fleet.fleet_api, fleet.api, orgs.api, dead_letters.api)
    work = (jobs.api, schedules.api, jobs.deliveries_api)
    for api in (*asked, *work, models.api, *fleets, ops.api):
        app.register_api(api)
    app.register_blueprint(admin.pages)
    app.extensions["genie.document"] = OpenApiDocument(app)
    return app


def _application(ctx: Context) -> OpenAPI:
    app = GenieApp(
        "cloud_app.web",
        info=Info(title="Genie Fleet", version=ops.release()),
        security_schemes={"key": {"type": "http", "scheme": "bearer"}},
        validation_error_status=400,
        validation_error_callback=errors.of_validation,
        doc_ui=False,
    )
    app.config["MAX_CONTENT_LENGTH"] = ctx.settings.max_body_bytes
    app.config["SECRET_KEY"] = ctx.settings.secret_key
    app.extensions["genie"] = ctx
    app.extensions["genie.metrics"] = Metrics(lambda: reports.states(ctx.db))
    app.extensions["genie.stream_limit"] = StreamLimit(ctx.settings.web_threads)
    return app


class SchemaGate:
    """Lets requests pass once the schema was seen to be this release's."""

    def __init__(self, ctx: Context) -> None:
        self._db = ctx.db
        self._is_open = False
        self._lock = Lock()

    def open_if_up(self) -> None:
        """Check at boot; raises `SettingsError` on an old schema."""
        try:
            self._check()
        except DatabaseDown as error:
            log.warning("database_down_at_boot", error=error.message)

    def require(self) -> None:
        """Check again before a request, until it was seen to be right."""
        if self._is_open or endpoint() in PUBLIC:
            return
        try:
            self._check()
        except SettingsError as error:
            raise Unavailable(error.message, retry_after_s=30) from error

    def _check(self) -> None:
        with self._lock:
            if not self._is_open:
                store.schema.check(self._db)
                self._is_open = True


def endpoint() -> str:
    """The name of the endpoint this request goes to."""
    return flask.request.endpoint or "none"
