"""The bodies of requests: what people may send, and how a mistake is named."""

import json
from typing import Annotated, Any, Literal, Self

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

from cloud_app.brain import webhook_rules
from cloud_app.store.records import WebhookConfig
from genie.contracts.inference import ANY_TOOL, LABEL_LENGTH, JobRequest, Tool, ToolCall


def wrong(message: str, at: str = "", kind: str = "value") -> PydanticCustomError:
    """A mistake in a body; ``at`` is the rest of the path below the field."""
    return PydanticCustomError(kind, "{text}", {"text": message, "at": at})


def unsupported(what: str, at: str = "") -> PydanticCustomError:
    """Something meaningful that this release cannot do; never ignored in silence."""
    return wrong(f"{what} is not supported yet; leave it out", at, "unsupported")


def unsupported_tokens() -> PydanticCustomError:
    """The refusal of token ids: another tokenizer made them than the model's."""
    return wrong(
        "must be texts; token ids are of another model's tokenizer. With LangChain "
        "set check_embedding_ctx_length=False, with other clients turn off their own "
        "tokenising",
        kind="unsupported",
    )


NonEmptyText = Annotated[str, Field(min_length=1)]
Metadata = Annotated[dict[str, str], Field(max_length=16)]
NulFreeText = Annotated[str, Field(pattern=r"^[^\x00]*$")]
"""What is looked up, not read: no column of PostgreSQL takes a NUL."""

Label = Annotated[NulFreeText, Field(min_length=1, max_length=LABEL_LENGTH)]


class RequestModel(BaseModel):
    """Base of every request body: strict types, unknown fields ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


def _named(schema: dict[str, Any]) -> None:
    """Say in the API's description what `NamedRequest` checks."""
    text = {"type": "string", "minLength": 1}
    schema["anyOf"] = [
        {"required": [name], "properties": {name: text}}
        for name in ("model", "persona")
    ]


class NamedRequest(RequestModel):
    """A request that names a model or a persona."""

    model_config = ConfigDict(json_schema_extra=_named)

    model: str | None = Field(
        None,
        description="A catalog id, a tier (lite … heavy) or a persona.",
        examples=["chat"],
    )
    persona: str | None = Field(
        None, description="A persona: Genie picks the model.", examples=["chat"]
    )

    @model_validator(mode="after")
    def _is_named(self) -> Self:
        if not (self.model or self.persona):
            raise wrong("name a model or a persona; see /v1/models", "model")
        return self


class JobInput(NamedRequest):
    """What a client may say of any job, beside the work: it is kept and shown."""

    deadline_s: float | None = Field(
        None, gt=0, le=86_400, description="Seconds.", examples=[60.0]
    )
    label: Label | None = Field(None, description="Jobs are listed by it.")
    metadata: Metadata | None = None
    user: str | None = None

    def job_request(self) -> JobRequest:
        """The same for the job's row: ``user`` is one of the metadata."""
        user = {"user": self.user} if self.user else {}
        metadata = {**user, **(self.metadata or {})}
        return JobRequest(metadata=metadata, label=self.label)


def _target(url: str) -> str:
    try:
        webhook_rules.parse_webhook_url(url)
    except ValueError as error:
        raise wrong(str(error)) from error
    return url


class WebhookInput(RequestModel):
    """Where to tell that the work has ended, and what signs the telling."""

    url: Annotated[str, AfterValidator(_target)] = Field(
        max_length=2048,
        pattern="^https?://",
        description="http or https, without a user or password.",
        examples=["https://example.com/hook"],
    )
    secret: str = Field(
        min_length=8,
        max_length=200,
        description="Key of the HMAC in X-Genie-Signature; never shown again.",
    )

    def webhook(self) -> WebhookConfig:
        """The same for those below the web."""
        return WebhookConfig(url=self.url, secret=self.secret)


FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class JsonSchema(RequestModel):
    """A schema by name; ``strict`` or not, the answer always satisfies it."""

    name: str | None = Field(None, max_length=64)
    description: str | None = None
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")
    strict: bool | None = None


