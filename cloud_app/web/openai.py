"""Chat and plain completions: waited for, streamed, or accepted for later."""

from flask import Response, current_app, g, jsonify, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from cloud_app import inference
from cloud_app.inference import Accepted, Mode, Order
from cloud_app.web import answers, errors, sse, streaming
from cloud_app.web.answers import Dialect
from cloud_app.web.metrics import Metrics
from cloud_app.web.request import context, key, require_key, tell
from cloud_app.web.seats import Seat, Seats
from cloud_app.web.shapes import ChatRequest, CompletionRequest, OrderShape
from genie.contracts.inference import Message

ROLES = {"developer": "system"}
"""OpenAI's newer word for the same role; chat templates know the older one."""

api = APIBlueprint(
    "openai",
    __name__,
    url_prefix="/v1",
    abp_tags=[Tag(name="inference", description="OpenAI-compatible inference")],
    abp_security=[{"key": []}],
    abp_responses=errors.RESPONSES,
)
api.before_request(require_key)


@api.post("/chat/completions")
def chat(body: ChatRequest) -> Response:
    """Answer a conversation.

    mode sync waits for the whole answer, stream (or stream: true) sends it as
    server-sent events, async answers 202 with a polling_url at once.
    """
    messages = tuple(
        Message(role=ROLES.get(m.role, m.role), content=m.content, name=m.name)
        for m in body.messages
    )
    return _serve(answers.CHAT, body, messages=messages)


@api.post("/completions")
def complete(body: CompletionRequest) -> Response:
    """Continue one prompt, exactly as given: no chat template, no system prompt."""
    return _serve(answers.TEXT, body, prompt=body.prompt)


def _serve(
    dialect: Dialect,
    body: OrderShape,
    *,
    messages: tuple[Message, ...] = (),
    prompt: str | None = None,
) -> Response:
    order = Order(
        key=key(),
        mode=Mode(body.way),
        model=body.model,
        persona=body.persona,
        messages=messages,
        prompt=prompt,
        sampling=body.sampling(),
        idempotency_key=request.headers.get("Idempotency-Key"),
        body=request.get_data(),
        deadline_s=body.deadline_s,
        metadata=body.labels(),
    )
    if order.mode is Mode.ASYNC:
        return _later(dialect, order)
    seat = _seats().take()
    try:
        if order.mode is Mode.SYNC:
            return _whole(dialect, order, seat)
        return _stream(dialect, order, seat, body.includes_usage)
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
    answer = inference.collect(context(), accepted)
    seat.leave()
    _metrics().used(answer.job.model, answer.outcome.usage)
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
    )
    sending = streaming.Sending(plan, items, seat, _metrics())
    return Response(sending, mimetype="text/event-stream", headers=sse.HEADERS)


def _submit(order: Order) -> Accepted:
    accepted = inference.submit(context(), order)
    tell(accepted.job, replayed=accepted.replayed)
    return accepted


def _seats() -> Seats:
    seats: Seats = current_app.extensions["genie.seats"]
    return seats


def _metrics() -> Metrics:
    metrics: Metrics = current_app.extensions["genie.metrics"]
    return metrics
