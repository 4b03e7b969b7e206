"""One request, from the message a worker consumes to the outcome that ends it."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from genie.contracts.base import Contract, Count, Seconds


class WorkClass(StrEnum):
    """How urgent work is; each class has broker queues of its own."""

    INTERACTIVE = "interactive"
    JOB = "job"
    BATCH = "batch"


class JobState(StrEnum):
    """The states of every kind of job."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"

    @property
    def is_terminal(self) -> bool:
        """True when nothing can change the job any more."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


class Locality(StrEnum):
    """Where an answer was computed."""

    LOCAL = "local"
    DEDICATED = "dedicated"
    OVERFLOW = "overflow"


class FinishReason(StrEnum):
    """Why generation ended, in OpenAI's words plus ours for a fault."""

    STOP = "stop"
    LENGTH = "length"
    ERROR = "error"
    CANCELLED = "cancelled"


ANY_TOOL = "*"
"""Some tool must be called, whichever."""


class Tool(Contract, frozen=True, kw_only=True):
    """A function the model may call; ``parameters`` is its JSON schema, as text."""

    name: str
    description: str = ""
    parameters: str = '{"type": "object", "properties": {}}'


class ToolCall(Contract, frozen=True, kw_only=True):
    """One call a model made; ``arguments`` is a JSON object, as text."""

    id: str
    name: str
    arguments: str


class Message(Contract, frozen=True, kw_only=True):
    """One turn of a conversation, already flattened to text."""

    role: str
    content: str
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


class Sampling(Contract, frozen=True, kw_only=True):
    """How to pick tokens. ``max_tokens`` None means: up to the model's context.

    Before ``min_tokens`` neither an end token nor a stop string ends an answer.
    ``logprobs`` asks for every token's log probability and that of its so many
    likeliest rivals; None asks for nothing.
    """

    max_tokens: Count | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: Count = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[str, float] = {}
    ignore_eos: bool = False
    min_tokens: Count = 0
    logprobs: Count | None = None


class Logprob(Contract, frozen=True, kw_only=True, array_like=True):
    """A token and how likely the model itself held it.

    Log probabilities are those of the raw logits: no temperature, penalty or bias.
    ``raw`` are its bytes where they are no whole characters, else it is empty.
    Fields of an array are told by their place: new ones are added at the end only.
    """

    token: str
    logprob: float
    raw: tuple[Count, ...] = ()


class SampledToken(Logprob, frozen=True, kw_only=True, array_like=True):
    """The token that was chosen, and the likeliest ones it was chosen from."""

    rivals: tuple[Logprob, ...] = ()


class PartialAnswer(Contract, frozen=True, kw_only=True):
    """One answer as far as it is written; ``finish_reason`` is None until its end.

    ``choices`` are its tokens one by one, if the request asked for logprobs.
    """

    text: str = ""
    tokens: Count = 0
    choices: tuple[SampledToken, ...] = ()
    finish_reason: FinishReason | None = None


class ModelInput(Contract, frozen=True, kw_only=True):
    """What a model is asked to do, and the shape its answers must have.

    Exactly one of ``messages`` (chat), ``prompt`` (plain completion) and ``inputs``
    (texts to embed) is given.
    """

    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    inputs: tuple[str, ...] = ()
    json_schema: str | None = None
    """The JSON schema, as text, that the answer must satisfy."""
    tools: tuple[Tool, ...] = ()
    force_tool: str | None = None
    """The tool that must be called, `ANY_TOOL` for any; None: the model decides."""
    one_call: bool = False
    """At most one tool may be called in one answer."""
    n: Count = 1
    """How many answers are wanted; each has a random stream of its own."""


class InferenceTask(
    ModelInput, frozen=True, kw_only=True, tag_field="kind", tag="inference"
):
    """The message a worker consumes: one request, fully decided by the cloud.

    ``reply_to`` is the asker's reply queue, None for work nobody waits for.
    """

    job_id: str
    org: str
    queue: str
    model: str
    work_class: WorkClass
    created_at: datetime
    deadline_at: datetime
    sampling: Sampling
    persona: str | None = None
    fingerprint: str | None = None
    locality: Locality = Locality.LOCAL
    reply_to: str | None = None
    publication: Count = 1
    chunks: bool = True
    """False: the asker wants the whole answer at once, no chunks on the way."""
    crashes: Count = 0
    """How often an engine has died under it."""
    resume: tuple[PartialAnswer, ...] = ()
    """What is written of the answers already; they go on after that."""


