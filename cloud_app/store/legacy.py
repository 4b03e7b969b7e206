"""Columns of `job` that this release's documents supersede; f74c802 knows only them.

Rows are written with both and read by their documents. A row whose document is not
there, or is older than its end, was written by f74c802 and is read by the columns.
To be removed in two steps: once `tests/upgrade/previous` names this release, the next
one writes no such column any more and gives rows without documents theirs; once it
names that one, the columns are dropped.
"""

from typing import Any

from msgspec.structs import replace
from sqlalchemy import Row

from genie.contracts.inference import FinishReason, JobOutcome, JobRequest, Locality

REQUEST = ("route", "locality", "substituted", "labels", "retry_of")
OUTCOME = ("usage", "timing", "finish_reason", "fault")


def request_columns(request: JobRequest) -> dict[str, Any]:
    """A request as columns, beside its document."""
    return {
        "route": request.route,
        "locality": request.locality,
        "substituted": request.substituted,
        "labels": request.metadata,
        "retry_of": request.retry_of,
    }


def outcome_columns(outcome: JobOutcome) -> dict[str, Any]:
    """An outcome as columns, beside its document."""
    return {name: getattr(outcome, name) for name in OUTCOME}


def request_of(row: Row[Any]) -> JobRequest:
    """What was asked and decided of a job."""
    kept: JobRequest | None = row.request
    if kept is not None:
        return kept
    return JobRequest(
        route=row.route,
        locality=Locality(row.locality),
        substituted=row.substituted,
        metadata=row.labels,
        retry_of=row.retry_of,
    )


def outcome_of(row: Row[Any]) -> JobOutcome:
    """What came of a job."""
    kept: JobOutcome | None = row.outcome
    if kept is None or kept.at != row.finished_at:
        kept = _from_columns(row)
    return replace(kept, text=row.text, extras=row.extras)


def _from_columns(row: Row[Any]) -> JobOutcome:
    reason = row.finish_reason
    return JobOutcome(
        at=row.finished_at,
        finish_reason=FinishReason(reason) if reason else None,
        usage=row.usage,
        timing=row.timing,
        fault=row.fault,
    )
