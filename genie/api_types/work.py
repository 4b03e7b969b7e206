"""Schedules, webhooks, files and batches; moments are seconds since 1970."""

from typing import Any, Literal

import msgspec

from genie.api_types.base import (
    ApiObject,
    CursorPage,
    FaultSummary,
    ListAnswer,
    PageAnswer,
)
from genie.contracts.batch import BatchState


class RunAnswer(ApiObject, frozen=True, tag_field="object", tag="schedule.run"):
    """One run of a schedule: when it was due, what was decided, and its job."""

    id: str
    status: str
    fire_at: float | None = None
    trigger: str = ""
    reason: str | None = None
    job_id: str | None = None
    decided_at: float | None = None


class RunList(PageAnswer[RunAnswer], frozen=True):
    """Runs, newest first."""


class Webhook(ApiObject, frozen=True):
    """Who is told when a job ends; its secret is never shown."""

    url: str


class ScheduleSummary(ApiObject, frozen=True, tag_field="object", tag="schedule"):
    """A request made again and again."""

    id: str
    name: str
    cron: str
    timezone: str = "UTC"
    in_words: str = ""
    next_runs: tuple[str, ...] = ()
    next_at: float | None = None
    paused: bool = False
    paused_at: float | None = None
    trouble: str | None = None
    request: dict[str, Any] = {}
    webhook: Webhook | None = None
    overlap: str = ""
    catch_up: str = ""
    jitter_s: float = 0.0
    created_at: float | None = None


class ScheduleAnswer(ScheduleSummary, frozen=True, tag="schedule"):
    """A schedule, and what became of its last runs."""

    runs: tuple[RunAnswer, ...] = ()


class ScheduleList(PageAnswer[ScheduleSummary], frozen=True):
    """Schedules, by name."""


class DeletedSchedule(ApiObject, frozen=True, tag_field="object", tag="schedule"):
    """A schedule that is no more."""

    id: str
    deleted: bool = True


class DeliveryAnswer(
    ApiObject, frozen=True, tag_field="object", tag="webhook.delivery"
):
    """What a webhook was told, and how often it was tried."""

    id: str
    status: str
    event: str | None = None
    job_id: str | None = None
    url: str = ""
    attempts: int = 0
    next_at: float | None = None
    response_status: int | None = None
    error: str | None = None
    created_at: float | None = None
    ended_at: float | None = None


class DeliveryList(PageAnswer[DeliveryAnswer], frozen=True):
    """Deliveries of the last week, newest first."""


class RetentionAnswer(ApiObject, frozen=True, tag_field="object", tag="retention"):
    """Hours texts are kept: what the org asked for, and what it comes to."""

    hours: int | None = None
    kept_h: float = 0.0


class FileAnswer(ApiObject, frozen=True, tag_field="object", tag="file"):
    """A file of this org."""

    id: str
    bytes: int = 0
    created_at: int = 0
    expires_at: int = 0
    filename: str = ""
    purpose: str = ""
    status: Literal["processed"] = "processed"
    sha256: str = ""


class FileList(CursorPage[FileAnswer], frozen=True):
    """Files, newest first."""


class DeletedFile(ApiObject, frozen=True, tag_field="object", tag="file"):
    """A file that is no more."""

    id: str
    deleted: bool = True


class BatchInputError(ApiObject, frozen=True):
    """A mistake in a batch's input; ``line`` counts from 1, null: the whole file."""

    code: str | None = None
    message: str = ""
    param: str | None = None
    line: int | None = None


class BatchInputErrors(ListAnswer[BatchInputError], frozen=True):
    """Why a batch never ran; at most 100 mistakes."""


class RequestCounts(ApiObject, frozen=True):
    """How many requests a batch has, and how they ended."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class InputTokenDetails(ApiObject, frozen=True):
    """How much of the prompts was already in the cache."""

    cached_tokens: int = 0


class OutputTokenDetails(ApiObject, frozen=True):
    """Tokens of thoughts; not counted apart here."""

    reasoning_tokens: int = 0


class BatchUsage(ApiObject, frozen=True):
    """Tokens of all answered lines."""

    input_tokens: int = 0
    input_tokens_details: InputTokenDetails = InputTokenDetails()
    output_tokens: int = 0
    output_tokens_details: OutputTokenDetails = OutputTokenDetails()
    total_tokens: int = 0


class BatchAnswer(ApiObject, frozen=True, tag_field="object", tag="batch"):
    """Many requests of one file: how far they are, and the files of their answers."""

    id: str
    status: BatchState
    endpoint: str = "/v1/chat/completions"
    model: str | None = None
    errors: BatchInputErrors | None = None
    input_file_id: str = ""
    completion_window: str = ""
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int = 0
    in_progress_at: int | None = None
    expires_at: int = 0
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts = RequestCounts()
    usage: BatchUsage = BatchUsage()
    metadata: dict[str, str] = {}


class BatchLineResponse(ApiObject, frozen=True):
    """What one request of a batch would have been answered on its own."""

    status_code: int
    body: msgspec.Raw
    request_id: str | None = None


class BatchResultLine(ApiObject, frozen=True):
    """One line of a batch's result files: a response, or why there is none."""

    custom_id: str
    id: str = ""
    response: BatchLineResponse | None = None
    error: FaultSummary | None = None


class BatchList(CursorPage[BatchAnswer], frozen=True):
    """Batches, newest first."""
