"""Jobs, schedules, webhooks, files and batches; moments are seconds since 1970."""

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from cloud_app.api.bodies.inference import (
    ChatCompletion,
    Embeddings,
    TextCompletion,
    Usage,
)

JobStatus = Literal["queued", "running", "completed", "failed", "cancelled", "timeout"]


class Fault(TypedDict):
    """Why a job did not complete."""

    code: str
    message: str
    param: str | None
    retryable: bool


class Timing(TypedDict):
    """Where a job spent its time on the worker, in seconds."""

    queue_s: float
    first_token_s: float
    total_s: float


class FaultSummary(TypedDict):
    """Why a job did not complete, in short."""

    code: str
    message: str


class SkippedModel(TypedDict):
    """A model the router did not choose, and why."""

    model: str
    why: str


class Event(TypedDict):
    """One thing that happened to a job, and at what moment; the rest as known.

    ``event`` is accepted, routed, queued, started, first_token or how the job ended.
    """

    event: str
    at: float | None
    mode: NotRequired[str]
    retry_of: NotRequired[str]
    model: NotRequired[str]
    queue: NotRequired[str]
    reasons: NotRequired[list[str]]
    skipped: NotRequired[list[SkippedModel]]
    attempt: NotRequired[int]
    attempts: NotRequired[int]
    worker: NotRequired[str]
    finish_reason: NotRequired[str]
    error: NotRequired[FaultSummary]


class Job(TypedDict):
    """Something submitted, how far it is and, once completed, its result."""

    id: str
    object: Literal["job"]
    status: JobStatus
    mode: str
    persona: str | None
    model: str
    worker: str | None
    locality: str
    model_substituted: str | None
    created_at: float | None
    started_at: float | None
    first_token_at: float | None
    finished_at: float | None
    deadline_at: float | None
    attempts: int
    retry_of: str | None
    retain: int | None
    usage: Usage | None
    timing: Timing | None
    error: Fault | None
    route: dict[str, Any]
    result: ChatCompletion | TextCompletion | Embeddings | None
    metadata: dict[str, str]
    timeline: NotRequired[list[Event]]


class JobList(TypedDict):
    """Jobs, newest first."""

    object: Literal["list"]
    data: list[Job]
    has_more: bool


class Skipped(TypedDict):
    """A job that was not retried, and why."""

    id: str
    why: str


class Retried(TypedDict):
    """The new jobs, and those that were left."""

    object: Literal["list"]
    data: list[Job]
    skipped: list[Skipped]


class Run(TypedDict):
    """One run of a schedule: what was decided, and the job it became."""

    id: str
    object: Literal["schedule.run"]
    fire_at: float | None
    trigger: str
    status: str
    reason: str | None
    job_id: str | None
    decided_at: float | None


class RunList(TypedDict):
    """Runs, newest first."""

    object: Literal["list"]
    data: list[Run]
    has_more: bool


class Hook(TypedDict):
    """Where to tell that work has ended."""

    url: str


class Schedule(TypedDict):
    """A request made again and again."""

    id: str
    object: Literal["schedule"]
    name: str
    cron: str
    timezone: str
    in_words: str
    next_runs: list[str]
    next_at: float | None
    paused: bool
    paused_at: float | None
    trouble: str | None
    request: dict[str, Any]
    webhook: Hook | None
    overlap: str
    catch_up: str
    jitter_s: float
    created_at: float | None
    runs: NotRequired[list[Run]]


class ScheduleList(TypedDict):
    """Schedules, by name."""

    object: Literal["list"]
    data: list[Schedule]
    has_more: bool


class DeletedSchedule(TypedDict):
    """A schedule that is no more."""

    id: str
    object: Literal["schedule"]
    deleted: bool


class Delivery(TypedDict):
    """What a webhook was told, and how often it was tried."""

    id: str
    object: Literal["webhook.delivery"]
    event: str | None
    job_id: str | None
    url: str
    status: str
    attempts: int
    next_at: float | None
    response_status: int | None
    error: str | None
    created_at: float | None
    ended_at: float | None


class DeliveryList(TypedDict):
    """Deliveries of the last week, newest first."""

    object: Literal["list"]
    data: list[Delivery]
    has_more: bool


class Retention(TypedDict):
    """Hours texts are kept: what the org asked for, and what it comes to."""

    object: Literal["retention"]
    hours: int | None
    kept_h: float


class File(TypedDict):
    """A file of this org."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["processed"]
    sha256: str


class FileList(TypedDict):
    """Files, newest first."""

    object: Literal["list"]
    data: list[File]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(TypedDict):
    """A file that is no more."""

    id: str
    object: Literal["file"]
    deleted: bool


class BatchError(TypedDict):
    """A mistake in a batch's input; ``line`` counts from 1, null: the whole file."""

    code: str | None
    message: str
    param: str | None
    line: int | None


class BatchErrors(TypedDict):
    """Why a batch never ran; at most 100 mistakes."""

    object: Literal["list"]
    data: list[BatchError]


class Counts(TypedDict):
    """Lines of a batch."""

    total: int
    completed: int
    failed: int


class InputTokenDetails(TypedDict):
    """How much of the prompts was already in the cache."""

    cached_tokens: int


class OutputTokenDetails(TypedDict):
    """Tokens of thoughts; not counted apart here."""

    reasoning_tokens: int


class BatchUsage(TypedDict):
    """Tokens of all answered lines."""

    input_tokens: int
    input_tokens_details: InputTokenDetails
    output_tokens: int
    output_tokens_details: OutputTokenDetails
    total_tokens: int


class Batch(TypedDict):
    """Many requests of one file: how far they are, and the files of their answers."""

    id: str
    object: Literal["batch"]
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: Literal[
        "validating",
        "failed",
        "in_progress",
        "finalizing",
        "completed",
        "expired",
        "cancelling",
        "cancelled",
    ]
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: Counts
    usage: BatchUsage
    metadata: dict[str, str]


class BatchList(TypedDict):
    """Batches, newest first."""

    object: Literal["list"]
    data: list[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool
