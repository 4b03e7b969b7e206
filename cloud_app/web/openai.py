"""Chat and plain completions: waited for, streamed, or accepted for later."""

from typing import Annotated

from flask import Response, g, jsonify, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from cloud_app import inference
from cloud_app.inference import Accepted
from cloud_app.ordering import Mode, Order
from cloud_app.web import answers, errors, orders, presence, sse, streaming
from cloud_app.web.answers import Dialect
from cloud_app.web.bodies.inference import Accepted as Later
from cloud_app.web.bodies.inference import ChatChunk, ChatCompletion, TextCompletion
from cloud_app.web.document import EVENTS, Says
from cloud_app.web.errors import ErrorBody
from cloud_app.web.request import context, key, metrics, require_key, seats, tell
from cloud_app.web.seats import Seat
from cloud_app.web.shapes import ChatRequest, CompletionRequest

api = APIBlueprint(
    "openai",
    __name__,
    url_prefix="/v1",
    abp_tags=[Tag(name="inference", description="OpenAI-compatible inference")],
    abp_security=[{"key": []}],
    abp_responses=errors.OF_WORK,
)
api.before_request(require_key)


STREAMED = Says(ChatChunk | ErrorBody, media=EVENTS)
STREAMED_TEXT = Says(TextCompletion | ErrorBody, media=EVENTS)


@api.post("/chat/completions")
def chat(
    body: ChatRequest,
) -> Annotated[Response, Says(ChatCompletion), STREAMED, Says(Later, 202)]:
    """Answer a conversation.

    mode sync waits for the whole answer, stream (or stream: true) sends it as
    server-sent events, async answers 202 with a polling_url at once. With the header
    Idempotency-Key the same key and body give the same job, another body is a 409.
    """
    order = orders.of_chat(
        body, key(), raw=request.get_data(), idempotency_key=_idempotency_key()
    )
    return _serve(answers.CHAT, order, body.includes_usage)


@api.post("/completions")
def complete(
    body: CompletionRequest,
) -> Annotated[Response, Says(TextCompletion), STREAMED_TEXT, Says(Later, 202)]:
    """Continue one prompt, exactly as given: no chat template, no system prompt."""
    order = orders.of_completion(
        body, key(), raw=request.get_data(), idempotency_key=_idempotency_key()
    )
    return _serve(answers.TEXT, order, body.includes_usage)


def _idempotency_key() -> str | None:
    return request.headers.get("Idempotency-Key")


def _serve(dialect: Dialect, order: Order, includes_usage: bool) -> Response:
    if order.mode is Mode.ASYNC:
        return _later(dialect, order)
    seat = seats().take()
    try:
        if order.mode is Mode.SYNC:
            return _whole(dialect, order, seat)
        return _stream(dialect, order, seat, includes_usage)
    except BaseException:
        seat.leave()  # whoever sends a stream gives its seat back at the end
        raise


def _later(dialect: Dialect, order: Order) -> Response:
    accepted = _submit(order)
    response = jsonify(answers.later(dialect, accepted.job))
    response.status_code = 202
    response.headers["Location"] = f"/v1/jobs/{dialect.prefix}{accepted.job.id}"
    return response


def _whole(dialect: Dialect, order: Order, seat: Seat) -> Response:
    accepted = _submit(order)
    gone = presence.is_gone(request.environ)
    answer = inference.collect(context(), accepted, gone)
    seat.leave()
    metrics().used(answer.job.model, answer.outcome.usage)
    tell(answer.job, worker=answer.outcome.worker, replayed=accepted.replayed)
    return jsonify(answers.whole(dialect, answer.job, answer.outcome))


def _stream(
    dialect: Dialect, order: Order, seat: Seat, includes_usage: bool
) -> Response:
    accepted = _submit(order)
    items = streaming.primed(inference.stream(context(), accepted))
    plan = streaming.Plan(
        dialect=dialect,
        job=accepted.job,
        includes_usage=includes_usage,
        request_id=g.request_id,
        n=order.n,
    )
    sse.bound(request.environ)
    sending = streaming.Sending(plan, items, seat, metrics())
    return Response(sending, mimetype="text/event-stream", headers=sse.HEADERS)


def _submit(order: Order) -> Accepted:
    accepted = inference.submit(context(), order)
    tell(accepted.job, replayed=accepted.replayed)
    return accepted
