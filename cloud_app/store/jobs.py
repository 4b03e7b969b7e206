"""Jobs: accepted once, started, ended once. Every change is a guarded UPDATE."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Unpack

from sqlalchemy import Update, case, func, null, or_, update
from sqlalchemy.orm import defer
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import Select

from cloud_app.store import fast_insert, tables
from cloud_app.store.database import Database
from cloud_app.store.records import JobFilter, JobRecord, NewJob
from cloud_app.store.statements import (
    changed,
    insert_new,
    insert_once,
)
from genie.contracts.inference import (
    AttemptGivenBack,
    AttemptStarted,
    Fault,
    FinishReason,
    InferenceTask,
    JobState,
    Outcome,
)

JobRow = tables.JobRow
JobsAndSlugs = Select[tables.JobRow, str]
UNWATCHED = ("async", "batch")
"""Modes of jobs nobody waits for: they may have to be published again."""

PLACE_MOST = 1_000
"""Who waits behind a thousand need not know the number."""

OPEN = (JobState.QUEUED.value, JobState.RUNNING.value)

_WITHOUT_PAYLOAD = defer(col(JobRow.payload))  # type: ignore[arg-type]  # a column all the same


def insert(session: Session, new: NewJob) -> bool:
    """Add a queued job; False when its org already used the idempotency key."""
    return insert_once(session, JobRow, **_values(new))


def insert_alone(db: Database, new: NewJob) -> bool:
    """`insert` as the one statement of its transaction."""
    return fast_insert.insert(db, JobRow, _values(new))


def insert_all(session: Session, new: Sequence[NewJob]) -> int:
    """Add many queued jobs in one statement; how many were not there yet."""
    return insert_new(session, JobRow, [_values(one) for one in new]) if new else 0


def by_id(session: Session, job_id: str) -> JobRecord | None:
    """A job of any org: for the cloud's own use, never for a request."""
    found = session.exec(_jobs().where(JobRow.id == job_id)).first()
    return found and _record(*found)


def by_ids(session: Session, job_ids: Sequence[str]) -> tuple[JobRecord, ...]:
    """Jobs of any org, without payloads: for the cloud's own use."""
    statement = _jobs().where(col(JobRow.id).in_(job_ids)).options(_WITHOUT_PAYLOAD)
    found = session.exec(statement)
    return tuple(_record(row, slug, with_payload=False) for row, slug in found)


def of_org(session: Session, org: str, job_id: str) -> JobRecord | None:
    """A job of this org."""
    found = session.exec(_jobs(org).where(JobRow.id == job_id)).first()
    return found and _record(*found)


def by_idempotency_key(session: Session, org: str, key: str) -> JobRecord | None:
    """The job this org submitted under an idempotency key."""
    found = session.exec(_jobs(org).where(JobRow.idempotency_key == key)).first()
    return found and _record(*found)


def find(
    session: Session,
    org: str,
    *,
    limit: int = 20,
    after: str | None = None,
    **wanted: Unpack[JobFilter],
) -> tuple[JobRecord, ...]:
    """Jobs of an org, newest first, without payloads; ``after`` is the last id seen."""
    statement = _jobs(org).options(_WITHOUT_PAYLOAD).order_by(col(JobRow.id).desc())
    for name in ("state", "persona", "model"):
        if value := wanted.get(name):
            statement = statement.where(getattr(JobRow, name) == value)
    if worker := wanted.get("worker"):
        is_there = or_(col(JobRow.worker) == worker, col(JobRow.worker_id) == worker)
        statement = statement.where(is_there)
    if since := wanted.get("since"):
        statement = statement.where(col(JobRow.created_at) >= since)
    if (listed := wanted.get("ids")) is not None:
        statement = statement.where(col(JobRow.id).in_(listed))
    if after is not None:
        statement = statement.where(col(JobRow.id) < after)
    found = session.exec(statement.limit(limit))
    return tuple(_record(row, slug, with_payload=False) for row, slug in found)


def confirm(session: Session, job_id: str, now: datetime) -> bool:
    """The broker has the job's message."""
    statement = (
        update(JobRow)
        .where(col(JobRow.id) == job_id)
        .where(col(JobRow.confirmed_at).is_(None))
        .values(confirmed_at=now)
    )
    return changed(session, statement) == 1


