"""How jobs change: each transition is one guarded statement, for one job or many.

Every update compares before it sets: it changes an open job only, so that of many
processes that see the same event only the first one counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from msgspec.structs import replace
from sqlalchemy import (
    Boolean,
    Connection,
    Update,
    bindparam,
    case,
    func,
    inspect,
    null,
    update,
)
from sqlalchemy.sql.elements import ColumnElement
from sqlmodel import Session, col, select

from cloud_app.store import legacy
from cloud_app.store.jobs import IS_OPEN
from cloud_app.store.records import JobRecord
from cloud_app.store.statements import insert_once, record, update_rows
from cloud_app.store.tables import JobAttemptRow, JobRow, OrgRow
from genie.contracts.base import part
from genie.contracts.inference import (
    AttemptGivenBack,
    AttemptStarted,
    Fault,
    FinishReason,
    InferenceTask,
    JobOutcome,
    JobState,
    Outcome,
    RecordedEvent,
)

_MAX_NAME = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenJobState:
    """How far an open job is."""

    attempts: int
    attempt_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCompletion:
    """An outcome, and the attempt the row counts for it; None: as it stands there."""

    outcome: Outcome
    attempts: int = 1
    attempt_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedJob:
    """A job the cloud ended just now, and where it may still run."""

    job_id: str
    model: str
    queue: str
    worker_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One execution: which worker began it, and when."""

    attempt_id: str
    worker: str
    started_at: datetime


E = TypeVar("E", bound=RecordedEvent)


def storable(event: E) -> E:
    """The event without NULs in its names, which no database column takes."""
    names = {
        name: getattr(event, name).replace("\0", "")[:_MAX_NAME]
        for name in ("attempt_id", "worker_id", "worker")
    }
    fingerprint = event.fingerprint and event.fingerprint.replace("\0", "")
    return replace(event, fingerprint=fingerprint, **names)


def confirm(session: Session, job_ids: Sequence[str], now: datetime) -> int:
    """The broker has the messages of these jobs; of how many that is news."""
    which = (col(JobRow.id).in_(job_ids), col(JobRow.confirmed_at).is_(None))
    return update_rows(session, JobRow, *which, confirmed_at=now)


def lock(connection: Connection, job_ids: Sequence[str]) -> dict[str, OpenJobState]:
    """Those of these jobs that are open, which nobody else can change from here on."""
    rows = connection.execute(_LOCK, {"ids": list(job_ids)})
    return {row.id: record(OpenJobState, row) for row in rows}


def start(connection: Connection, event: AttemptStarted, now: datetime) -> int | None:
    """A worker took the job; how many attempts that makes, None when nothing changed.

    The same attempt told twice counts once; a job that ended stays ended.
    """
    found = connection.execute(_START_ONE, _started(event, now))
    return found.scalar_one_or_none()


def start_all(
    connection: Connection, events: Sequence[AttemptStarted], now: datetime
) -> None:
    """`start` of many jobs."""
    if events:
        connection.execute(_START, [_started(event, now) for event in events])


def end(connection: Connection, ends: Sequence[JobCompletion], now: datetime) -> int:
    """Write the outcomes of those jobs that have none yet; how many these are."""
    if not ends:
        return 0
    return connection.execute(_END, [_ended(one, now) for one in ends]).rowcount


def give_back(session: Session, event: AttemptGivenBack) -> bool:
    """A worker gave its attempt back in good order: it does not count, the job waits.

    False when another attempt has begun since, or the job has ended.
    """
    is_lost = (*_is_attempt(event), col(JobAttemptRow.lost_at).is_not(None))
    found = session.exec(select(JobAttemptRow).where(*is_lost)).first()
    counted = 0 if found else 1  # one that was lost is subtracted by `lost_attempts`
    is_it = (JobRow.id == event.job_id, JobRow.attempt_id == event.attempt_id)
    values = {
        **_UNSTARTED,
        "state": JobState.QUEUED,
        "attempts": JobRow.attempts - counted,
    }
    return update_rows(session, JobRow, *is_it, IS_OPEN, **values) == 1


def close(
    session: Session,
    job_ids: Sequence[str],
    state: JobState,
    now: datetime,
    *,
    fault: Fault | None = None,
    org: str | None = None,
    keeps_task: bool = True,
) -> tuple[ClosedJob, ...]:
    """End those of these jobs that have not ended, from the cloud's side.

    ``org`` is the slug of the org that asks, None for the cloud itself. Without
    ``keeps_task`` they cannot be retried.
    """
    which: list[ColumnElement[bool]] = [col(JobRow.id).in_(job_ids)]
    if org is not None:
        owner = select(col(OrgRow.id)).where(col(OrgRow.slug) == org)
        which.append(col(JobRow.org_id) == owner.scalar_subquery())
    return _close(session, which, state, now, fault, keeps_task=keeps_task)


def time_out(
    session: Session, *, before: datetime, now: datetime, fault: Fault, limit: int
) -> tuple[ClosedJob, ...]:
    """End jobs whose deadline passed before ``before``, oldest deadline first."""
    due = (
        select(col(JobRow.id))
        .where(IS_OPEN, col(JobRow.deadline_at) < before)
        .order_by(col(JobRow.deadline_at))
        .limit(limit)
    )
    which = [col(JobRow.id).in_(due.scalar_subquery())]
    return _close(session, which, JobState.TIMEOUT, now, fault)


def reopen(session: Session, job: JobRecord, task: InferenceTask) -> bool:
    """Queue a failed job once more, its message kept for the relay; False when it
    changed since ``job`` was read. Its attempts are counted anew."""
    has_failed = (JobRow.id == job.id, JobRow.state == JobState.FAILED)
    emptied = ("text", "extras", "finished_at", "purged_at", *_PUBLISHED)
    values = {
        **_UNSTARTED,
        **_outcome(None),
        **dict.fromkeys(emptied),
        "state": JobState.QUEUED,
        "task": task,
        "publications": task.publication,
        "deadline_at": task.deadline_at,
        "attempts": 0,
    }
    is_same = JobRow.finished_at == job.finished_at
    if not update_rows(session, JobRow, *has_failed, is_same, **values):
        return False
    update_rows(session, JobAttemptRow, JobAttemptRow.job_id == job.id, lost_at=None)
    return True


def recover(session: Session, *, now: datetime, fault: Fault) -> int:
    """Queue open jobs that can be published again; end the others with ``fault``."""
    lost = _close(session, [col(JobRow.task).is_(None)], JobState.FAILED, now, fault)
    values = {"state": JobState.QUEUED, **dict.fromkeys(_PUBLISHED)}
    is_kept = col(JobRow.task).is_not(None)
    return len(lost) + update_rows(session, JobRow, is_kept, IS_OPEN, **values)


def drop(session: Session, job_id: str) -> bool:
    """Count an outcome that came after the first; False when there is no such job."""
    values = {"dropped": JobRow.dropped + 1}
    return update_rows(session, JobRow, JobRow.id == job_id, **values) == 1


def note_attempt(session: Session, event: AttemptStarted, now: datetime) -> None:
    """Keep the attempt that ``event`` follows on, which the job's row forgets, and it.

    Call it before the row takes the event in.
    """
    _copy_attempt(session, event.job_id, col(JobRow.attempt_id) != event.attempt_id)
    insert_once(
        session,
        JobAttemptRow,
        job_id=event.job_id,
        attempt_id=event.attempt_id,
        worker_id=event.worker_id,
        worker=event.worker,
        started_at=now,
    )


def lose_attempt(session: Session, event: AttemptGivenBack, now: datetime) -> bool:
    """Its worker lost the job's message and lives; False when that is known, or when
    nothing is known of that attempt."""
    _copy_attempt(session, event.job_id, col(JobRow.attempt_id) == event.attempt_id)
    which = (*_is_attempt(event), col(JobAttemptRow.lost_at).is_(None))
    return update_rows(session, JobAttemptRow, *which, lost_at=now) == 1


def lost_attempts(session: Session, job_id: str) -> int:
    """How many attempts of a job ended, if they did, with their worker alive."""
    is_lost = col(JobAttemptRow.lost_at).is_not(None)
    statement = select(func.count()).where(JobAttemptRow.job_id == job_id, is_lost)
    return session.exec(statement).one()


def attempts_of(session: Session, job_id: str) -> tuple[AttemptRecord, ...]:
    """The noted attempts of a job, oldest first."""
    rows = session.exec(
        select(JobAttemptRow)
        .where(JobAttemptRow.job_id == job_id)
        .order_by(col(JobAttemptRow.started_at), col(JobAttemptRow.attempt_id))
    )
    return tuple(record(AttemptRecord, row) for row in rows)


_UNSTARTED = {"attempt_id": None, "worker_id": None, "worker": None}
_PUBLISHED = ("confirmed_at", "relayed_at")

_LOCK = (
    select(col(JobRow.id), col(JobRow.attempts), col(JobRow.attempt_id))
    .where(col(JobRow.id).in_(bindparam("ids", expanding=True)), IS_OPEN)
    .order_by(col(JobRow.id))  # two brains lock in the same order
    .with_for_update()
)


def _open(*which: ColumnElement[bool]) -> Update:
    """An update of jobs that have not ended: the compare of every compare-and-set."""
    return update(JobRow).where(*which, IS_OPEN)


def _unless_set(name: str, given: str) -> ColumnElement[Any]:
    """A column as it stands; where it is empty, what is ``given``."""
    column = inspect(JobRow).columns[name]
    return func.coalesce(column, bindparam(given, type_=column.type))


# Both take the columns whose names are not bound here from what they are executed with.
_START = (
    _open(col(JobRow.id) == bindparam("of"))
    .where(col(JobRow.attempt_id).is_distinct_from(bindparam("attempt")))
    .values(
        state=JobState.RUNNING,
        attempts=JobRow.attempts + 1,
        attempt_id=bindparam("attempt"),
        started_at=_unless_set("started_at", "now"),
        confirmed_at=_unless_set("confirmed_at", "now"),
        fingerprint=func.coalesce(bindparam("print"), JobRow.fingerprint),
    )
)
_START_ONE = _START.returning(col(JobRow.attempts))

_END = _open(col(JobRow.id) == bindparam("of")).values(
    task=case(
        (bindparam("is_done", type_=Boolean()), null()),
        (col(JobRow.retain_h) == 0, null()),
        else_=col(JobRow.task),
    ),
    started_at=_unless_set("started_at", "began"),
    confirmed_at=_unless_set("confirmed_at", "now"),
    attempts=case(
        (col(JobRow.attempts) < bindparam("tries"), bindparam("tries")),
        else_=col(JobRow.attempts),
    ),
    attempt_id=func.coalesce(bindparam("attempt"), JobRow.attempt_id),
    fingerprint=func.coalesce(bindparam("print"), JobRow.fingerprint),
)


def _started(event: AttemptStarted, now: datetime) -> dict[str, Any]:
    return {
        "of": event.job_id,
        "attempt": event.attempt_id,
        "print": event.fingerprint,
        "now": now,
        "worker_id": event.worker_id,
        "worker": event.worker,
    }


def _ended(end: JobCompletion, now: datetime) -> dict[str, Any]:
    outcome, timing = end.outcome, end.outcome.timing
    began = now - timedelta(seconds=timing.total_s)
    has_text = outcome.usage.completion_tokens > 0
    first_token_at = began + timedelta(seconds=timing.first_token_s)
    return {
        "of": outcome.job_id,
        "is_done": outcome.state is JobState.COMPLETED,
        "now": now,
        "began": began,
        "tries": end.attempts,
        "attempt": end.attempt_id,
        "print": outcome.fingerprint,
        "state": outcome.state,
        "finished_at": now,
        "first_token_at": first_token_at if has_text else None,
        "worker_id": outcome.worker_id,
        "worker": outcome.worker,
        "text": outcome.text,
        "extras": outcome.extras,
        **_outcome(replace(part(JobOutcome, outcome), at=now)),
    }


def _outcome(outcome: JobOutcome | None) -> dict[str, Any]:
    """The columns of an outcome but its texts, which retention forgets."""
    if outcome is None:
        return {"outcome": None, **legacy.outcome_columns(JobOutcome())}
    kept = replace(outcome, text=None, extras=None)
    return {"outcome": kept, **legacy.outcome_columns(outcome)}


def _close(
    session: Session,
    which: Sequence[ColumnElement[bool]],
    state: JobState,
    now: datetime,
    fault: Fault | None,
    *,
    keeps_task: bool = True,
) -> tuple[ClosedJob, ...]:
    is_cancelled = state is JobState.CANCELLED
    reason = FinishReason.CANCELLED if is_cancelled else FinishReason.ERROR
    outcome = JobOutcome(at=now, finish_reason=reason, fault=fault)
    kept = case((col(JobRow.retain_h) == 0, null()), else_=col(JobRow.task))
    values = {"task": kept if keeps_task else None, **_outcome(outcome)}
    statement = (
        _open(*which)
        .values(state=state, finished_at=now, **values)
        .returning(
            col(JobRow.id), col(JobRow.model), col(JobRow.queue), col(JobRow.worker_id)
        )
    )
    rows = session.connection().execute(statement).all()
    return tuple(record(ClosedJob, row, job_id=row.id) for row in rows)


def _is_attempt(event: AttemptGivenBack) -> tuple[ColumnElement[bool], ...]:
    return (
        col(JobAttemptRow.job_id) == event.job_id,
        col(JobAttemptRow.attempt_id) == event.attempt_id,
    )


def _copy_attempt(session: Session, job_id: str, wanted: ColumnElement[bool]) -> None:
    """Keep the attempt that stands in a job's row, if it is a ``wanted`` one."""
    kept = ("attempt_id", "worker_id", "worker", "started_at")
    in_row = (
        select(*(col(getattr(JobRow, name)) for name in kept))
        .where(col(JobRow.id) == job_id, wanted)
        .where(col(JobRow.attempt_id).is_not(None))
        .where(col(JobRow.started_at).is_not(None))
    )
    if (found := session.connection().execute(in_row).mappings().first()) is not None:
        insert_once(session, JobAttemptRow, job_id=job_id, **found)
