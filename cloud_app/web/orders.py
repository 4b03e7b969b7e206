"""Request bodies as orders, whoever reads them: the web, or a schedule that fires."""

from cloud_app.inference import Mode, Order
from cloud_app.store.records import KeyRecord
from cloud_app.web.shapes import ChatRequest, CompletionRequest, EmbeddingRequest, OrderShape
from genie.contracts.inference import Message
from genie.contracts.model import Capability

ROLES = {"developer": "system"}
"""OpenAI's newer word for the same role; chat templates know the older one."""


def of_chat(
    body: ChatRequest,
    key: KeyRecord,
    *,
    raw: bytes = b"",
    idempotency_key: str | None = None,
) -> Order:
    """A conversation to answer; ``raw`` are the bytes ``body`` was read from."""
    messages = tuple(
        Message(role=ROLES.get(m.role, m.role), content=m.content, name=m.name)
        for m in body.messages
    )
    return _order(body, key, raw, idempotency_key, messages=messages)


def of_embedding(
    body: EmbeddingRequest,
    key: KeyRecord,
    *,
    raw: bytes = b"",
    idempotency_key: str | None = None,
) -> Order:
    """Texts to turn into vectors; ``raw`` are the bytes ``body`` was read from."""
    return Order(
        key=key,
        mode=Mode.SYNC,
        model=body.model,
        persona=body.persona,
        inputs=tuple(body.input),
        needed=(Capability.EMBED,),
        sampling={},
        idempotency_key=idempotency_key,
        body=raw,
        deadline_s=body.deadline_s,
        metadata=body.labels(),
    )


def of_completion(
    body: CompletionRequest,
    key: KeyRecord,
    *,
    raw: bytes = b"",
    idempotency_key: str | None = None,
) -> Order:
    """One prompt to continue; ``raw`` are the bytes ``body`` was read from."""
    return _order(body, key, raw, idempotency_key, prompt=body.prompt)


def _order(
    body: OrderShape,
    key: KeyRecord,
    raw: bytes,
    idempotency_key: str | None,
    *,
    messages: tuple[Message, ...] = (),
    prompt: str | None = None,
) -> Order:
    return Order(
        key=key,
        mode=Mode(body.way),
        model=body.model,
        persona=body.persona,
        messages=messages,
        prompt=prompt,
        sampling=body.sampling(),
        idempotency_key=idempotency_key,
        body=raw,
        deadline_s=body.deadline_s,
        metadata=body.labels(),
    )