def start(session: Session, event: AttemptStarted, now: datetime) -> int | None:
    """A worker took the job; how many attempts that makes, None when nothing changed.

    The same attempt told twice counts once; a job that ended stays ended.
    """
    statement = (
        _open(event.job_id)
        .where(
            or_(
                col(JobRow.attempt_id).is_(None),
                col(JobRow.attempt_id) != event.attempt_id,
            )
        )
        .values(
            state=JobState.RUNNING.value,
            attempts=JobRow.attempts + 1,
            attempt_id=event.attempt_id,
            started_at=func.coalesce(JobRow.started_at, now),
            confirmed_at=func.coalesce(JobRow.confirmed_at, now),
            worker_id=event.worker_id,
            worker=event.worker,
            fingerprint=func.coalesce(event.fingerprint, JobRow.fingerprint),
        )
        .returning(col(JobRow.attempts))
    )
    return session.connection().execute(statement).scalar_one_or_none()


def give_back(
    session: Session, event: AttemptGivenBack, *, is_lost: bool = False
) -> bool:
    """A worker gave its attempt back in good order: it does not count, the job waits.

    One that ``is_lost`` is subtracted by `attempts.lost` already. False when another
    attempt has begun since, or the job has ended.
    """
    statement = (
        _open(event.job_id)
        .where(col(JobRow.attempt_id) == event.attempt_id)
        .values(
            state=JobState.QUEUED.value,
            attempts=JobRow.attempts - (0 if is_lost else 1),
            attempt_id=None,
            worker_id=None,
            worker=None,
        )
    )
    return changed(session, statement) == 1


def end(session: Session, outcome: Outcome, now: datetime) -> bool:
    """Write the outcome if the job has none yet: the first one wins."""
    timing = outcome.timing
    began = now - timedelta(seconds=timing.total_s)
    has_text = outcome.usage.completion_tokens > 0
    first_token_at = began + timedelta(seconds=timing.first_token_s)
    statement = _open(outcome.job_id).values(
        **_ended(now, keeps_payload=outcome.state is not JobState.COMPLETED),
        state=outcome.state.value,
        started_at=func.coalesce(JobRow.started_at, began),
        confirmed_at=func.coalesce(JobRow.confirmed_at, now),
        first_token_at=first_token_at if has_text else None,
        worker_id=outcome.worker_id,
        worker=outcome.worker,
        attempts=case((col(JobRow.attempts) < 1, 1), else_=col(JobRow.attempts)),
        usage=outcome.usage,
        timing=timing,
        text=outcome.text,
        extras=outcome.extras,
        finish_reason=outcome.finish_reason and outcome.finish_reason.value,
        fault=outcome.fault,
        fingerprint=func.coalesce(outcome.fingerprint, JobRow.fingerprint),
    )
    return changed(session, statement) == 1


def close(
    session: Session,
    job_id: str,
    state: JobState,
    now: datetime,
    *,
    fault: Fault | None = None,
    org: str | None = None,
) -> bool:
    """End a job from the cloud's side, if nothing ended it before.

    ``org`` is the slug of the org that asks, None for the cloud itself.
    """
    is_cancelled = state is JobState.CANCELLED
    reason = FinishReason.CANCELLED if is_cancelled else FinishReason.ERROR
    statement = _open(job_id)
    if org is not None:
        statement = statement.where(col(JobRow.org_id) == _org_id(org))
    statement = statement.values(
        **_ended(now), state=state.value, fault=fault, finish_reason=reason.value
    )
    return changed(session, statement) == 1


def place(session: Session, job: JobRecord) -> tuple[str, int] | None:
    """A job's state and how many wait before it, at most `PLACE_MOST`; one query."""
    before = (
        select(JobRow.id)
        .where(col(JobRow.state) == JobState.QUEUED.value)
        .where(JobRow.queue == job.queue, JobRow.model == job.model)
        .where(JobRow.work_class == job.work_class, col(JobRow.id) < job.id)
        .limit(PLACE_MOST)
        .subquery()
    )
    ahead = select(func.count()).select_from(before).scalar_subquery()
    statement = select(JobRow.state, ahead).where(JobRow.id == job.id)
    found = session.connection().execute(statement).first()
    return None if found is None else (found[0], found[1])


def still_open(session: Session, job_ids: Sequence[str]) -> tuple[str, ...]:
    """Those of these jobs that have not ended."""
    statement = select(JobRow.id).where(col(JobRow.id).in_(job_ids))
    return tuple(session.exec(statement.where(col(JobRow.state).in_(OPEN))))