class ResponseFormat(RequestModel):
    """The shape of the answer: text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.type == "json_schema" and self.json_schema is None:
            raise wrong("needs json_schema with a name and a schema", ".json_schema")
        return self

    @property
    def schema_text(self) -> str | None:
        """The schema the answer must satisfy, None for free text."""
        if self.type == "text":
            return None
        named = self.json_schema if self.type == "json_schema" else None
        return json.dumps(named.schema_ if named else {"type": "object"})


class FunctionInput(RequestModel):
    """A function the model may call; ``parameters`` is a JSON schema."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolInput(RequestModel):
    """A tool: always a function."""

    type: Literal["function"]
    function: FunctionInput

    def contract(self) -> Tool:
        """The tool as a worker takes it."""
        function = self.function
        schema = function.parameters or {"type": "object", "properties": {}}
        return Tool(
            name=function.name,
            description=function.description or "",
            parameters=json.dumps(schema),
        )


def _json_object(value: str) -> str:
    try:
        read = json.loads(value or "{}")
    except ValueError as error:
        raise wrong(f"is not JSON: {error}") from error
    if not isinstance(read, dict):
        raise wrong("must be a JSON object, as text")
    return value or "{}"


class FunctionCallInput(RequestModel):
    """What the model called; ``arguments`` is a JSON object as text."""

    name: FunctionName
    arguments: Annotated[str, AfterValidator(_json_object)] = "{}"


class ToolCallInput(RequestModel):
    """One call of an earlier answer, given back."""

    id: str = Field(min_length=1, max_length=64)
    type: Literal["function"] = "function"
    function: FunctionCallInput

    def contract(self) -> ToolCall:
        """The call as a worker takes it."""
        name, arguments = self.function.name, self.function.arguments
        return ToolCall(id=self.id, name=name, arguments=arguments)


