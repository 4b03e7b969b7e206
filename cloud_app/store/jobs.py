"""Jobs: accepted once, looked up and listed. How they change: `transitions`."""

from collections.abc import Sequence
from typing import Any, Unpack

from sqlalchemy import Row, Select, func, literal_column, or_, select
from sqlmodel import Session, col

from cloud_app.store import legacy, statements
from cloud_app.store.database import Database
from cloud_app.store.records import JobFilter, JobRecord, NewJob, QueuePosition
from cloud_app.store.statements import insert_new, record
from cloud_app.store.tables import JobRow, OrgRow
from genie.contracts.inference import JobState

UNWATCHED = ("async", "batch")
"""Modes of jobs nobody waits for: they may have to be published again."""

PLACE_MOST = 1_000
"""Who waits behind a thousand need not know the number."""

# Literals, so that such an update may be sent for many jobs at once.
IS_OPEN = col(JobRow.state).in_(
    [literal_column("'queued'"), literal_column("'running'")]
)

_COLUMNS = (
    *(one for one in JobRecord.__dataclass_fields__ if one not in ("org", "task")),
    *("text", "extras", *legacy.REQUEST, *legacy.OUTCOME),
)


def insert_alone(db: Database, new: NewJob) -> bool:
    """Add a queued job as the one statement of its transaction.

    False when its org already used the idempotency key.
    """
    return statements.insert_alone(db, JobRow, _values(new))


def insert_all(session: Session, new: Sequence[NewJob]) -> int:
    """Add many queued jobs; how many were not there yet."""
    rows = [_values(one) for one in new]
    return insert_new(session.connection(), JobRow, rows) if rows else 0


def of_new(new: NewJob) -> JobRecord:
    """The record of a job that was just inserted, without asking for it."""
    known = _values(new)
    names = JobRecord.__dataclass_fields__.keys() & known.keys()
    return JobRecord(org=new.org.slug, **{name: known[name] for name in names})


def by_id(session: Session, job_id: str) -> JobRecord | None:
    """A job of any org: for the cloud's own use, never for a request."""
    return _one(session, _jobs().where(col(JobRow.id) == job_id))


def by_ids(session: Session, job_ids: Sequence[str]) -> tuple[JobRecord, ...]:
    """Jobs of any org, without tasks: for the cloud's own use."""
    wanted = _jobs(with_task=False).where(col(JobRow.id).in_(job_ids))
    return _all(session, wanted)


def of_org(session: Session, org: str, job_id: str) -> JobRecord | None:
    """A job of this org."""
    return _one(session, _jobs(org).where(col(JobRow.id) == job_id))


def by_idempotency_key(session: Session, org: str, key: str) -> JobRecord | None:
    """The job this org submitted under an idempotency key."""
    return _one(session, _jobs(org).where(col(JobRow.idempotency_key) == key))


def find(
    session: Session,
    org: str,
    *,
    limit: int = 20,
    after: str | None = None,
    **wanted: Unpack[JobFilter],
) -> tuple[JobRecord, ...]:
    """Jobs of an org, newest first, without tasks; ``after`` is the last id seen."""
    statement = _jobs(org, with_task=False).order_by(col(JobRow.id).desc())
    for name in ("state", "persona", "model", "label"):
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
    return _all(session, statement.limit(limit))


def place(session: Session, job: JobRecord) -> QueuePosition | None:
    """How far a job is, in one query that counts to `PLACE_MOST`."""
    before = (
        select(col(JobRow.id))
        .where(col(JobRow.state) == JobState.QUEUED)
        .where(col(JobRow.queue) == job.queue, col(JobRow.model) == job.model)
        .where(col(JobRow.work_class) == job.work_class, col(JobRow.id) < job.id)
        .limit(PLACE_MOST)
        .subquery()
    )
    ahead = select(func.count()).select_from(before).scalar_subquery()
    statement = select(col(JobRow.state), ahead).where(col(JobRow.id) == job.id)
    found = session.connection().execute(statement).first()
    if found is None:
        return None
    is_queued = found.state is JobState.QUEUED
    return QueuePosition(state=found.state, ahead=found[1] if is_queued else None)


def still_open(session: Session, job_ids: Sequence[str]) -> tuple[str, ...]:
    """Those of these jobs that have not ended."""
    statement = select(col(JobRow.id)).where(col(JobRow.id).in_(job_ids), IS_OPEN)
    return tuple(session.connection().execute(statement).scalars())


def _values(new: NewJob) -> dict[str, Any]:
    task = new.task
    return {
        "id": task.job_id,
        "org_id": new.org.id,
        "key_id": new.key_id,
        "state": JobState.QUEUED,
        "mode": new.mode,
        "persona": task.persona,
        "model": task.model,
        "queue": task.queue,
        "work_class": task.work_class.value,
        "idempotency_key": new.idempotency_key,
        "body_sha256": new.body_sha256,
        "retain_h": new.retain_h,
        "label": new.request.label,
        "created_at": task.created_at,
        "deadline_at": task.deadline_at,
        "publications": task.publication,
        "attempts": 0,
        "dropped": 0,
        "fingerprint": task.fingerprint,
        "request": new.request,
        # only work nobody waits for may have to be published again
        "task": task if new.mode in UNWATCHED else None,
        **legacy.request_columns(new.request),
    }


def _jobs(org: str | None = None, *, with_task: bool = True) -> Select[Any]:
    """Jobs with the slug of their org; of one org only when it is given."""
    statement = _WITH_TASK if with_task else _WITHOUT_TASK
    return statement if org is None else statement.where(col(OrgRow.slug) == org)


def _select(names: Sequence[str]) -> Select[Any]:
    columns = [getattr(JobRow, name).label(name) for name in names]
    is_owner = col(JobRow.org_id) == col(OrgRow.id)
    return select(*columns, col(OrgRow.slug)).where(is_owner)


_WITHOUT_TASK = _select(_COLUMNS)
_WITH_TASK = _select((*_COLUMNS, "task"))


def _one(session: Session, statement: Select[Any]) -> JobRecord | None:
    found = session.connection().execute(statement).first()
    return None if found is None else _record(found)


def _all(session: Session, statement: Select[Any]) -> tuple[JobRecord, ...]:
    return tuple(map(_record, session.connection().execute(statement)))


def _record(row: Row[Any]) -> JobRecord:
    return record(
        JobRecord,
        row,
        org=row.slug,
        request=legacy.request_of(row),
        task=getattr(row, "task", None),
        outcome=legacy.outcome_of(row),
    )