def reopen(session: Session, job: JobRecord, task: InferenceTask) -> bool:
    """Queue a failed job once more, its message kept for the relay; False when it
    changed since ``job`` was read."""
    statement = (
        update(JobRow)
        .where(col(JobRow.id) == job.id)
        .where(col(JobRow.state) == JobState.FAILED.value)
        .where(col(JobRow.finished_at) == job.finished_at)
        .values(
            state=JobState.QUEUED.value,
            finished_at=None,
            finish_reason=None,
            fault=None,
            purged_at=None,
            payload=task,
            publications=task.publication,
            deadline_at=task.deadline_at,
            confirmed_at=None,
            relayed_at=None,
            attempts=0,
            attempt_id=None,
            worker_id=None,
            worker=None,
        )
    )
    return changed(session, statement) == 1


def drop(session: Session, job_id: str) -> bool:
    """Count an outcome that came after the first; False when there is no such job."""
    statement = (
        update(JobRow)
        .where(col(JobRow.id) == job_id)
        .values(dropped=JobRow.dropped + 1)
    )
    return changed(session, statement) == 1


def _values(new: NewJob) -> dict[str, Any]:
    task = new.task
    return {
        "id": task.job_id,
        "org_id": new.org.id,
        "key_id": new.key_id,
        "state": JobState.QUEUED.value,
        "mode": new.mode,
        "persona": task.persona,
        "model": task.model,
        "queue": task.queue,
        "work_class": task.work_class.value,
        "locality": task.locality.value,
        "substituted": new.substituted,
        "route": new.route,
        # only work nobody waits for may have to be published again
        "payload": task if new.mode in UNWATCHED else None,
        "created_at": task.created_at,
        "deadline_at": task.deadline_at,
        "publications": task.publication,
        "attempts": 0,
        "dropped": 0,
        "fingerprint": task.fingerprint,
        "idempotency_key": new.idempotency_key,
        "body_sha256": new.body_sha256,
        "labels": new.metadata,
        "retain_h": new.retain_h,
        "retry_of": new.retry_of,
    }


def _open(job_id: str) -> Update:
    """An update of a job that has not ended: the compare of every compare-and-set."""
    return (
        update(JobRow)
        .where(col(JobRow.id) == job_id)
        .where(col(JobRow.state).in_(OPEN))
    )


def _ended(now: datetime, *, keeps_payload: bool = True) -> dict[str, Any]:
    return {"finished_at": now, "payload": kept_payload() if keeps_payload else None}


def kept_payload() -> Any:  # a case expression; its type has no public name
    """What stays of the payload of a job that may be retried: all, or by wish nothing.

    For the ``values`` of an update.
    """
    return case((col(JobRow.retain_h) == 0, null()), else_=col(JobRow.payload))


def _org_id(slug: str) -> Any:  # a scalar subquery; its type has no public name
    return select(tables.OrgRow.id).where(tables.OrgRow.slug == slug).scalar_subquery()


def _jobs(org: str | None = None) -> JobsAndSlugs:
    """Jobs with the slug of their org; of one org only when it is given."""
    statement = select(JobRow, tables.OrgRow.slug).where(
        JobRow.org_id == tables.OrgRow.id
    )
    return statement if org is None else statement.where(tables.OrgRow.slug == org)


def _record(row: JobRow, org: str, *, with_payload: bool = True) -> JobRecord:
    return JobRecord(
        id=row.id,
        org=org,
        key_id=row.key_id,
        state=JobState(row.state),
        mode=row.mode,
        persona=row.persona,
        model=row.model,
        queue=row.queue,
        work_class=row.work_class,
        locality=row.locality,
        substituted=row.substituted,
        route=row.route,
        payload=row.payload if with_payload else None,
        created_at=row.created_at,
        deadline_at=row.deadline_at,
        confirmed_at=row.confirmed_at,
        started_at=row.started_at,
        first_token_at=row.first_token_at,
        finished_at=row.finished_at,
        worker_id=row.worker_id,
        worker=row.worker,
        attempts=row.attempts,
        dropped=row.dropped,
        usage=row.usage,
        timing=row.timing,
        text=row.text,
        extras=row.extras,
        finish_reason=row.finish_reason,
        fault=row.fault,
        fingerprint=row.fingerprint,
        idempotency_key=row.idempotency_key,
        body_sha256=row.body_sha256,
        metadata=row.labels,
        retain_h=row.retain_h,
        retry_of=row.retry_of,
        attempt_id=row.attempt_id,
    )
