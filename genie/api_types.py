"""How likely the tokens of an answer were, in OpenAI's words."""

from datetime import datetime
from typing import TypeVar

import msgspec

from genie.contracts import codec
from genie.contracts.fleet import ModelState
from genie.contracts.inference import JobState, Locality
from genie.errors import CodecError


class TopLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """A token and its log probability; ``bytes`` where it is no whole character."""

    token: str
    logprob: float
    bytes: tuple[int, ...] | None = None


class TokenLogprob(TopLogprob, frozen=True, kw_only=True):
    """A token that came, with the likeliest ones at its place."""

    top_logprobs: tuple[TopLogprob, ...] = ()


class Logprobs(msgspec.Struct, frozen=True, kw_only=True):
    """How likely each token of an answer was."""

    content: tuple[TokenLogprob, ...] | None = None


A = TypeVar("A")


class ApiObject(msgspec.Struct, frozen=True, kw_only=True):
    """Base of everything read from the HTTP API."""


class PromptDetails(ApiObject, frozen=True):
    """How much of the prompt was already in the cache."""

    cached_tokens: int | None = None


class TokenUsage(ApiObject, frozen=True):
    """Tokens of one request, in OpenAI's words."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: PromptDetails | None = None
    cached_tokens: int | None = None


class CompletionDetails(ApiObject, frozen=True):
    """The ``genie`` object of a completion: who computed it, where, in what time."""

    job_id: str | None = None
    persona: str | None = None
    worker: str | None = None
    locality: Locality | None = None
    queue_s: float | None = None
    first_token_s: float | None = None
    total_s: float | None = None
    tokens_per_s: float | None = None


class FunctionCall(ApiObject, frozen=True):
    """Which function, with a JSON object as text."""

    name: str = ""
    arguments: str = "{}"


class ToolCallAnswer(ApiObject, frozen=True):
    """One call of a tool that the model asks for."""

    id: str = ""
    function: FunctionCall = FunctionCall()


class MessageContent(ApiObject, frozen=True):
    """The text of a choice, whole or (in a stream) the next piece of it."""

    content: str | None = None
    tool_calls: tuple[ToolCallAnswer, ...] | None = None


class CompletionChoice(ApiObject, frozen=True):
    """One answer: ``message`` in a chat, ``text`` for a prompt, ``delta`` streamed."""

    index: int = 0
    logprobs: Logprobs | None = None
    message: MessageContent | None = None
    text: str | None = None
    delta: MessageContent | None = None
    finish_reason: str | None = None


class ApiError(ApiObject, frozen=True):
    """An error in OpenAI's shape."""

    message: str
    type: str | None = None
    param: str | None = None
    code: str | None = None


class Completion(ApiObject, frozen=True):
    """A chat completion, or one chunk of a streamed one."""

    id: str | None = None
    model: str | None = None
    choices: tuple[CompletionChoice, ...] = ()
    usage: TokenUsage | None = None
    system_fingerprint: str | None = None
    model_substituted: str | None = None
    genie: CompletionDetails | None = None
    error: ApiError | None = None


class EmbeddingAnswer(ApiObject, frozen=True):
    """One vector: little-endian float32 in base64."""

    index: int
    embedding: str


class EmbeddingsAnswer(ApiObject, frozen=True):
    """The vectors of one embeddings request."""

    model: str
    data: tuple[EmbeddingAnswer, ...] = ()
    usage: TokenUsage = TokenUsage()
    system_fingerprint: str | None = None
    model_substituted: str | None = None
    genie: CompletionDetails | None = None


class JobTiming(ApiObject, frozen=True):
    """Where a job spent its time on the worker, in seconds."""

    queue_s: float | None = None
    first_token_s: float | None = None
    total_s: float | None = None


class SkippedModel(ApiObject, frozen=True):
    """A model the router did not choose, and why."""

    model: str
    why: str


class RouteAnswer(ApiObject, frozen=True, rename={"work_class": "class"}):
    """Where a request goes, or would go, with the reasons; or why it is refused."""

    model: str | None = None
    queue: str | None = None
    work_class: str | None = None
    locality: str | None = None
    substituted: str | None = None
    ready: bool | None = None
    waits: str | None = None
    """What it waits for when no live worker can serve it and one may return."""
    refused: str | None = None
    message: str | None = None
    reasons: tuple[str, ...] = ()
    skipped: tuple[SkippedModel, ...] = ()


class DecisionAnswer(ApiObject, frozen=True):
    """What the router says to a question that is not run."""

    route: RouteAnswer


class JobAnswer(ApiObject, frozen=True):
    """A job as the cloud knows it; times are seconds since 1970."""

    id: str
    status: JobState
    mode: str | None = None
    persona: str | None = None
    model: str | None = None
    worker: str | None = None
    locality: Locality | None = None
    model_substituted: str | None = None
    created_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    deadline_at: float | None = None
    attempts: int = 0
    usage: TokenUsage | None = None
    timing: JobTiming | None = None
    error: ApiError | None = None
    route: RouteAnswer | None = None
    result: Completion | None = None
    metadata: dict[str, str] = {}
    retry_of: str | None = None


class JobEvent(ApiObject, frozen=True):
    """One thing that happened to a job; ``at`` is seconds since 1970.

    ``event`` is accepted, routed, queued, started, first_token or how the job ended.
    """

    event: str
    at: float
    attempt: int | None = None
    attempts: int | None = None
    worker: str | None = None
    model: str | None = None
    queue: str | None = None
    reasons: tuple[str, ...] = ()
    skipped: tuple[SkippedModel, ...] = ()
    error: ApiError | None = None


