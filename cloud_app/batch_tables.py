"""The tables of files and batches. Only `cloud_app.store` and migrations look in."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    String,
    UniqueConstraint,
)
from sqlmodel import Field

from cloud_app.tables import ID_LENGTH, Table, UtcDateTime
from cloud_app.tables import _id as _key
from cloud_app.tables import _json as _column
from cloud_app.tables import _org as _owner
from genie.contracts.batch import BatchState


def _large() -> Any:  # SQLModel types its own Field so
    return Field(default=0, sa_column=Column(BigInteger, nullable=False))


def _at(*, null: bool = True) -> Any:
    return Field(default=None, sa_column=Column(UtcDateTime(), nullable=null))


def _reference(*, null: bool = True) -> Any:
    return Field(default=None, sa_column=Column(String(ID_LENGTH), nullable=null))


class StoredFile(Table, table=True):
    """A file somebody uploaded or a batch wrote; ``path`` is below the files' URL."""

    __tablename__ = "file"
    __table_args__ = (Index(None, "org_id", "id"), Index(None, "expires_at"))

    id: str = _key()
    org_id: str = _owner()
    key_id: str = _reference(null=False)
    purpose: str = Field(sa_column=Column(String(24), nullable=False))
    filename: str
    size_bytes: int = _large()
    sha256: str = Field(sa_column=Column(String(64), nullable=False))
    path: str
    created_at: datetime = _at(null=False)
    expires_at: datetime = _at(null=False)


_STATES = ", ".join(f"'{state.value}'" for state in BatchState)


class Batch(Table, table=True):
    """Many requests in one file, and how far they are.

    ``closing`` is the state it will end in instead of completed. ``read_offset`` and
    ``read_line`` say where the next chunk begins; ``lease`` is the brain driving it.
    """

    __tablename__ = "batch"
    __table_args__ = (
        UniqueConstraint("org_id", "idempotency_key"),
        CheckConstraint(f"state IN ({_STATES})", name="state"),
        Index(None, "org_id", "id"),
        Index(None, "tidied_at", "id"),
    )

    id: str = _key()
    org_id: str = _owner()
    key_id: str = _reference(null=False)
    state: str = Field(sa_column=Column(String(16), nullable=False))
    closing: str | None = Field(default=None, sa_column=Column(String(16)))
    endpoint: str
    window: str
    input_file_id: str = _reference(null=False)
    output_file_id: str | None = _reference()
    error_file_id: str | None = _reference()
    model: str | None = None
    total: int = _large()
    completed: int = _large()
    failed: int = _large()
    prompt_tokens: int = _large()
    completion_tokens: int = _large()
    cached_tokens: int = _large()
    errors: list[dict[str, Any]] | None = _column(null=True)
    labels: dict[str, str] = _column("metadata")
    read_offset: int = _large()
    read_line: int = _large()
    chunks: int = 0
    lease: str | None = _reference()
    lease_until: datetime | None = _at()
    created_at: datetime = _at(null=False)
    expires_at: datetime = _at(null=False)
    in_progress_at: datetime | None = _at()
    finalizing_at: datetime | None = _at()
    completed_at: datetime | None = _at()
    failed_at: datetime | None = _at()
    expired_at: datetime | None = _at()
    cancelling_at: datetime | None = _at()
    cancelled_at: datetime | None = _at()
    tidied_at: datetime | None = _at()
    idempotency_key: str | None = None
    body_sha256: str


class BatchChunk(Table, table=True):
    """Some lines of a batch's input, run and written together.

    ``part`` names the files its answers were written to, None while it is open.
    """

    __tablename__ = "batch_chunk"

    batch_id: str = Field(
        sa_column=Column(String(ID_LENGTH), ForeignKey("batch.id"), primary_key=True)
    )
    number: int = Field(primary_key=True)
    offset: int = _large()
    size_bytes: int = _large()
    first_line: int = _large()
    lines: int
    tries: dict[str, int] = _column()
    refused: dict[str, dict[str, Any]] = _column()
    part: str | None = _reference()
    has_output: bool = False
    has_errors: bool = False
