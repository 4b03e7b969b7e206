"""What workers call: join the fleet, and every half minute say how they are."""

from typing import Any

import msgspec
from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from cloud_app import auth, registry
from cloud_app.web import errors
from cloud_app.web.request import bearer, context
from genie import codec
from genie.contracts.base import Contract
from genie.contracts.fleet import Heartbeat, HeartbeatReply, Registered, Registration
from genie.errors import Unauthorized

api = APIBlueprint(
    "fleet",
    __name__,
    url_prefix="/fleet/v1",
    abp_tags=[Tag(name="fleet", description="What workers call")],
    abp_responses=errors.RESPONSES,
)


def _described(takes: type[Contract]) -> dict[str, Any]:
    """The body of an endpoint that takes a contract, for the API's description."""
    schema, parts = msgspec.json.schema_components(
        [takes], ref_template="#/$defs/{name}"
    )
    body = {**parts[takes.__name__], "$defs": parts} if parts else schema[0]
    content = {"application/json": {"schema": body}}
    return {"requestBody": {"required": True, "content": content}}


@api.post("/register", openapi_extensions=_described(Registration))
def register() -> Response:
    """Join the fleet with a join token, or come back with the worker's own secret."""
    token = bearer()
    if token is None:
        raise Unauthorized(
            "send the join token as Authorization: Bearer gj-…; make one on the Fleet "
            "page or with POST /v1/join-tokens"
        )
    registration = codec.decode(Registration, request.get_data())
    return _contract(registry.register(context(), registration, token))


@api.post("/heartbeat", openapi_extensions=_described(Heartbeat))
def heartbeat() -> Response:
    """Report status; the answer always holds the full set of desired models."""
    worker = auth.authenticate_worker(context(), bearer())
    beat = codec.decode(Heartbeat, request.get_data())
    return _contract(registry.heartbeat(context(), worker, beat))


def _contract(value: Registered | HeartbeatReply) -> Response:
    return Response(codec.encode(value), mimetype="application/json")
