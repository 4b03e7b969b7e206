"""What clients may send to /v1: checked strictly, unknown fields ignored."""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

MAX_INPUTS = 256
"""Texts of one embeddings request."""

EMPTY: tuple[object, ...] = (None, False, "", [], {}, 0)


def wrong(message: str, at: str = "", kind: str = "value") -> PydanticCustomError:
    """A mistake in a body; ``at`` is the rest of the path below the field."""
    return PydanticCustomError(kind, "{text}", {"text": message, "at": at})


def unsupported(what: str, at: str = "") -> PydanticCustomError:
    """Something meaningful that this release cannot do; never ignored in silence."""
    return wrong(f"{what} is not supported yet; leave it out", at, "unsupported")


def _absent(value: object) -> None:
    if value not in EMPTY:
        raise unsupported("this")


def _only(*allowed: object) -> AfterValidator:
    def check(value: object) -> object:
        if value is not None and value not in allowed:
            raise unsupported(f"anything but {allowed[0]!r}")
        return value

    return AfterValidator(check)


def _text_format(value: object) -> None:
    kind = value.get("type") if isinstance(value, dict) else value
    if value is not None and kind != "text":
        raise unsupported("anything but text", ".type")


Unsupported = Annotated[
    Any, AfterValidator(_absent), WithJsonSchema({"description": "Not supported yet."})
]


class TextPart(BaseModel):
    """One text part of a message; image and audio parts are not supported yet."""

    type: Literal["text"]
    text: str


def _flatten(value: object) -> object:
    """Message content as one text: a string, or text parts joined by line breaks."""
    if isinstance(value, list):
        return "\n".join(_part(n, part) for n, part in enumerate(value))
    if isinstance(value, str):
        return value
    raise wrong("must be a text or an array of text parts")


def _part(number: int, part: object) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(kind, str):
        raise wrong('must be an object like {"type": "text", …}', f"[{number}]")
    if kind not in ("text", "input_text"):
        raise unsupported(f"a part of type {kind[:40]}", f"[{number}].type")
    if not isinstance(part.get("text"), str):
        raise wrong("must be a text", f"[{number}].text")
    return str(part["text"])


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


