"""What the store gives out of files and batches: frozen records."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cloud_app.store.records import OrgRecord
from genie.contracts.batch import BatchState
from genie.contracts.inference import Usage


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
class Written:
    """What a chunk came to: its files and its share of the batch's counts."""

    part: str
    has_output: bool
    has_errors: bool
    completed: int
    failed: int
    usage: Usage