LABEL_LENGTH = 200
"""The longest label of a job, in characters."""


class JobRequest(Contract, frozen=True, kw_only=True):
    """What was asked and decided of a job and concerns no worker.

    ``label`` is a name the client gives to jobs that belong together.
    ``route`` holds the reasons of the decision, ``substituted`` the model that was
    asked for when another one answers, ``retry_of`` the job this one repeats.
    """

    label: str | None = None
    metadata: dict[str, str] = {}
    route: dict[str, Any] = {}
    locality: Locality = Locality.LOCAL
    substituted: str | None = None
    retry_of: str | None = None


class Fault(Contract, frozen=True, kw_only=True):
    """Why something failed, in a form every door of the product can show."""

    code: str
    message: str
    param: str | None = None
    retryable: bool = False


class Usage(Contract, frozen=True, kw_only=True):
    """Tokens of one request."""

    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    cached_tokens: Count = 0


class Timing(Contract, frozen=True, kw_only=True):
    """Where one attempt spent its time on the worker."""

    queue_s: Seconds = 0.0
    first_token_s: Seconds = 0.0
    total_s: Seconds = 0.0


class AnswerExtras(Contract, frozen=True, kw_only=True):
    """What an answer holds besides its text.

    ``vectors`` has one embedding for each input: little-endian float32 in base64.
    ``choices`` are the tokens of the first answer, ``others`` the answers after it.
    """

    vectors: tuple[str, ...] = ()
    choices: tuple[SampledToken, ...] = ()
    others: tuple[PartialAnswer, ...] = ()


class AttemptStarted(
    Contract, frozen=True, kw_only=True, tag_field="kind", tag="started"
):
    """A worker took the job: published before its first token.

    ``resumed`` characters of each answer were given before; this attempt goes on
    after them.
    """

    job_id: str
    attempt_id: str
    worker_id: str
    worker: str
    model: str
    at: datetime
    fingerprint: str | None = None
    redelivered: bool = False
    resumed: tuple[Count, ...] = ()


class AttemptGivenBack(
    Contract, frozen=True, kw_only=True, tag_field="kind", tag="given_back"
):
    """A worker gave a started job back in good order: that attempt does not count.

    With ``goes_on`` it lost the connection that held the job's message, and is alive to
    say so: the broker gives the message to somebody, and this attempt may still end it.
    """

    job_id: str
    attempt_id: str
    worker_id: str
    worker: str
    at: datetime
    fingerprint: str | None = None
    goes_on: bool = False


class Chunk(Contract, frozen=True, kw_only=True, tag_field="kind", tag="chunk"):
    """Some text of an answer; ``seq`` counts from 0 within one attempt.

    ``index`` tells the answers of one job apart. ``finish_reason`` marks the last
    chunk of one of several; a single answer ends with its outcome.
    """

    job_id: str
    attempt_id: str
    seq: Count
    text: str
    tokens: Count
    index: Count = 0
    choices: tuple[SampledToken, ...] = ()
    finish_reason: FinishReason | None = None


class JobOutcome(Contract, frozen=True, kw_only=True):
    """What came of a job; empty before its end.

    ``at`` is the end. Retention forgets ``text`` and ``extras``; a job that the cloud
    ended has no ``usage`` and no ``timing``.
    """

    at: datetime | None = None
    text: str | None = None
    extras: AnswerExtras | None = None
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    timing: Timing | None = None
    fault: Fault | None = None

    @property
    def answers(self) -> tuple[PartialAnswer, ...]:
        """Every answer, the first one too."""
        extras = self.extras or AnswerExtras()
        first = PartialAnswer(
            text=self.text or "",
            choices=extras.choices,
            finish_reason=self.finish_reason,
        )
        return (first, *extras.others)


class Outcome(JobOutcome, frozen=True, kw_only=True, tag_field="kind", tag="outcome"):
    """How an attempt ended. The first terminal outcome of a job wins."""

    job_id: str
    attempt_id: str
    worker_id: str
    worker: str
    model: str
    state: JobState
    at: datetime
    fingerprint: str | None = None
    text: str = ""
    usage: Usage = Usage()
    timing: Timing = Timing()


RecordedEvent = AttemptStarted | AttemptGivenBack | Outcome
"""What the cloud hears of a job."""

Event = RecordedEvent | Chunk
"""What travels back: to the asker's reply queue and, chunks apart, to the cloud."""
