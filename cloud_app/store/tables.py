"""The tables. Only `cloud_app.store` and the migrations look in here."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Enum,
    Index,
    MetaData,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlmodel import Field, SQLModel

from cloud_app.store.records import DeliveryState, RunState
from genie.contracts import codec
from genie.contracts.base import Contract
from genie.contracts.batch import BatchState
from genie.contracts.fleet import Heartbeat
from genie.contracts.inference import (
    LABEL_LENGTH,
    AnswerExtras,
    Fault,
    InferenceTask,
    JobOutcome,
    JobRequest,
    JobState,
    Timing,
    Usage,
)

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
"""Every constraint has a name from the first migration on, so it can be dropped."""

ID_LENGTH = 26


class UtcDateTime(TypeDecorator[datetime]):
    """An aware moment, stored in UTC; SQLite gives it back naive, we do not."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(
        self, value: datetime | None, dialect: Dialect
    ) -> datetime | None:
        """The moment in UTC; a naive one is a mistake of the caller."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime cannot be stored; use datetime.now(UTC)")
        return value.astimezone(UTC)

    def process_result_value(
        self, value: datetime | None, dialect: Dialect
    ) -> datetime | None:
        """The moment, always aware."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value


class ContractText(TypeDecorator[Contract]):
    """One contract as its JSON text, without defaults; a later release may have added.

    Text, not a JSON type: escapes such as NUL, which user text may hold, survive in
    every database.
    """

    impl = Text
    cache_ok = True

    def __init__(self, contract: type[Contract]) -> None:
        super().__init__()
        self.contract = contract

    def process_bind_param(
        self, value: Contract | None, dialect: Dialect
    ) -> str | None:
        """The contract as JSON."""
        return None if value is None else codec.encode(value).decode()

    def process_result_value(
        self, value: str | None, dialect: Dialect
    ) -> Contract | None:
        """The contract again; raises `CodecError` when it cannot be read as one."""
        return None if value is None else codec.decode(self.contract, value)


class JsonTuple(TypeDecorator[tuple[Any, ...]]):
    """A list of plain JSON values that comes back as a tuple."""

    impl = JSON
    cache_ok = True

    def process_result_value(
        self, value: list[Any] | None, dialect: Dialect
    ) -> tuple[Any, ...] | None:
        """The values in order."""
        return None if value is None else tuple(value)


def _field(kind: Any, **options: Any) -> Any:  # SQLModel types its own Field so
    return Field(default=None, sa_type=kind, **options)


def _moment() -> Any:
    return _field(UtcDateTime)


def _json(kind: type[JSON | JsonTuple] = JSON, **names: str) -> Any:
    return _field(kind(none_as_null=True), sa_column_kwargs=names)


def _contract(contract: type[Contract], **names: str) -> Any:
    return _field(ContractText(contract), sa_column_kwargs=names)


def _enum(values: type[StrEnum], *, is_checked: bool = True) -> Any:
    """A column of one of these values; where it ``is_checked``, by the database too."""
    kind = Enum(
        values,
        values_callable=lambda kind: [one.value for one in kind],
        native_enum=False,
        length=16,
        create_constraint=is_checked,
        name="state",
    )
    return _field(kind)


def _short(length: int, **options: Any) -> Any:
    return Field(default=None, max_length=length, **options)


def _id(**options: Any) -> Any:
    return _short(ID_LENGTH, **options)


def _large() -> Any:
    return Field(default=0, sa_type=BigInteger)


def _where(condition: str) -> dict[str, Any]:
    """Of an index: only the rows that meet ``condition`` are in it."""
    return {f"{name}_where": text(condition) for name in ("postgresql", "sqlite")}


class Table(SQLModel):
    """Base of all tables: one metadata with the naming convention."""

    metadata = MetaData(naming_convention=NAMING)
    model_config = {"arbitrary_types_allowed": True}  # contracts in columns


class OrgRow(Table, table=True):
    """Who pays for machines and asks for answers."""

    __tablename__ = "org"

    id: str = _id(primary_key=True)
    slug: str = _short(40, unique=True)
    name: str
    created_at: datetime = _moment()
    retain_h: int | None = None


class ApiKeyRow(Table, table=True):
    """One API key; only its digest is kept."""

    __tablename__ = "api_key"

    id: str = _id(primary_key=True)
    org_id: str = _id(foreign_key="org.id")
    name: str
    prefix: str = _short(80, unique=True)
    digest: str = _short(64)
    is_admin: bool = False
    allowed_models: tuple[str, ...] | None = _json(JsonTuple)
    created_at: datetime = _moment()
    revoked_at: datetime | None = _moment()


class JoinTokenRow(Table, table=True):
    """A token one worker joins with, once."""

    __tablename__ = "join_token"

    id: str = _id(primary_key=True)
    org_id: str = _id(foreign_key="org.id")
    prefix: str = _short(80, unique=True)
    digest: str = _short(64)
    queues: tuple[str, ...] = _json(JsonTuple)
    created_at: datetime = _moment()
    expires_at: datetime = _moment()
    used_at: datetime | None = _moment()


