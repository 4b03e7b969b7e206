"""Jobs: accepted once, looked up and listed. How they change: `transitions`."""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from sqlalchemy import Select, func, or_, select
from sqlmodel import Session, col

from cloud_app.store import legacy, statements
from cloud_app.store.database import Database
from cloud_app.store.records import JobFilter, JobRecord, NewJob
from cloud_app.store.statements import insert_new, insert_once
from cloud_app.store.tables import JobRow, OrgRow
from genie.contracts.inference import JobState

UNWATCHED = ("async", "batch")
"""Modes of jobs nobody waits for: they may have to be published again."""

PLACE_MOST = 1_000
"""Who waits behind a thousand need not know the number."""

OPEN = (JobState.QUEUED.value, JobState.RUNNING.value)

_MADE = ("org", "state", "request", "outcome", "task")
_SAME = tuple(set(JobRecord.__dataclass_fields__) - set(_MADE))
"""Columns a record holds as they are."""

_COLUMNS = (
    *(*_SAME, "state", "request", "outcome", "text", "extras"),
    *(*legacy.REQUEST, *legacy.OUTCOME),
)


def insert(session: Session, new: NewJob) -> bool:
    """Add a queued job; False when its org already used the idempotency key."""
    return insert_once(session, JobRow, **_values(new))


def insert_alone(db: Database, new: NewJob) -> bool:
    """`insert` as the one statement of its transaction."""
    return statements.insert_alone(db, JobRow, _values(new))


def insert_all(session: Session, new: Sequence[NewJob]) -> int:
    """Add many queued jobs in one statement; how many were not there yet."""
    return insert_new(session, JobRow, [_values(one) for one in new]) if new else 0


def of_new(new: NewJob) -> JobRecord:
    """The record of a job that was just inserted, without asking for it."""
    return _record({**_NOTHING, **_values(new)}, new.org.slug)


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


def place(session: Session, job: JobRecord) -> tuple[str, int] | None:
    """A job's state and how many wait before it, at most `PLACE_MOST`; one query."""
    before = (
        select(col(JobRow.id))
        .where(col(JobRow.state) == JobState.QUEUED.value)
        .where(col(JobRow.queue) == job.queue, col(JobRow.model) == job.model)
        .where(col(JobRow.work_class) == job.work_class, col(JobRow.id) < job.id)
        .limit(PLACE_MOST)
        .subquery()
    )
    ahead = select(func.count()).select_from(before).scalar_subquery()
    statement = select(col(JobRow.state), ahead).where(col(JobRow.id) == job.id)
    found = session.connection().execute(statement).first()
    return None if found is None else (found[0], found[1])


def still_open(session: Session, job_ids: Sequence[str]) -> tuple[str, ...]:
    """Those of these jobs that have not ended."""
    is_open = col(JobRow.state).in_(OPEN)
    statement = select(col(JobRow.id)).where(col(JobRow.id).in_(job_ids), is_open)
    return tuple(session.connection().execute(statement).scalars())


_NOTHING: Mapping[str, Any] = dict.fromkeys((*_COLUMNS, "task"))


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
    found = session.connection().execute(statement).mappings().first()
    return None if found is None else _record(found, found["slug"])


def _all(session: Session, statement: Select[Any]) -> tuple[JobRecord, ...]:
    found = session.connection().execute(statement).mappings()
    return tuple(_record(row, row["slug"]) for row in found)


def _record(row: Mapping[Any, Any], org: str) -> JobRecord:
    return JobRecord(
        org=org,
        state=JobState(row["state"]),
        request=legacy.request_of(row),
        task=row.get("task"),
        outcome=legacy.outcome_of(row),
        **{name: row[name] for name in _SAME},
    )
