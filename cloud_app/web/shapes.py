"""What clients may send to /v1: checked strictly, unknown fields ignored."""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    WithJsonSchema,
    model_validator,
)

from cloud_app.web.formats import (
    ResponseFormat,
    ToolCallShape,
    ToolChoice,
    ToolShape,
    forced,
)
from cloud_app.web.hook_shape import WebhookShape
from cloud_app.web.shape import (
    NAMED,
    Metadata,
    OneText,
    unsupported,
    unsupported_tokens,
    wrong,
)
from cloud_app.web.shape import Shape as Shape
from genie.contracts.inference import ANY_TOOL, Tool

MOST_ANSWERS = 8
"""Answers of one request: each takes a slot of one engine."""

EMPTY: tuple[object, ...] = (None, False, "", [], {}, 0)


def _absent(value: object) -> None:
    if value not in EMPTY:
        raise unsupported("this")


def _only(*allowed: object) -> AfterValidator:
    def check(value: object) -> object:
        if value is not None and value not in allowed:
            raise unsupported(f"anything but {allowed[0]!r}")
        return value

    return AfterValidator(check)


Unsupported = Annotated[
    Any, AfterValidator(_absent), WithJsonSchema({"description": "Not supported yet."})
]


class TextPart(BaseModel):
    """One text part of a message; image and audio parts are not supported yet."""

    type: Literal["text"]
    text: str


def _flatten(value: object) -> object:
    """Message content as one text: a string, or text parts joined by line breaks."""
    if value is None:
        return None
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
    str | None,
    BeforeValidator(_flatten, json_schema_input_type=str | list[TextPart] | None),
]
StopText = Annotated[str, Field(min_length=1)]
Stop = Annotated[
    list[StopText],
    BeforeValidator(_listed, json_schema_input_type=StopText | list[StopText]),
]
TokenId = Annotated[str, Field(pattern=r"^\d{1,9}$")]
Bias = Annotated[float, Field(ge=-100, le=100)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class ChatMessage(Shape):
    """One turn of a conversation."""

    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: Content = Field(None, description="A text, or text parts.")
    name: str | None = None
    tool_calls: list[ToolCallShape] | None = None
    tool_call_id: str | None = Field(None, max_length=64)
    function_call: Unsupported = None
    audio: Unsupported = None

    @model_validator(mode="after")
    def _whole(self) -> "ChatMessage":
        if self.content is None and not self.tool_calls:
            raise wrong("must be a text or an array of text parts", ".content")
        if self.tool_calls and self.role != "assistant":
            raise wrong("only an assistant calls tools", ".tool_calls")
        if self.role == "tool" and not self.tool_call_id:
            raise wrong("names the call this answers; give it", ".tool_call_id")
        return self


class StreamOptions(Shape):
    """What a stream carries besides text."""

    include_usage: bool | None = Field(None, description="One last chunk with usage.")


class SamplingShape(Shape):
    """How to pick tokens; the same for chat and plain completions."""

    max_tokens: int | None = Field(None, ge=1, le=10_000_000)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0)
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stop | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: float | None = Field(None, ge=0.01, le=10)
    logit_bias: dict[TokenId, Bias] | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = Field(None, ge=0, le=10_000_000)

    def sampling(self) -> dict[str, object]:
        """The fields that were given, by the names of the sampling contract."""
        names = SamplingShape.model_fields
        given = {name: getattr(self, name) for name in names}
        return {name: value for name, value in given.items() if value is not None}


