"""What workers call: join the fleet, and every half minute say how they are."""

from typing import Annotated

from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from cloud_app.api import errors
from cloud_app.fleet import registry
from cloud_app.orgs import auth
from cloud_app.web.openapi import BodySpec, ResponseSpec
from cloud_app.web.request import bearer, context
from genie.contracts import codec
from genie.contracts.fleet import (
    Heartbeat,
    HeartbeatReply,
    Registration,
    RegistrationReply,
)

api = APIBlueprint(
    "fleet",
    __name__,
    url_prefix="/fleet/v1",
    abp_tags=[Tag(name="fleet", description="What workers call")],
    abp_responses=errors.RESPONSES,
)


@api.post("/register")
def register() -> Annotated[
    Response, BodySpec(Registration), ResponseSpec(RegistrationReply)
]:
    """Join the fleet with a join token, or come back with the worker's own secret."""
    token = bearer()
    auth.check_joiner(context(), token)
    registration = codec.decode(Registration, request.get_data())
    return _contract(registry.register(context(), registration, token))


@api.post("/heartbeat")
def heartbeat() -> Annotated[
    Response, BodySpec(Heartbeat), ResponseSpec(HeartbeatReply)
]:
    """Report status; the answer always holds the full set of desired models."""
    worker = auth.authenticate_worker(context(), bearer())
    beat = codec.decode(Heartbeat, request.get_data())
    return _contract(registry.heartbeat(context(), worker, beat))


def _contract(value: RegistrationReply | HeartbeatReply) -> Response:
    return Response(codec.encode(value), mimetype="application/json")