def _choice(value: object) -> object:
    if value is None or value in ("none", "auto", "required"):
        return value
    function = value.get("function") if isinstance(value, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if isinstance(value, dict) and value.get("type") == "function" and name:
        return {"name": str(name)}
    raise wrong(
        'must be "none", "auto", "required" or {"type": "function", "function": '
        '{"name": …}}'
    )


ToolChoice = Annotated[Any, BeforeValidator(_choice)]


MAX_INPUTS = 256
"""Texts of one embeddings request."""


def _texts(value: object) -> object:
    """The input as a list of texts; token ids are refused with the way out."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise wrong("must be a text or an array of texts")
    if any(isinstance(one, int | list) for one in value):
        raise unsupported_tokens()
    if len(value) > MAX_INPUTS:
        raise wrong(
            f"has {len(value)} texts; send at most {MAX_INPUTS} in one request, with "
            f"LangChain by chunk_size={MAX_INPUTS}"
        )
    return value


EmbeddingTexts = Annotated[
    list[NonEmptyText], Field(min_length=1, max_length=MAX_INPUTS)
]


class EmbeddingRequest(JobInput):
    """The body of an embeddings request."""

    input: Annotated[
        EmbeddingTexts,
        BeforeValidator(_texts, json_schema_input_type=NonEmptyText | EmbeddingTexts),
    ] = Field(
        description="A text or an array of texts.", examples=[["One text.", "Two."]]
    )
    model: str | None = Field(
        None, description="A catalog id or a persona.", examples=["embed"]
    )
    persona: str | None = Field(None, examples=["embed"])
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1, description="Only the model's own.")


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


UnsupportedField = Annotated[
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


MessageText = Annotated[
    str | None,
    BeforeValidator(_flatten, json_schema_input_type=str | list[TextPart] | None),
]
StopSequences = Annotated[
    list[NonEmptyText],
    BeforeValidator(_listed, json_schema_input_type=NonEmptyText | list[NonEmptyText]),
]
TokenId = Annotated[str, Field(pattern=r"^\d{1,9}$")]
Bias = Annotated[float, Field(ge=-100, le=100)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class ChatMessage(RequestModel):
    """One turn of a conversation."""

    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: MessageText = Field(None, description="A text, or text parts.")
    name: str | None = None
    tool_calls: list[ToolCallInput] | None = None
    tool_call_id: str | None = Field(None, max_length=64)
    function_call: UnsupportedField = None
    audio: UnsupportedField = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.content is None and not self.tool_calls:
            raise wrong("must be a text or an array of text parts", ".content")
        if self.tool_calls and self.role != "assistant":
            raise wrong("only an assistant calls tools", ".tool_calls")
        if self.role == "tool" and not self.tool_call_id:
            raise wrong("names the call this answers; give it", ".tool_call_id")
        return self


class StreamOptions(RequestModel):
    """What a stream carries besides text."""

    include_usage: bool | None = Field(None, description="One last chunk with usage.")


class SamplingInput(RequestModel):
    """How to pick tokens; the same for chat and plain completions."""

    max_tokens: int | None = Field(None, ge=1, le=10_000_000)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0)
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: StopSequences | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: float | None = Field(None, ge=0.01, le=10)
    logit_bias: dict[TokenId, Bias] | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = Field(None, ge=0, le=10_000_000)

    def sampling(self) -> dict[str, object]:
        """The fields that were given, by the names of the sampling contract."""
        return {
            name: value
            for name in SamplingInput.model_fields
            if (value := getattr(self, name)) is not None
        }


class GenerationInput(JobInput, SamplingInput):
    """What chat and plain completions have in common."""

    mode: Literal["sync", "stream", "async"] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    retain: int | None = Field(
        None,
        ge=0,
        le=8760,
        description="Hours to keep prompt and answer after the end, at most what the "
        "org keeps; 0: nothing is kept after delivery.",
    )
    n: int | None = Field(None, ge=1, le=MOST_ANSWERS, description="How many answers.")
    webhook: WebhookInput | None = Field(None, description="With mode async.")

    @model_validator(mode="after")
    def _has_one_way(self) -> Self:
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


class ChatRequest(GenerationInput):
    """The body of a chat completion."""

    messages: list[ChatMessage] = Field(
        min_length=1, examples=[[{"role": "user", "content": "Say hello."}]]
    )
    max_completion_tokens: int | None = Field(None, ge=1, le=10_000_000)
    tools: list[ToolInput] | None = Field(None, max_length=128)
    tool_choice: ToolChoice = None
    parallel_tool_calls: bool | None = Field(None, description="False: one at most.")
    functions: UnsupportedField = None
    function_call: Annotated[Any, _only("none")] = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = Field(
        None, description="How likely each token was.", examples=[True]
    )
    top_logprobs: int | None = Field(
        None, ge=0, le=20, description="Of so many likeliest tokens too."
    )
    audio: UnsupportedField = None
    modalities: Annotated[Any, _only(["text"])] = None
    web_search_options: UnsupportedField = None

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
    def _likely(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise wrong("needs logprobs: true", "top_logprobs")
        return self

    @model_validator(mode="after")
    def _callable(self) -> Self:
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
        if self.tool_choice == "required":
            return ANY_TOOL
        chosen = self.tool_choice
        return str(chosen["name"]) if isinstance(chosen, dict) else None


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


PromptText = Annotated[
    NonEmptyText,
    BeforeValidator(
        _only_prompt,
        json_schema_input_type=NonEmptyText
        | Annotated[list[NonEmptyText], Field(min_length=1, max_length=1)],
    ),
]


class CompletionRequest(GenerationInput):
    """The body of a plain completion: one prompt, continued."""

    prompt: PromptText = Field(examples=["Once upon a time"])
    suffix: UnsupportedField = None
    echo: UnsupportedField = None
    logprobs: int | None = Field(
        None, ge=0, le=5, description="How likely each token and so many rivals were."
    )
    best_of: int | None = Field(None, ge=1, description="Only as many as n.")

    def sampling(self) -> dict[str, object]:
        """The fields that were given."""
        given = super().sampling()
        return given if self.logprobs is None else {**given, "logprobs": self.logprobs}

    @model_validator(mode="after")
    def _all_shown(self) -> Self:
        if self.best_of not in (None, self.n or 1):
            raise unsupported("anything but n", "best_of")
        return self


class RouteRequest(NamedRequest):
    """What to decide a route for, without running anything."""

    model: str | None = Field(None, examples=["chat"])
    persona: str | None = Field(None, examples=["chat"])
    input: str | None = Field(None, description="The text, to see whether it fits.")
    mode: Literal["sync", "stream", "async"] = "sync"
