"""Embeddings: texts in, one vector each out, in OpenAI's shape."""

import base64
from typing import Annotated

from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from cloud_app.api import errors, orders, responses
from cloud_app.api.json import response
from cloud_app.api.orders import Order
from cloud_app.api.requests import EmbeddingRequest
from cloud_app.jobs import submit
from cloud_app.jobs.submit import CompletedJob
from cloud_app.web.openapi import ResponseSpec
from cloud_app.web.request import (
    context,
    has_hung_up,
    key,
    metrics,
    only_waits,
    require_key,
    stream_limit,
    tell,
)
from genie.api_types import EmbeddingsAnswer
from genie.contracts.inference import Outcome
from genie.errors import BadRequest

api = APIBlueprint(
    "embeddings",
    __name__,
    url_prefix="/v1",
    abp_tags=[Tag(name="inference", description="OpenAI-compatible inference")],
    abp_security=[{"key": []}],
    abp_responses=errors.OF_WORK,
)
api.before_request(require_key)


@api.post("/embeddings")
def embed(
    body: EmbeddingRequest,
) -> Annotated[Response, ResponseSpec(EmbeddingsAnswer)]:
    """Turn up to 256 texts into vectors of length 1, in the order they came.

    encoding_format base64 is little-endian float32, what OpenAI's clients ask for.
    """
    order = orders.of_embedding(
        body,
        key(),
        raw=request.get_data(),
        idempotency_key=request.headers.get("Idempotency-Key"),
    )
    permit = stream_limit().take()
    try:
        answer = _answered(order)
    finally:
        permit.release()
    _check_dimensions(body.dimensions, answer.outcome)
    return response(responses.vectors(answer.job, answer.outcome, body.encoding_format))


def _answered(order: Order) -> CompletedJob:
    accepted = submit.submit(context(), order)
    tell(accepted.job, replayed=accepted.replayed)
    only_waits()
    answer = submit.collect(context(), accepted, has_hung_up())
    metrics().used(answer.job.model, answer.outcome.usage)
    tell(answer.job, worker=answer.outcome.worker, replayed=accepted.replayed)
    return answer


def _check_dimensions(wanted: int | None, outcome: Outcome) -> None:
    vectors = outcome.extras.vectors if outcome.extras else ()
    found = {len(base64.b64decode(vector)) // 4 for vector in vectors}
    if wanted is None or found == {wanted}:
        return
    has = ", ".join(str(one) for one in found)
    raise BadRequest(
        f"{outcome.model} makes vectors of {has} dimensions, not {wanted}; leave "
        "dimensions out",
        param="dimensions",
    )
