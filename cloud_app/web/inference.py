"""Chats, completions and embeddings: answered, streamed, or accepted for later."""

import base64
from typing import Annotated

from flask import Response, g, request

from cloud_app.api import errors, orders, responses
from cloud_app.api.json import response
from cloud_app.api.json import response as json_response
from cloud_app.api.orders import Mode, Order
from cloud_app.api.requests import ChatRequest, CompletionRequest, EmbeddingRequest
from cloud_app.api.responses import Dialect
from cloud_app.jobs import submit
from cloud_app.jobs.submit import CompletedJob, SubmittedJob
from cloud_app.web import streaming
from cloud_app.web.openapi import EVENTS, ResponseSpec
from cloud_app.web.request import (
    blueprint,
    context,
    has_hung_up,
    key,
    metrics,
    only_waits,
    stream_limit,
    tell,
)
from cloud_app.web.stream_limit import StreamPermit
from genie.api_types import (
    AcceptedJob,
    ChatChunk,
    ChatCompletion,
    EmbeddingsAnswer,
    ErrorBody,
    TextCompletion,
)
from genie.contracts.inference import Outcome
from genie.errors import BadRequest

api = blueprint("openai", "inference", failures=errors.OF_WORK)


STREAMED = ResponseSpec(ChatChunk | ErrorBody, media=EVENTS)
STREAMED_TEXT = ResponseSpec(TextCompletion | ErrorBody, media=EVENTS)


@api.post("/chat/completions")
def chat(
    body: ChatRequest,
) -> Annotated[
    Response, ResponseSpec(ChatCompletion), STREAMED, ResponseSpec(AcceptedJob, 202)
]:
    """Answer a conversation.

    mode sync waits for the whole answer, stream (or stream: true) sends it as
    server-sent events, async answers 202 with a polling_url at once. With the header
    Idempotency-Key the same key and body give the same job, another body is a 409.
    """
    order = orders.of_chat(
        body, key(), raw=request.get_data(), idempotency_key=_idempotency_key()
    )
    return _serve(responses.CHAT, order, body.includes_usage)


@api.post("/completions")
def complete(
    body: CompletionRequest,
) -> Annotated[
    Response,
    ResponseSpec(TextCompletion),
    STREAMED_TEXT,
    ResponseSpec(AcceptedJob, 202),
]:
    """Continue one prompt, exactly as given: no chat template, no system prompt."""
    order = orders.of_completion(
        body, key(), raw=request.get_data(), idempotency_key=_idempotency_key()
    )
    return _serve(responses.TEXT, order, body.includes_usage)


def _idempotency_key() -> str | None:
    return request.headers.get("Idempotency-Key")


def _serve(dialect: Dialect, order: Order, includes_usage: bool) -> Response:
    if order.mode is Mode.ASYNC:
        return _later(dialect, order)
    permit = stream_limit().take()
    try:
        if order.mode is Mode.SYNC:
            return _whole(dialect, order, permit)
        return _stream(dialect, order, permit, includes_usage)
    except BaseException:
        permit.release()  # whoever sends a stream gives its permit back at the end
        raise


def _later(dialect: Dialect, order: Order) -> Response:
    accepted = _submit(order)
    response = json_response(responses.accepted(dialect, accepted.job), 202)
    response.headers["Location"] = f"/v1/jobs/{dialect.prefix}{accepted.job.id}"
    return response


def _whole(dialect: Dialect, order: Order, permit: StreamPermit) -> Response:
    accepted = _submit(order)
    answer = submit.collect(context(), accepted, has_hung_up())
    permit.release()
    metrics().used(answer.job.model, answer.outcome.usage)
    tell(answer.job, worker=answer.outcome.worker, replayed=accepted.replayed)
    return json_response(responses.whole(dialect, answer.job, answer.outcome))


def _stream(
    dialect: Dialect, order: Order, permit: StreamPermit, includes_usage: bool
) -> Response:
    accepted = _submit(order)
    items = streaming.prime(submit.stream(context(), accepted))
    plan = streaming.StreamPlan(
        dialect=dialect,
        job=accepted.job,
        includes_usage=includes_usage,
        request_id=g.request_id,
        n=order.input.n,
    )
    sending = streaming.AnswerStreamBody(plan, items, permit, metrics())
    return Response(sending, mimetype="text/event-stream", headers=streaming.HEADERS)


def _submit(order: Order) -> SubmittedJob:
    accepted = submit.submit(context(), order)
    tell(accepted.job, replayed=accepted.replayed)
    only_waits()
    return accepted


embeddings_api = blueprint("embeddings", "inference", failures=errors.OF_WORK)


@embeddings_api.post("/embeddings")
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
