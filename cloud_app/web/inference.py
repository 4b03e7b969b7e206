"""Chats, completions and embeddings: answered, streamed, or accepted for later."""

import base64
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Annotated

from flask import Response, g, request

from cloud_app.api import errors, orders, responses
from cloud_app.api.json import response as json_response
from cloud_app.api.orders import Mode, Order
from cloud_app.api.requests import ChatRequest, CompletionRequest, EmbeddingRequest
from cloud_app.api.responses import Dialect
from cloud_app.jobs import submit
from cloud_app.jobs.submit import CompletedJob, SubmittedJob
from cloud_app.web import streaming
from cloud_app.web.metrics import Metrics
from cloud_app.web.openapi import EVENTS, ResponseSpec
from cloud_app.web.request import (
    blueprint,
    context,
    has_hung_up,
    key,
    metrics,
    only_waits,
    take_place,
    tell,
)
from cloud_app.web.streaming import StreamItem
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
    order = orders.of_chat(body, key())
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
    order = orders.of_completion(body, key())
    return _serve(responses.TEXT, order, body.includes_usage)


def _serve(dialect: Dialect, order: Order, includes_usage: bool) -> Response:
    if order.mode is Mode.ASYNC:
        return _later(dialect, order)
    with take_place() as held:
        if order.mode is Mode.STREAM:
            return _stream(dialect, order, includes_usage, held)
        answer = _answer(order)
    return json_response(responses.whole(dialect, answer.job, answer.outcome))


def _later(dialect: Dialect, order: Order) -> Response:
    job = _submit(order).job
    response = json_response(responses.accepted(dialect, job), 202)
    response.headers["Location"] = f"/v1/jobs/{dialect.prefix}{job.id}"
    return response


def _answer(order: Order) -> CompletedJob:
    accepted = _submit(order)
    answer = submit.collect(context(), accepted, has_hung_up())
    metrics().used(answer.job.model, answer.outcome.usage)
    tell(answer.job, worker=answer.outcome.worker, replayed=accepted.replayed)
    return answer


def _stream(
    dialect: Dialect, order: Order, includes_usage: bool, held: ExitStack
) -> Response:
    """The answer as it is made; who leaves before its end cancels the job."""
    accepted = _submit(order)
    items = submit.stream(context(), accepted)
    held.callback(items.close)
    plan = streaming.StreamPlan(
        dialect=dialect,
        job=accepted.job,
        includes_usage=includes_usage,
        request_id=g.request_id,
        n=order.input.n,
    )
    counted = _counted(streaming.prime(items), accepted.job.model, metrics())
    held.enter_context(metrics().streams.track_inprogress())
    return streaming.answer(streaming.frames(plan, counted), held)


def _counted(
    items: Iterator[StreamItem], model: str, metrics: Metrics
) -> Iterator[StreamItem]:
    for item in items:
        if isinstance(item, Outcome):
            metrics.used(model, item.usage)
        yield item


def _submit(order: Order) -> SubmittedJob:
    sent = replace(
        order,
        body=request.get_data(),
        idempotency_key=request.headers.get("Idempotency-Key"),
    )
    accepted = submit.submit(context(), sent)
    tell(accepted.job, replayed=accepted.replayed)
    only_waits()
    return accepted


@api.post("/embeddings")
def embed(
    body: EmbeddingRequest,
) -> Annotated[Response, ResponseSpec(EmbeddingsAnswer)]:
    """Turn up to 256 texts into vectors of length 1, in the order they came.

    encoding_format base64 is little-endian float32, what OpenAI's clients ask for.
    """
    with take_place():
        answer = _answer(orders.of_embedding(body, key()))
    _check_dimensions(body.dimensions, answer.outcome)
    vectors = responses.vectors(answer.job, answer.outcome, body.encoding_format)
    return json_response(vectors)


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