class WorkerRow(Table, table=True):
    """One GPU host as it registered, and its last heartbeat.

    Its state is derived from ``seen_at``; ``noted`` is only the last state that the
    gatherer wrote to the log.
    """

    __tablename__ = "worker"
    __table_args__ = (Index(None, "org_id", "name"), Index(None, "seen_at"))

    id: str = _id(primary_key=True)
    org_id: str = _id(foreign_key="org.id")
    name: str
    hostname: str
    queues: tuple[str, ...] = _json(JsonTuple)
    secret_digest: str = _short(64)
    boot_id: str
    version: str
    engines: tuple[str, ...] = _json(JsonTuple)
    engine_facts: list[dict[str, Any]] | None = _json()
    labels: dict[str, str] = _json()
    registered_at: datetime = _moment()
    seen_at: datetime | None = _moment()
    seq: int = Field(default=-1, sa_type=BigInteger)
    status: Heartbeat | None = _contract(Heartbeat)
    noted: str = "online"
    quarantined_at: datetime | None = _moment()
    removed_at: datetime | None = _moment()


class PlacementRow(Table, table=True):
    """One model a worker should hold."""

    __tablename__ = "placement"

    worker_id: str = _id(foreign_key="worker.id", primary_key=True)
    model: str = Field(primary_key=True)
    quant: str
    slots: int
    context: int
    reason: str
    since: datetime = _moment()


class ModelFactRow(Table, table=True):
    """What a worker measured of a model it loaded: the digests behind a fingerprint."""

    __tablename__ = "model_fact"

    model: str = Field(primary_key=True)
    quant: str = Field(primary_key=True)
    fingerprint: str = Field(primary_key=True)
    files: list[dict[str, Any]] = _json()
    first_seen_at: datetime = _moment()


class JobRow(Table, table=True):
    """What someone submitted, and how it ended.

    A row is identity, state, times and what an index needs; the rest are documents.
    Retention forgets ``task``, ``text`` and ``extras``, so they are columns of their
    own. What follows ``extras`` belongs to `cloud_app.store.legacy`.
    """

    __tablename__ = "job"
    __table_args__ = (
        UniqueConstraint("org_id", "idempotency_key"),
        Index(None, "org_id", "id"),
        Index(None, "state", "queue", "model"),
        Index(None, "state", "deadline_at"),
        Index(None, "purged_at", "finished_at"),
        Index(None, "retain_h", "finished_at"),
        Index(None, "created_at"),
        Index(None, "org_id", "label", "id", **_where("label IS NOT NULL")),
    )

    id: str = _id(primary_key=True)
    org_id: str = _id(foreign_key="org.id")
    key_id: str = _id()
    state: JobState = _enum(JobState)
    mode: str = _short(8)
    persona: str | None = None
    model: str
    queue: str
    work_class: str
    idempotency_key: str | None = None
    body_sha256: str | None = None
    retain_h: int | None = None
    label: str | None = _short(LABEL_LENGTH)
    created_at: datetime = _moment()
    deadline_at: datetime = _moment()
    confirmed_at: datetime | None = _moment()
    relayed_at: datetime | None = _moment()
    started_at: datetime | None = _moment()
    first_token_at: datetime | None = _moment()
    finished_at: datetime | None = _moment()
    purged_at: datetime | None = _moment()
    delivered_at: datetime | None = _moment()
    publications: int = 1
    attempt_id: str | None = None
    attempts: int = 0
    dropped: int = 0
    worker_id: str | None = None
    worker: str | None = None
    fingerprint: str | None = None
    request: JobRequest | None = _contract(JobRequest)
    task: InferenceTask | None = _contract(InferenceTask, name="payload", key="task")
    outcome: JobOutcome | None = _contract(JobOutcome)
    text: str | None = _json()
    extras: AnswerExtras | None = _contract(AnswerExtras)

    locality: str
    substituted: str | None = None
    route: dict[str, Any] = _json()
    labels: dict[str, str] = _json(name="metadata", key="labels")
    retry_of: str | None = _id()
    usage: Usage | None = _contract(Usage)
    timing: Timing | None = _contract(Timing)
    finish_reason: str | None = None
    fault: Fault | None = _contract(Fault)


class AuditRow(Table, table=True):
    """Who changed what, without secrets."""

    __tablename__ = "audit"
    __table_args__ = (Index(None, "org_id", "id"),)

    id: str = _id(primary_key=True)
    at: datetime = _moment()
    org_id: str = _id(foreign_key="org.id")
    actor: str
    action: str
    subject: str
    detail: dict[str, Any] = _json()


class FileRow(Table, table=True):
    """A file somebody uploaded or a batch wrote; ``path`` is below the files' URL."""

    __tablename__ = "file"
    __table_args__ = (Index(None, "org_id", "id"), Index(None, "expires_at"))

    id: str = _id(primary_key=True)
    org_id: str = _id(foreign_key="org.id")
    key_id: str = _id()
    purpose: str = _short(24)
    filename: str
    size_bytes: int = _large()
    sha256: str = _short(64)
    path: str
    created_at: datetime = _moment()
    expires_at: datetime = _moment()