class OrderShape(SamplingShape):
    """What chat and plain completions have in common."""

    model_config = NAMED

    model: str | None = Field(
        None,
        description="A catalog id, a tier (lite … heavy) or a persona.",
        examples=["chat"],
    )
    persona: str | None = Field(
        None, description="A persona: Genie picks the model.", examples=["chat"]
    )
    mode: Literal["sync", "stream", "async"] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    deadline_s: float | None = Field(
        None, gt=0, le=86_400, description="Seconds.", examples=[60.0]
    )
    metadata: Metadata | None = None
    retain: int | None = Field(
        None,
        ge=0,
        le=8760,
        description="Hours to keep prompt and answer after the end, at most what the "
        "org keeps; 0: nothing is kept after delivery.",
    )
    user: str | None = None
    n: int | None = Field(None, ge=1, le=MOST_ANSWERS, description="How many answers.")
    webhook: WebhookShape | None = Field(None, description="With mode async.")

    @model_validator(mode="after")
    def _named(self) -> "OrderShape":
        if not (self.model or self.persona):
            raise wrong("name a model or a persona; see /v1/models", "model")
        if self.stream and self.mode not in (None, "stream"):
            raise wrong(f"stream is true, so mode cannot be {self.mode}", "mode")
        if self.webhook and self.way != "async":
            raise wrong("is told of jobs nobody waits for; use mode async", "webhook")
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

    messages: list[ChatMessage] = Field(
        min_length=1, examples=[[{"role": "user", "content": "Say hello."}]]
    )
    max_completion_tokens: int | None = Field(None, ge=1, le=10_000_000)
    tools: list[ToolShape] | None = Field(None, max_length=128)
    tool_choice: ToolChoice = None
    parallel_tool_calls: bool | None = Field(None, description="False: one at most.")
    functions: Unsupported = None
    function_call: Annotated[Any, _only("none")] = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = Field(
        None, description="How likely each token was.", examples=[True]
    )
    top_logprobs: int | None = Field(
        None, ge=0, le=20, description="Of so many likeliest tokens too."
    )
    audio: Unsupported = None
    modalities: Annotated[Any, _only(["text"])] = None
    web_search_options: Unsupported = None

    def sampling(self) -> dict[str, object]:
        """The fields that were given; the newer name of max_tokens wins."""
        given = super().sampling()
        if self.max_completion_tokens is not None:
            given["max_tokens"] = self.max_completion_tokens
        if self.logprobs:
            given["logprobs"] = self.top_logprobs or 0
        return given

    @property
    def json_schema(self) -> str | None:
        """The JSON schema the answer must satisfy, as text."""
        return self.response_format.schema_text if self.response_format else None

    @model_validator(mode="after")
    def _likely(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise wrong("needs logprobs: true", "top_logprobs")
        return self

    @model_validator(mode="after")
    def _callable(self) -> "ChatRequest":
        if self.offered and self.json_schema is not None:
            raise wrong("cannot be had together with tools yet", "response_format")
        if self.tool_choice in (None, "none", "auto") or self.offered:
            names = {tool.function.name for tool in self.tools or ()}
            if self.force_tool in (None, ANY_TOOL) or self.force_tool in names:
                return self
            raise wrong(
                f"names {self.force_tool}, which is not in tools", "tool_choice"
            )
        raise wrong("needs tools to choose from", "tool_choice")

    @property
    def offered(self) -> tuple[Tool, ...]:
        """The tools the model may call; none when tool_choice says none."""
        if self.tool_choice == "none":
            return ()
        return tuple(tool.contract() for tool in self.tools or ())

    @property
    def force_tool(self) -> str | None:
        """The tool that must be called, ``*`` for any, None for the model's choice."""
        return forced(self.tool_choice)


def _only_prompt(value: object) -> object:
    """The one prompt; many, or token ids, are refused with the way out."""
    if not isinstance(value, list):
        return value
    if any(isinstance(one, int | list) for one in value):
        raise unsupported_tokens()
    if len(value) != 1:
        raise wrong(
            "must be one text; send a request for each, or a batch", kind="unsupported"
        )
    return value[0]


Prompt = Annotated[
    OneText,
    BeforeValidator(
        _only_prompt,
        json_schema_input_type=OneText
        | Annotated[list[OneText], Field(min_length=1, max_length=1)],
    ),
]


class CompletionRequest(OrderShape):
    """The body of a plain completion: one prompt, continued."""

    prompt: Prompt = Field(examples=["Once upon a time"])
    suffix: Unsupported = None
    echo: Unsupported = None
    logprobs: int | None = Field(
        None, ge=0, le=5, description="How likely each token and so many rivals were."
    )
    best_of: int | None = Field(None, ge=1, description="Only as many as n.")

    def sampling(self) -> dict[str, object]:
        """The fields that were given."""
        given = super().sampling()
        return given if self.logprobs is None else {**given, "logprobs": self.logprobs}

    @model_validator(mode="after")
    def _all_shown(self) -> "CompletionRequest":
        if self.best_of not in (None, self.n or 1):
            raise unsupported("anything but n", "best_of")
        return self


class RouteRequest(Shape):
    """What to decide a route for, without running anything."""

    model_config = NAMED

    model: str | None = Field(None, examples=["chat"])
    persona: str | None = Field(None, examples=["chat"])
    input: str | None = Field(None, description="The text, to see whether it fits.")
    mode: Literal["sync", "stream", "async"] = "sync"

    @model_validator(mode="after")
    def _named(self) -> "RouteRequest":
        if not (self.model or self.persona):
            raise wrong("name a model or a persona; see /v1/models", "model")
        return self
