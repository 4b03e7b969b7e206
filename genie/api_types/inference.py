"""What a model's answers look like: completions, their chunks, and vectors."""

from typing import Annotated, Literal, cast

import msgspec
from msgspec import UNSET, UnsetType

from genie.api_types.base import NEVER_NULL, ApiObject, read
from genie.contracts.inference import JobState, Locality

EndReason = Annotated[
    str,
    msgspec.Meta(
        extra_json_schema={
            "enum": ["stop", "length", "tool_calls", "content_filter", "error"]
        }
    ),
]
"""Why an answer ended; a later release may know more reasons."""


class PromptDetails(ApiObject, frozen=True):
    """How much of the prompt was already in the cache."""

    cached_tokens: int = 0


class TokenUsage(ApiObject, frozen=True):
    """Tokens of one request, in OpenAI's words."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_tokens_details: PromptDetails = PromptDetails()


class CompletionDetails(ApiObject, frozen=True):
    """The ``genie`` object of a completion: who computed it, where, in what time."""

    job_id: str = ""
    persona: str | None = None
    worker: str | None = None
    locality: Annotated[Locality | None, NEVER_NULL] = None
    queue_s: float = 0.0
    first_token_s: float = 0.0
    total_s: float = 0.0
    tokens_per_s: float | None = None


class FunctionCall(ApiObject, frozen=True):
    """A function's name, and its arguments as a JSON object in a text."""

    name: str = ""
    arguments: str = "{}"


class ToolCallAnswer(ApiObject, frozen=True, tag_field="type", tag="function"):
    """One call of a tool that the model asks for."""

    id: str = ""
    function: FunctionCall = FunctionCall()


class ToolCallDelta(ToolCallAnswer, frozen=True, tag="function"):
    """One whole call of a tool, in a stream."""

    index: int = 0


class TopLogprob(ApiObject, frozen=True):
    """A token that might have come, and its log probability; ``bytes`` are its own."""

    token: str
    logprob: float
    bytes: tuple[int, ...] | None = None


class TokenLogprob(TopLogprob, frozen=True):
    """A token that came, with the likeliest ones at its place."""

    top_logprobs: tuple[TopLogprob, ...] = ()


class Logprobs(ApiObject, frozen=True):
    """How likely each token of a message was."""

    content: tuple[TokenLogprob, ...] | None = None
    refusal: tuple[TokenLogprob, ...] | UnsetType | None = UNSET


class TextLogprobs(ApiObject, frozen=True):
    """How likely each token of a text was."""

    tokens: tuple[str, ...] = ()
    token_logprobs: tuple[float | None, ...] = ()
    top_logprobs: tuple[dict[str, float] | None, ...] | None = None
    text_offset: tuple[int, ...] = ()


class AssistantMessage(ApiObject, frozen=True, tag_field="role", tag="assistant"):
    """What the model said."""

    content: str | None = None
    refusal: None = None
    tool_calls: tuple[ToolCallAnswer, ...] | UnsetType = UNSET


class MessageDelta(ApiObject, frozen=True):
    """The next piece of what the model says."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    refusal: UnsetType | None = UNSET
    tool_calls: tuple[ToolCallDelta, ...] | UnsetType = UNSET


class ChatChoice(ApiObject, frozen=True):
    """One answer of a conversation."""

    index: int = 0
    message: AssistantMessage = AssistantMessage()
    finish_reason: EndReason = ""
    logprobs: Logprobs | None = None


class DeltaChoice(ApiObject, frozen=True):
    """A piece of one answer of a conversation."""

    index: int = 0
    delta: MessageDelta = MessageDelta()
    finish_reason: EndReason | None = None
    logprobs: Logprobs | None = None


class TextChoice(ApiObject, frozen=True):
    """One continuation of a prompt."""

    index: int = 0
    text: str = ""
    finish_reason: EndReason | None = None
    logprobs: TextLogprobs | None = None


class CompletionHead(ApiObject, frozen=True):
    """What every completion begins with."""

    id: str = ""
    created: int = 0
    model: str = ""
    system_fingerprint: str | None = None


class ChatCompletion(
    CompletionHead, frozen=True, tag_field="object", tag="chat.completion"
):
    """A whole answer to a conversation."""

    choices: tuple[ChatChoice, ...] = ()
    usage: TokenUsage = TokenUsage()
    model_substituted: str | None = None
    genie: CompletionDetails = CompletionDetails()


class ChatChunk(
    CompletionHead, frozen=True, tag_field="object", tag="chat.completion.chunk"
):
    """What one event of a streamed answer carries."""

    choices: tuple[DeltaChoice, ...] = ()
    usage: TokenUsage | UnsetType | None = UNSET
    model_substituted: str | UnsetType | None = UNSET
    genie: CompletionDetails | UnsetType = UNSET


class TextCompletion(
    CompletionHead, frozen=True, tag_field="object", tag="text_completion"
):
    """A whole continuation of a prompt; in a stream, what one event carries."""

    choices: tuple[TextChoice, ...] = ()
    usage: TokenUsage | UnsetType | None = UNSET
    model_substituted: str | UnsetType | None = UNSET
    genie: CompletionDetails | UnsetType = UNSET


class AcceptedJob(ApiObject, frozen=True):
    """Work that is not waited for; ask polling_url how far it is."""

    id: str
    status: JobState
    object: Literal["chat.completion.async", "text_completion.async"] = (
        "chat.completion.async"
    )
    polling_url: str = ""
    created: int = 0
    model: str = ""
    model_substituted: str | None = None


class EmbeddingAnswer(ApiObject, frozen=True, tag_field="object", tag="embedding"):
    """A vector of length 1: numbers, or little-endian float32 in base64."""

    index: int
    embedding: list[float] | str


class EmbeddingUsage(ApiObject, frozen=True):
    """Tokens of all inputs."""

    prompt_tokens: int = 0
    total_tokens: int = 0


class EmbeddingsAnswer(ApiObject, frozen=True, tag_field="object", tag="list"):
    """One vector for each input, in its order."""

    model: str
    data: tuple[EmbeddingAnswer, ...] = ()
    usage: EmbeddingUsage = EmbeddingUsage()
    system_fingerprint: str | None = None
    model_substituted: str | None = None
    genie: CompletionDetails = CompletionDetails()


AnyCompletion = ChatCompletion | TextCompletion
"""A whole answer of a model."""

AnyChunk = ChatChunk | TextCompletion
"""A piece of an answer of a model."""


def read_completion(body: bytes | str) -> AnyCompletion:
    """A whole answer of a model; raises `CodecError`."""
    return read(cast("type[AnyCompletion]", AnyCompletion), body)


def read_chunk(body: bytes | str) -> AnyChunk:
    """A piece of an answer of a model; raises `CodecError`."""
    return read(cast("type[AnyChunk]", AnyChunk), body)
