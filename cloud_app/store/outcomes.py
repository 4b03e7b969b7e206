"""Starts and ends of many jobs in two statements: rows locked, then changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from msgspec.structs import replace
from sqlalchemy import Connection, bindparam, case, func, or_, select, update
from sqlmodel import col

from cloud_app.store import tables
from genie.contracts.inference import AttemptStarted, JobState, Outcome, RecordedEvent

JobRow = tables.JobRow
_MAX_NAME = 255
_moment = tables.UtcDateTime()

_IS_OPEN = or_(
    col(JobRow.state) == JobState.QUEUED.value,
    col(JobRow.state) == JobState.RUNNING.value,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenJobState:
    """How far an open job is."""

    attempts: int
    attempt_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCompletion:
    """A completed job: its outcome, which attempt that was, and how many it took."""

    outcome: Outcome
    attempts: int
    attempt_id: str | None


R = TypeVar("R", bound=RecordedEvent)


def storable(event: R) -> R:
    """The event without NULs in its names, which no database column takes."""
    names = {
        name: getattr(event, name).replace("\0", "")[:_MAX_NAME]
        for name in ("attempt_id", "worker_id", "worker")
    }
    fingerprint = event.fingerprint and event.fingerprint.replace("\0", "")
    return replace(event, fingerprint=fingerprint, **names)


def lock(connection: Connection, job_ids: Sequence[str]) -> dict[str, OpenJobState]:
    """Those of these jobs that are open, which nobody else can change from here on."""
    rows = connection.execute(_LOCK, {"ids": list(job_ids)})
    return {
        job_id: OpenJobState(attempts=attempts, attempt_id=attempt_id)
        for job_id, attempts, attempt_id in rows
    }


def start(
    connection: Connection, events: Sequence[AttemptStarted], now: datetime
) -> None:
    """The next attempt of each of these locked jobs."""
    rows = [
        {
            "of": event.job_id,
            "attempt": event.attempt_id,
            "by_id": event.worker_id,
            "by": event.worker,
            "print": event.fingerprint,
            "now": now,
        }
        for event in events
    ]
    if rows:
        connection.execute(_START, rows)


def complete(
    connection: Connection, ends: Sequence[JobCompletion], now: datetime
) -> None:
    """The outcomes of these locked jobs."""
    if ends:
        connection.execute(_COMPLETE, [_end(one, now) for one in ends])


def complete_one(connection: Connection, outcome: Outcome, now: datetime) -> bool:
    """The outcome of one open job, in one statement; False when there is none."""
    end = JobCompletion(outcome=outcome, attempts=0, attempt_id=None)
    return connection.execute(_COMPLETE_ONE, _end(end, now)).rowcount == 1


_LOCK = (
    select(col(JobRow.id), col(JobRow.attempts), col(JobRow.attempt_id))
    .where(col(JobRow.id).in_(bindparam("ids", expanding=True)), _IS_OPEN)
    .order_by(col(JobRow.id))  # two brains lock in the same order
    .with_for_update()
)

_START = (
    update(JobRow)
    .where(col(JobRow.id) == bindparam("of"), _IS_OPEN)
    .values(
        state=JobState.RUNNING.value,
        attempts=JobRow.attempts + 1,
        attempt_id=bindparam("attempt"),
        started_at=func.coalesce(JobRow.started_at, bindparam("now", type_=_moment)),
        confirmed_at=func.coalesce(
            JobRow.confirmed_at, bindparam("now", type_=_moment)
        ),
        worker_id=bindparam("by_id"),
        worker=bindparam("by"),
        fingerprint=func.coalesce(bindparam("print"), JobRow.fingerprint),
    )
)

_ENDS = (
    update(JobRow)
    .where(col(JobRow.id) == bindparam("of"), _IS_OPEN)
    .values(
        state=JobState.COMPLETED.value,
        payload=None,
        finished_at=bindparam("now", type_=_moment),
        started_at=func.coalesce(JobRow.started_at, bindparam("began", type_=_moment)),
        confirmed_at=func.coalesce(
            JobRow.confirmed_at, bindparam("now", type_=_moment)
        ),
        first_token_at=bindparam("first"),
        worker_id=bindparam("by_id"),
        worker=bindparam("by"),
        usage=bindparam("used"),
        timing=bindparam("took"),
        text=bindparam("said"),
        extras=bindparam("beside"),
        finish_reason=bindparam("why"),
        fault=bindparam("broke"),
        fingerprint=func.coalesce(bindparam("print"), JobRow.fingerprint),
    )
)

_COMPLETE = _ENDS.values(attempts=bindparam("tries"), attempt_id=bindparam("attempt"))
_COMPLETE_ONE = _ENDS.values(
    attempts=case((col(JobRow.attempts) < 1, 1), else_=col(JobRow.attempts))
)


def _end(end: JobCompletion, now: datetime) -> dict[str, Any]:
    outcome, timing = end.outcome, end.outcome.timing
    began = now - timedelta(seconds=timing.total_s)
    has_text = outcome.usage.completion_tokens > 0
    first_token_at = began + timedelta(seconds=timing.first_token_s)
    return {
        "of": outcome.job_id,
        "now": now,
        "began": began,
        "first": first_token_at if has_text else None,
        "by_id": outcome.worker_id,
        "by": outcome.worker,
        "tries": end.attempts,
        "attempt": end.attempt_id,
        "used": outcome.usage,
        "took": timing,
        "said": outcome.text,
        "beside": outcome.extras,
        "why": outcome.finish_reason and outcome.finish_reason.value,
        "broke": outcome.fault,
        "print": outcome.fingerprint,
    }
