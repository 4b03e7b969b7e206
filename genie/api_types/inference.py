"""What a model answers, and the jobs that answer; moments are seconds since 1970."""

from typing import Annotated, Literal, cast

import msgspec
from msgspec import UNSET, UnsetType

from genie.api_types.base import (
    NEVER_NULL,
    ApiObject,
    FaultSummary,
    ListAnswer,
    PageAnswer,
    read,
)
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


class JobTiming(ApiObject, frozen=True):
    """Where a job spent its time on the worker, in seconds."""

    queue_s: float = 0.0
    first_token_s: float = 0.0
    total_s: float = 0.0


class JobFault(FaultSummary, frozen=True):
    """Why a job did not complete."""

    param: str | None = None
    retryable: bool = False


class SkippedModel(ApiObject, frozen=True):
    """A model the router did not choose, and why."""

    model: str
    why: str


class RouteAnswer(ApiObject, frozen=True, rename={"work_class": "class"}):
    """Where a request goes, or would go, with the reasons; or why it is refused.

    ``waits`` says what it waits for when no live worker can serve it yet.
    """

    model: str | None = None
    queue: str | None = None
    work_class: str | None = None
    locality: Locality | None = None
    ready: bool | None = None
    waits: str | None = None
    substituted: str | None = None
    refused: str | None = None
    message: str | None = None
    reasons: tuple[str, ...] = ()
    skipped: tuple[SkippedModel, ...] = ()


class RouteQuestion(ApiObject, frozen=True):
    """What a route was wanted for."""

    model: str | None = None
    persona: str | None = None


class DecisionAnswer(ApiObject, frozen=True, tag_field="object", tag="route"):
    """Where a request would go now: chosen or refused, with the reasons."""

    route: RouteAnswer
    asked: RouteQuestion = RouteQuestion()


class JobEvent(ApiObject, frozen=True, omit_defaults=True):
    """One thing that happened to a job, and at what moment; the rest as known.

    ``event`` is accepted, routed, queued, started, first_token or how the job ended.
    """

    event: str
    at: float
    mode: str | None = None
    retry_of: str | None = None
    model: str | None = None
    queue: str | None = None
    reasons: tuple[str, ...] = ()
    skipped: tuple[SkippedModel, ...] = ()
    attempt: int | None = None
    attempts: int | None = None
    worker: str | None = None
    finish_reason: str | None = None
    error: FaultSummary | None = None


class JobAnswer(ApiObject, frozen=True, tag_field="object", tag="job"):
    """Something submitted, how far it is and, once completed, its result."""

    id: str
    status: JobState
    mode: str = ""
    persona: str | None = None
    model: str = ""
    worker: str | None = None
    locality: Annotated[Locality | None, NEVER_NULL] = None
    model_substituted: str | None = None
    created_at: float | None = None
    started_at: float | None = None
    first_token_at: float | None = None
    finished_at: float | None = None
    deadline_at: float | None = None
    attempts: int = 0
    retry_of: str | None = None
    retain: int | None = None
    usage: TokenUsage | None = None
    timing: JobTiming | None = None
    error: JobFault | None = None
    route: RouteAnswer = RouteAnswer()
    result: ChatCompletion | TextCompletion | EmbeddingsAnswer | None = None
    label: str | None = None
    metadata: dict[str, str] = {}


class JobDetails(JobAnswer, frozen=True, tag="job"):
    """A job, and what happened to it."""

    timeline: tuple[JobEvent, ...] = ()


class JobList(PageAnswer[JobAnswer], frozen=True):
    """Jobs, newest first."""


class SkippedJob(ApiObject, frozen=True):
    """A job that was not retried, and why."""

    id: str
    why: str


class RetryAnswer(ListAnswer[JobAnswer], frozen=True):
    """The new jobs, and those that were left."""

    skipped: tuple[SkippedJob, ...] = ()


class WebhookEvent(ApiObject, frozen=True, tag_field="object", tag="event"):
    """What a webhook is told of a job's end."""

    id: str
    type: str | None
    created_at: float | None
    data: JobAnswer
