"""Request bodies as orders, whoever reads them: the web, or a schedule that fires."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from cloud_app.api import errors
from cloud_app.api.requests import (
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    GenerationInput,
)
from cloud_app.store.records import KeyRecord, WebhookConfig
from genie.contracts.inference import JobRequest, Message, ModelInput
from genie.contracts.model import Capability
from genie.errors import BadRequest


class Mode(StrEnum):
    """How the asker wants the answer."""

    SYNC = "sync"
    STREAM = "stream"
    ASYNC = "async"
    BATCH = "batch"

    @property
    def is_watched(self) -> bool:
        """True when somebody waits for the answer while it is made."""
        return self in (Mode.SYNC, Mode.STREAM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A checked request; ``sampling`` holds only the fields that were given."""

    key: KeyRecord
    mode: Mode
    model: str | None = None
    persona: str | None = None
    input: ModelInput
    sampling: Mapping[str, object]
    request: JobRequest = field(default_factory=JobRequest)
    idempotency_key: str | None = None
    body: bytes = b""
    deadline_s: float | None = None
    webhook: WebhookConfig | None = None
    retain_h: int | None = None

    @property
    def needed(self) -> tuple[Capability, ...]:
        """What a model must be able to do."""
        if self.input.inputs:
            return (Capability.EMBED,)
        needed = [Capability.CHAT]
        if self.input.json_schema is not None:
            needed.append(Capability.JSON)
        if self.input.tools:
            needed.append(Capability.TOOLS)
        return tuple(needed)


ROLES = {"developer": "system"}
"""OpenAI's newer word for the same role; chat templates know the older one."""


def of_request(body: dict[str, Any], key: KeyRecord) -> Order:
    """The chat request of a schedule, as an order nobody waits for.

    Raises `BadRequest` naming the field.
    """
    try:
        shape = ChatRequest.model_validate({**body, "mode": "async", "stream": None})
    except ValidationError as error:
        fault = errors.fault_of_body(error)
        param = f"request.{fault.param}" if fault.param else "request"
        raise BadRequest(
            f"request.{fault.message}", param=param, code=fault.code
        ) from error
    return of_chat(shape, key)


def of_chat(body: ChatRequest, key: KeyRecord) -> Order:
    """A conversation to answer."""
    asked = ModelInput(
        messages=tuple(map(_message, body.messages)),
        json_schema=body.json_schema,
        tools=body.offered,
        force_tool=body.force_tool,
        one_call=body.parallel_tool_calls is False,
        n=body.n or 1,
    )
    return _order(body, key, asked)


def _message(said: ChatMessage) -> Message:
    return Message(
        role=ROLES.get(said.role, said.role),
        content=said.content or "",
        name=said.name,
        tool_calls=tuple(call.contract() for call in said.tool_calls or ()),
        tool_call_id=said.tool_call_id,
    )


def of_completion(body: CompletionRequest, key: KeyRecord) -> Order:
    """One prompt to continue."""
    return _order(body, key, ModelInput(prompt=body.prompt, n=body.n or 1))


def of_embedding(body: EmbeddingRequest, key: KeyRecord) -> Order:
    """Texts to turn into vectors."""
    return Order(
        key=key,
        mode=Mode.SYNC,
        model=body.model,
        persona=body.persona,
        input=ModelInput(inputs=tuple(body.input)),
        sampling={},
        deadline_s=body.deadline_s,
        request=body.job_request(),
    )


def _order(body: GenerationInput, key: KeyRecord, asked: ModelInput) -> Order:
    return Order(
        key=key,
        mode=Mode(body.way),
        model=body.model,
        persona=body.persona,
        input=asked,
        sampling=body.sampling(),
        deadline_s=body.deadline_s,
        request=body.job_request(),
        webhook=body.webhook.webhook() if body.webhook else None,
        retain_h=body.retain,
    )
