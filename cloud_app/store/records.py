"""What the store gives out: frozen records. Rows never leave it."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, TypedDict

from cloud_app.brain.views import PlacementView
from genie.contracts.batch import BatchState
from genie.contracts.fleet import EngineFacts, Heartbeat
from genie.contracts.inference import (
    InferenceTask,
    JobOutcome,
    JobRequest,
    JobState,
    Usage,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrgRecord:
    """Who pays for machines and asks for answers."""

    id: str
    slug: str
    name: str
    retain_h: int | None = None
    """Hours that texts are kept after a job's end; None: the cloud's own setting."""


AnyOrg = OrgRecord | str
"""An org or its slug."""


def slug_of(org: AnyOrg) -> str:
    """The slug of an org.

    >>> slug_of("acme")
    'acme'
    """
    return org if isinstance(org, str) else org.slug


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """One API key, without its secret. ``allowed_models`` None means all."""

    id: str
    org: OrgRecord
    name: str
    prefix: str
    is_admin: bool
    allowed_models: tuple[str, ...] | None
    created_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinTokenRecord:
    """One join token, without its secret."""

    id: str
    org: OrgRecord
    queues: tuple[str, ...]
    expires_at: datetime
    used_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecord:
    """One GPU host; ``status`` is its last heartbeat, ``seq`` that heartbeat's number.

    ``seq`` is -1 until the first heartbeat after a registration. ``noted`` is the last
    liveness that was written to the log.
    """

    id: str
    name: str
    org: OrgRecord
    queues: tuple[str, ...]
    hostname: str
    boot_id: str
    version: str
    engines: tuple[str, ...]
    engine_facts: tuple[EngineFacts, ...]
    labels: dict[str, str]
    registered_at: datetime
    seen_at: datetime | None
    seq: int
    status: Heartbeat | None
    noted: str
    quarantined_at: datetime | None
    removed_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementRecord(PlacementView):
    """One model a worker should hold, and which worker."""

    worker_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookConfig:
    """Where to tell that a job has ended; the secret signs, and is never shown."""

    url: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job about to be accepted: the worker's task and what concerns no worker.

    ``mode`` is sync, stream, async or batch. ``body_sha256`` is the hex digest of the
    request body an idempotency key was used with.
    """

    task: InferenceTask
    request: JobRequest
    org: OrgRecord
    key_id: str
    mode: str
    idempotency_key: str | None = None
    body_sha256: str | None = None
    webhook: WebhookConfig | None = None
    retain_h: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """What someone submitted, and how far it is.

    ``task`` is kept while a job may have to be published again, and after an end that
    may be retried; ``outcome`` is empty before the end. The retention time ends the
    task and the outcome's texts: ``retain_h`` hours, None for the cloud's own.
    ``dropped`` counts outcomes that came after the first one.
    """

    id: str
    org: str
    key_id: str
    state: JobState
    mode: str
    persona: str | None
    model: str
    queue: str
    work_class: str
    idempotency_key: str | None = None
    body_sha256: str | None = None
    retain_h: int | None = None
    created_at: datetime
    deadline_at: datetime
    confirmed_at: datetime | None = None
    started_at: datetime | None = None
    first_token_at: datetime | None = None
    finished_at: datetime | None = None
    attempt_id: str | None = None
    attempts: int = 0
    dropped: int = 0
    worker_id: str | None = None
    worker: str | None = None
    fingerprint: str | None = None
    request: JobRequest = field(default_factory=JobRequest)
    task: InferenceTask | None = None
    outcome: JobOutcome = field(default_factory=JobOutcome)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePosition:
    """A job's state; ``ahead`` is how many wait before it while it waits itself."""

    state: JobState
    ahead: int | None