class ModelDetails(ApiObject, frozen=True):
    """The ``genie`` object of a model: who holds it, and what it is."""

    ready: bool = False
    workers: int = 0
    parameters: int | None = None
    license: str | None = None
    context: int | None = None
    states: dict[str, int] = {}
    personas: tuple[str, ...] = ()


class ModelAnswer(ApiObject, frozen=True):
    """One model of the catalog."""

    id: str
    created: int = 0
    owned_by: str = "genie"
    genie: ModelDetails = ModelDetails()


class PersonaAnswer(ApiObject, frozen=True):
    """One persona: the ladder of models that can do its work, smallest first."""

    id: str
    tier: str | None = None
    ladder: tuple[str, ...] = ()
    floor: str | None = None


class PlacementAnswer(ApiObject, frozen=True):
    """A model the planner wants on a worker."""

    model: str
    quant: str | None = None
    slots: int = 0
    context: int = 0
    reason: str | None = None


class GpuAnswer(ApiObject, frozen=True):
    """One GPU of a worker, as last reported."""

    name: str
    index: int = 0
    uuid: str | None = None
    memory_total_bytes: int = 0
    memory_used_bytes: int = 0
    foreign_bytes: int = 0
    utilization_percent: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None


class HostAnswer(ApiObject, frozen=True):
    """A worker's machine, as last reported."""

    cpu_count: int = 0
    memory_total_bytes: int = 0
    memory_available_bytes: int = 0
    disk_free_bytes: int = 0


class WorkerModel(ApiObject, frozen=True):
    """One model on one worker, as last reported; ``progress`` from 0 to 1, ``stage``
    while it loads: verifying, reading, testing."""

    model: str
    state: ModelState
    quant: str | None = None
    fingerprint: str | None = None
    progress: float | None = None
    stage: str | None = None
    slots: int = 0
    context: int = 0
    in_flight: int = 0
    waiting: int = 0
    tokens_per_s: float = 0.0
    peak_bytes: int = 0
    error: str | None = None
    retry_at: datetime | None = None


class WorkerAnswer(ApiObject, frozen=True):
    """One worker as the cloud sees it; ``last_heartbeat_s`` is seconds ago."""

    id: str
    name: str
    org: str | None = None
    state: str = "unknown"
    queues: tuple[str, ...] = ()
    hostname: str | None = None
    gpus: tuple[GpuAnswer, ...] = ()
    host: HostAnswer | None = None
    models: tuple[WorkerModel, ...] = ()
    placements: tuple[PlacementAnswer, ...] = ()
    last_heartbeat_s: float | None = None
    version: str | None = None


class QueueAnswer(ApiObject, frozen=True, rename={"work_class": "class"}):
    """The depth of one broker queue; ages in seconds."""

    queue: str
    model: str | None = None
    work_class: str | None = None
    waiting: int = 0
    consumers: int = 0
    oldest_s: float | None = None
    sla_s: float | None = None


class DeadLetterAnswer(ApiObject, frozen=True, rename={"work_class": "class"}):
    """A message no worker could serve; ``content`` only when it was asked for."""

    id: str
    queue: str
    source: str | None = None
    reason: str | None = None
    why: str | None = None
    died_at: float | None = None
    model: str | None = None
    work_class: str | None = None
    persona: str | None = None
    size_bytes: int = 0
    content: object = None


class KeyAnswer(ApiObject, frozen=True):
    """An API key; ``secret`` is the key itself, only there when it was just made."""

    id: str
    name: str
    prefix: str | None = None
    is_admin: bool = False
    allowed_models: tuple[str, ...] | None = None
    created_at: float | None = None
    revoked_at: float | None = None
    secret: str | None = None


class JoinTokenAnswer(ApiObject, frozen=True):
    """A token one machine may join the fleet with, once, and the command to run."""

    token: str
    expires_at: float | None = None
    command: str | None = None


class HealthAnswer(ApiObject, frozen=True):
    """Whether the cloud is well: each part it stands on is ``ok``, or says why not."""

    status: str
    checks: dict[str, str] = {}
    version: str | None = None


class ListPage(ApiObject, frozen=True):
    """A list whose items are read one type at a time."""

    data: msgspec.Raw
    has_more: bool = False


def read(kind: type[A], body: bytes | str) -> A:
    """A JSON body as one answer; raises `CodecError` naming the field."""
    try:
        return codec.decoder(kind).decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        name = getattr(kind, "__name__", "answer")
        raise CodecError(
            f"the cloud's {name} cannot be read: {error}; "
            "does GENIE_URL point to a Genie cloud of the same release?"
        ) from error


def read_list(kind: type[A], body: bytes | str) -> tuple[A, ...]:
    """The items of a list: ``{"object": "list", "data": […]}`` or a plain array."""
    text = body.strip()
    is_array = text[:1] in (b"[", "[")
    items = body if is_array else bytes(read(ListPage, body).data)
    try:
        return codec.decoder(tuple[kind, ...]).decode(items)  # type: ignore[valid-type]  # kind is a value here
    except msgspec.DecodeError as error:
        raise CodecError(
            f"the cloud's list of {kind.__name__} cannot be read: {error}; "
            "does GENIE_URL point to a Genie cloud of the same release?"
        ) from error