class BatchRow(Table, table=True):
    """Many requests in one file, and how far they are.

    ``closing`` is the state it will end in instead of completed. ``read_offset`` and
    ``read_line`` say where the next chunk begins; ``lease`` is the brain driving it.
    """

    __tablename__ = "batch"
    __table_args__ = (
        UniqueConstraint("org_id", "idempotency_key"),
        Index(None, "org_id", "id"),
        Index(None, "tidied_at", "id"),
    )

    id: str = _id(primary_key=True)
    org_id: str = _id(foreign_key="org.id")
    key_id: str = _id()
    state: BatchState = _enum(BatchState)
    closing: BatchState | None = _enum(BatchState, is_checked=False)
    endpoint: str
    window: str
    input_file_id: str = _id()
    output_file_id: str | None = _id()
    error_file_id: str | None = _id()
    model: str | None = None
    total: int = _large()
    completed: int = _large()
    failed: int = _large()
    prompt_tokens: int = _large()
    completion_tokens: int = _large()
    cached_tokens: int = _large()
    errors: list[dict[str, Any]] | None = _json()
    labels: dict[str, str] = _json(name="metadata", key="labels")
    read_offset: int = _large()
    read_line: int = _large()
    chunks: int = 0
    lease: str | None = _id()
    lease_until: datetime | None = _moment()
    created_at: datetime = _moment()
    expires_at: datetime = _moment()
    in_progress_at: datetime | None = _moment()
    finalizing_at: datetime | None = _moment()
    completed_at: datetime | None = _moment()
    failed_at: datetime | None = _moment()
    expired_at: datetime | None = _moment()
    cancelling_at: datetime | None = _moment()
    cancelled_at: datetime | None = _moment()
    tidied_at: datetime | None = _moment()
    idempotency_key: str | None = None
    body_sha256: str


class BatchChunkRow(Table, table=True):
    """Some lines of a batch's input, run and written together.

    ``part`` names the files its answers were written to, None while it is open.
    """

    __tablename__ = "batch_chunk"

    batch_id: str = _id(foreign_key="batch.id", primary_key=True)
    number: int = Field(primary_key=True)
    offset: int = _large()
    size_bytes: int = _large()
    first_line: int = _large()
    lines: int
    tries: dict[str, int] = _json()
    refused: dict[str, dict[str, Any]] = _json()
    part: str | None = _id()
    has_output: bool = False
    has_errors: bool = False


class ScheduleRow(Table, table=True):
    """A request that is made again and again.

    ``next_at`` is the first run nobody has decided yet, ``due_at`` the same with its
    jitter; both are None when it never runs again.
    """

    __tablename__ = "schedule"
    __table_args__ = (UniqueConstraint("org_id", "name"), Index(None, "due_at"))

    id: str = _id(primary_key=True)
    org_id: str = _id(foreign_key="org.id")
    key_id: str = _id()
    name: str
    cron: str
    timezone: str
    request: dict[str, Any] = _json()
    webhook: dict[str, str] | None = _json()
    overlap: str
    catch_up: str
    jitter_s: float
    created_at: datetime = _moment()
    next_at: datetime | None = _moment()
    due_at: datetime | None = _moment()
    paused_at: datetime | None = _moment()
    trouble: str | None = _field(Text)


class ScheduleRunRow(Table, table=True):
    """What became of one run: the row is the claim, so each happens once."""

    __tablename__ = "schedule_run"
    __table_args__ = (
        UniqueConstraint("schedule_id", "fire_at"),
        Index(None, "schedule_id", "id"),
    )

    id: str = _id(primary_key=True)
    schedule_id: str = _id(foreign_key="schedule.id")
    fire_at: datetime = _moment()
    trigger: str
    state: RunState = _enum(RunState)
    reason: str | None = _field(Text)
    job_id: str | None = _id()
    decided_at: datetime = _moment()


class WebhookDeliveryRow(Table, table=True):
    """One event for one receiver: waiting for its job, pending, delivered or failed."""

    __tablename__ = "webhook_delivery"
    __table_args__ = (
        Index(None, "state", "next_at"),
        Index(None, "org_id", "id"),
        Index(None, "job_id"),
    )

    id: str = _id(primary_key=True)
    org_id: str = _id(foreign_key="org.id")
    job_id: str | None = _id()
    event: str | None = None
    url: str = _field(Text)
    secret: str = _field(Text)
    body: str | None = _field(Text)
    state: DeliveryState = _enum(DeliveryState)
    attempts: int = 0
    next_at: datetime | None = _moment()
    created_at: datetime = _moment()
    ended_at: datetime | None = _moment()
    status: int | None = None
    error: str | None = _field(Text)


class JobAttemptRow(Table, table=True):
    """One execution of a job that had several; a job's only attempt has no row.

    ``lost_at``: its worker lived and had lost the connection that held the message.
    """

    __tablename__ = "job_attempt"

    job_id: str = _id(primary_key=True)
    attempt_id: str = Field(primary_key=True)
    worker_id: str
    worker: str
    started_at: datetime = _moment()
    lost_at: datetime | None = _moment()