class JobFilter(TypedDict, total=False):
    """Which jobs are wanted; ``worker`` is a name or an id. None or absent: any."""

    state: JobState | None
    persona: str | None
    model: str | None
    label: str | None
    worker: str | None
    since: datetime | None
    ids: tuple[str, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """Work of one queue and model that is not done yet, counted in the database."""

    queue: str
    model: str
    queued: int
    running: int
    arrived: int
    oldest_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One change somebody made, without secrets."""

    id: str
    at: datetime
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """A stored file; ``path`` is where it lies below the files' URL."""

    id: str
    org_id: str
    key_id: str
    purpose: str
    filename: str
    size_bytes: int
    sha256: str
    path: str
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBatch:
    """A batch about to be accepted."""

    id: str
    org: OrgRecord
    key_id: str
    endpoint: str
    window: str
    input_file_id: str
    metadata: dict[str, str]
    created_at: datetime
    expires_at: datetime
    idempotency_key: str | None
    body_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRecord:
    """A batch and how far it is; ``errors`` are the mistakes in its input."""

    id: str
    org_id: str
    key_id: str
    state: BatchState
    closing: BatchState | None
    endpoint: str
    window: str
    input_file_id: str
    output_file_id: str | None
    error_file_id: str | None
    model: str | None
    total: int
    completed: int
    failed: int
    usage: Usage
    errors: tuple[dict[str, Any], ...]
    metadata: dict[str, str]
    read_offset: int
    read_line: int
    chunks: int
    created_at: datetime
    expires_at: datetime
    in_progress_at: datetime | None
    finalizing_at: datetime | None
    completed_at: datetime | None
    failed_at: datetime | None
    expired_at: datetime | None
    cancelling_at: datetime | None
    cancelled_at: datetime | None
    body_sha256: str

    @property
    def takes_more(self) -> bool:
        """True while further lines of the input may be run."""
        return self.state is BatchState.IN_PROGRESS and self.closing is None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkRecord:
    """Some lines of a batch.

    ``tries`` counts, by line number, the runs of lines that needed more than one;
    ``refused`` holds the faults of lines that were never run.
    """

    batch_id: str
    number: int
    offset: int
    size_bytes: int
    first_line: int
    lines: int
    tries: dict[str, int]
    refused: dict[str, dict[str, Any]]
    part: str | None
    has_output: bool
    has_errors: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkResult:
    """What a chunk came to: its files and its share of the batch's counts."""

    part: str
    has_output: bool
    has_errors: bool
    completed: int
    failed: int
    usage: Usage


class RunTrigger(StrEnum):
    """Why a run came about."""

    CRON = "cron"
    MANUAL = "manual"


class RunState(StrEnum):
    """What became of one run of a schedule."""

    STARTED = "started"
    QUEUED = "queued"
    SKIPPED = "skipped"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRecord:
    """A request that is made again and again.

    ``next_at`` is the first run nobody has decided, ``due_at`` the same with its
    jitter; None: it never runs again. ``trouble`` says why it could not run lately.
    """

    id: str
    org: OrgRecord
    key_id: str
    name: str
    cron: str
    timezone: str
    request: dict[str, Any]
    webhook: WebhookConfig | None
    overlap: str
    catch_up: str
    jitter_s: float
    created_at: datetime
    next_at: datetime | None
    due_at: datetime | None
    paused_at: datetime | None = None
    trouble: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run: when it was due, what was decided, and the job it made."""

    id: str
    schedule_id: str
    fire_at: datetime
    trigger: RunTrigger
    state: RunState
    reason: str | None = None
    job_id: str | None = None
    decided_at: datetime


class DeliveryState(StrEnum):
    """How far a webhook's delivery is; ``waiting`` is for the end of its job."""

    WAITING = "waiting"
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRecord:
    """One event for one receiver. ``status`` is the last HTTP status it answered.

    ``body`` is what is sent when it is not about a job.
    """

    id: str
    org: str
    job_id: str | None
    event: str | None
    url: str
    secret: str = field(repr=False)
    body: str | None = field(repr=False)
    state: DeliveryState
    attempts: int
    next_at: datetime | None
    created_at: datetime
    ended_at: datetime | None
    status: int | None
    error: str | None
