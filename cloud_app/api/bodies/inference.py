"""Answers to requests that a model serves."""

from typing import Literal, NotRequired

from typing_extensions import TypedDict

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "error"]


class CachedTokens(TypedDict):
    """How much of the prompt was already in the cache."""

    cached_tokens: int


class Usage(TypedDict):
    """Tokens of one request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class Facts(TypedDict):
    """Who computed an answer, where, and in how many seconds."""

    job_id: str
    persona: str | None
    worker: str | None
    locality: str
    queue_s: float
    first_token_s: float
    total_s: float
    tokens_per_s: float | None


class MadeFunction(TypedDict):
    """A function's name, and its arguments as JSON in a text."""

    name: str
    arguments: str


class MadeCall(TypedDict):
    """One call of a tool."""

    id: str
    type: Literal["function"]
    function: MadeFunction


class ToolCallDelta(MadeCall):
    """One whole call of a tool, in a stream."""

    index: int


class TopToken(TypedDict):
    """A token that might have come."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopToken):
    """A token that came, with those that might have."""

    top_logprobs: list[TopToken]


class ChatLogprobs(TypedDict):
    """How likely each token of a message was."""

    content: list[TokenLogprob] | None
    refusal: NotRequired[list[TokenLogprob] | None]


class TextLogprobs(TypedDict):
    """How likely each token of a text was."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class Message(TypedDict):
    """What the model said."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: NotRequired[list[MadeCall]]


class Delta(TypedDict):
    """The next piece of what the model says."""

    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str]
    refusal: NotRequired[None]
    tool_calls: NotRequired[list[ToolCallDelta]]


class ChatChoice(TypedDict):
    """One answer of a conversation."""

    index: int
    message: Message
    finish_reason: FinishReason
    logprobs: ChatLogprobs | None


class DeltaChoice(TypedDict):
    """A piece of one answer of a conversation."""

    index: int
    delta: Delta
    finish_reason: FinishReason | None
    logprobs: ChatLogprobs | None


class TextChoice(TypedDict):
    """One continuation of a prompt."""

    index: int
    text: str
    finish_reason: FinishReason | None
    logprobs: TextLogprobs | None


class _CompletionHead(TypedDict):
    id: str
    created: int
    model: str
    system_fingerprint: str | None


class ChatCompletion(_CompletionHead):
    """A whole answer to a conversation."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage
    model_substituted: str | None
    genie: Facts


class ChatChunk(_CompletionHead):
    """What one event of a streamed answer carries."""

    object: Literal["chat.completion.chunk"]
    choices: list[DeltaChoice]
    usage: NotRequired[Usage | None]
    model_substituted: NotRequired[str | None]
    genie: NotRequired[Facts]


class TextCompletion(_CompletionHead):
    """A whole continuation of a prompt; in a stream, what one event carries."""

    object: Literal["text_completion"]
    choices: list[TextChoice]
    usage: NotRequired[Usage | None]
    model_substituted: NotRequired[str | None]
    genie: NotRequired[Facts]


class AcceptedJob(TypedDict):
    """Work that is not waited for; ask polling_url how far it is."""

    id: str
    object: Literal["chat.completion.async", "text_completion.async"]
    status: str
    polling_url: str
    created: int
    model: str
    model_substituted: str | None


class Embedding(TypedDict):
    """A vector of length 1: numbers, or little-endian float32 in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(TypedDict):
    """Tokens of all inputs."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(TypedDict):
    """One vector for each input, in its order."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage
    system_fingerprint: str | None
    model_substituted: str | None
    genie: Facts