Content = Annotated[
    str, BeforeValidator(_flatten, json_schema_input_type=str | list[TextPart])
]
StopText = Annotated[str, Field(min_length=1)]
Stop = Annotated[
    list[StopText], BeforeValidator(_listed, json_schema_input_type=str | list[str])
]
TokenId = Annotated[str, Field(pattern=r"^\d{1,9}$")]
Bias = Annotated[float, Field(ge=-100, le=100)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Metadata = Annotated[dict[str, str], Field(max_length=16)]


class Shape(BaseModel):
    """Base of every request body: strict types, unknown fields ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class ChatMessage(Shape):
    """One turn of a conversation."""

    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: Content = Field(description="A text, or text parts.")
    name: str | None = None
    tool_calls: Unsupported = None
    function_call: Unsupported = None
    audio: Unsupported = None


class StreamOptions(Shape):
    """What a stream carries besides text."""

    include_usage: bool | None = Field(None, description="One last chunk with usage.")


class SamplingShape(Shape):
    """How to pick tokens; the same for chat and plain completions."""

    max_tokens: int | None = Field(None, ge=1, le=10_000_000)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stop | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    logit_bias: dict[TokenId, Bias] | None = None
    ignore_eos: bool | None = None

    def sampling(self) -> dict[str, object]:
        """The fields that were given, by the names of the sampling contract."""
        names = SamplingShape.model_fields
        given = {name: getattr(self, name) for name in names}
        return {name: value for name, value in given.items() if value is not None}


class OrderShape(SamplingShape):
    """What chat and plain completions have in common."""

    model: str | None = Field(
        None, description="A catalog id, a tier (lite … heavy) or a persona."
    )
    persona: str | None = Field(None, description="A persona: Genie picks the model.")
    mode: Literal["sync", "stream", "async"] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    deadline_s: float | None = Field(None, gt=0, le=86_400, description="Seconds.")
    metadata: Metadata | None = None
    user: str | None = None
    n: Annotated[int | None, _only(1)] = None
    webhook: Unsupported = None

    @model_validator(mode="after")
    def _named(self) -> "OrderShape":
        if not (self.model or self.persona):
            raise wrong("name a model or a persona; see /v1/models", "model")
        if self.stream and self.mode not in (None, "stream"):
            raise wrong(f"stream is true, so mode cannot be {self.mode}", "mode")
        return self

    @property
    def way(self) -> str:
        """How the caller wants the answer: sync, stream or async."""
        return self.mode or ("stream" if self.stream else "sync")

    @property
    def includes_usage(self) -> bool:
        """True when a stream ends with a chunk that holds the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def labels(self) -> dict[str, str]:
        """The caller's own labels: ``metadata``, and ``user`` as one of them."""
        user = {"user": self.user} if self.user else {}
        return {**user, **(self.metadata or {})}


class ChatRequest(OrderShape):
    """The body of a chat completion."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, le=10_000_000)
    tools: Unsupported = None
    tool_choice: Annotated[Any, _only("none")] = None
    functions: Unsupported = None
    function_call: Annotated[Any, _only("none")] = None
    response_format: Annotated[Any, AfterValidator(_text_format)] = None
    logprobs: Unsupported = None
    top_logprobs: Unsupported = None
    audio: Unsupported = None
    modalities: Annotated[Any, _only(["text"])] = None
    web_search_options: Unsupported = None

    def sampling(self) -> dict[str, object]:
        """The fields that were given; the newer name of max_tokens wins."""
        given = super().sampling()
        if self.max_completion_tokens is not None:
            given["max_tokens"] = self.max_completion_tokens
        return given


class CompletionRequest(OrderShape):
    """The body of a plain completion: one prompt, continued."""

    prompt: Annotated[str, Field(min_length=1)]
    suffix: Unsupported = None
    echo: Unsupported = None
    logprobs: Unsupported = None
    best_of: Annotated[int | None, _only(1)] = None


def _texts(value: object) -> object:
    """The input as a list of texts; token ids are refused with the way out."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise wrong("must be a text or an array of texts")
    if any(isinstance(one, int | list) for one in value):
        raise unsupported_tokens()
    return value


def unsupported_tokens() -> PydanticCustomError:
    """The refusal of token ids: another tokenizer made them than the model's."""
    return wrong(
        "must be texts; token ids are of another model's tokenizer. With LangChain "
        "set check_embedding_ctx_length=False, with other clients turn off their own "
        "tokenising",
        kind="unsupported",
    )


class EmbeddingRequest(Shape):
    """The body of an embeddings request."""

    input: Annotated[
        list[Annotated[str, Field(min_length=1)]],
        Field(min_length=1, max_length=MAX_INPUTS),
        BeforeValidator(_texts, json_schema_input_type=str | list[str]),
    ] = Field(description="A text or an array of texts.")
    model: str | None = Field(None, description="A catalog id or a persona.")
    persona: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1, description="Only the model's own.")
    deadline_s: float | None = Field(None, gt=0, le=86_400, description="Seconds.")
    metadata: Metadata | None = None
    user: str | None = None

    @model_validator(mode="after")
    def _named(self) -> "EmbeddingRequest":
        if not (self.model or self.persona):
            raise wrong("name a model or a persona; see /v1/models", "model")
        return self

    def labels(self) -> dict[str, str]:
        """The caller's own labels: ``metadata``, and ``user`` as one of them."""
        user = {"user": self.user} if self.user else {}
        return {**user, **(self.metadata or {})}


class RouteRequest(Shape):
    """What to decide a route for, without running anything."""

    model: str | None = None
    persona: str | None = None
    input: str | None = Field(None, description="The text, to see whether it fits.")
    mode: Literal["sync", "stream", "async"] = "sync"

    @model_validator(mode="after")
    def _named(self) -> "RouteRequest":
        if not (self.model or self.persona):
            raise wrong("name a model or a persona; see /v1/models", "model")
        return self
