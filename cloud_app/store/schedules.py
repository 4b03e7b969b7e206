"""Schedules and their runs. A run's row is its claim: there is one for each moment."""

from datetime import datetime
from typing import Any

from sqlalchemy import func
from sqlmodel import Session, col, select

from cloud_app.store import tables
from cloud_app.store.jobs import IS_OPEN
from cloud_app.store.records import (
    OrgRecord,
    RunRecord,
    RunState,
    RunTrigger,
    ScheduleRecord,
    WebhookConfig,
)
from cloud_app.store.statements import (
    columns_of,
    delete_rows,
    insert_once,
    record,
    update_rows,
)
from cloud_app.store.tables import ScheduleRow, ScheduleRunRow


def insert(session: Session, schedule: ScheduleRecord) -> bool:
    """Add a schedule; False when its org has one of this name."""
    hook = schedule.webhook
    values = columns_of(ScheduleRow, schedule) | {
        "org_id": schedule.org.id,
        "webhook": hook and {"url": hook.url, "secret": hook.secret},
    }
    return insert_once(session, ScheduleRow, **values)


def of_org(session: Session, org: str, name_or_id: str) -> ScheduleRecord | None:
    """An org's schedule by its name or id."""
    either = (col(ScheduleRow.name) == name_or_id) | (col(ScheduleRow.id) == name_or_id)
    found = session.exec(_all().where(tables.OrgRow.slug == org).where(either)).first()
    return found and _record(*found)


def all_of_org(session: Session, org: str) -> tuple[ScheduleRecord, ...]:
    """Every schedule of an org, by name."""
    statement = _all().where(tables.OrgRow.slug == org).order_by(col(ScheduleRow.name))
    return tuple(_record(*found) for found in session.exec(statement))


def due(session: Session, now: datetime, limit: int) -> tuple[ScheduleRecord, ...]:
    """Schedules of any org with a run that should start by now, the latest first."""
    statement = (
        _all()
        .where(col(ScheduleRow.due_at) <= now)
        .where(col(ScheduleRow.paused_at).is_(None))
        .order_by(col(ScheduleRow.due_at))
        .limit(limit)
    )
    return tuple(_record(*found) for found in session.exec(statement))


def claim(session: Session, schedule: ScheduleRecord) -> bool:
    """Hold the schedule until the transaction ends; False when somebody was faster.

    Only as it was read: with the same next run, and not paused since.
    """
    statement = (
        select(ScheduleRow.id)
        .where(ScheduleRow.id == schedule.id)
        .where(ScheduleRow.next_at == schedule.next_at)
        .where(col(ScheduleRow.paused_at).is_(None))
        .with_for_update(skip_locked=True)  # PostgreSQL's; SQLite has one writer anyway
    )
    return session.exec(statement).first() is not None


def change(session: Session, schedule_id: str, **values: Any) -> bool:
    """Set columns of a schedule; False when it is gone."""
    return (
        update_rows(session, ScheduleRow, ScheduleRow.id == schedule_id, **values) == 1
    )


def remove(session: Session, schedule_id: str) -> None:
    """Delete a schedule and the record of its runs; their jobs stay."""
    delete_rows(session, ScheduleRunRow, ScheduleRunRow.schedule_id == schedule_id)
    delete_rows(session, ScheduleRow, ScheduleRow.id == schedule_id)


def add_run(session: Session, run: RunRecord) -> bool:
    """Record a run; False when this moment of its schedule was decided before."""
    return insert_once(session, ScheduleRunRow, **columns_of(ScheduleRunRow, run))


def runs(session: Session, schedule_id: str, limit: int) -> tuple[RunRecord, ...]:
    """The newest runs of a schedule, newest first."""
    statement = (
        select(ScheduleRunRow)
        .where(ScheduleRunRow.schedule_id == schedule_id)
        .order_by(col(ScheduleRunRow.fire_at).desc())
        .limit(limit)
    )
    return tuple(_run(row) for row in session.exec(statement))


def open_jobs(session: Session, schedule_id: str) -> tuple[str, ...]:
    """Ids of a schedule's jobs that have not ended."""
    statement = (
        select(tables.JobRow.id)
        .where(tables.JobRow.id == ScheduleRunRow.job_id)
        .where(ScheduleRunRow.schedule_id == schedule_id)
        .where(IS_OPEN)
    )
    return tuple(session.exec(statement))


def count_queued(session: Session, schedule_id: str) -> int:
    """How many runs of a schedule wait for the one before."""
    statement = (
        select(func.count())
        .select_from(ScheduleRunRow)
        .where(col(ScheduleRunRow.schedule_id) == schedule_id)
        .where(col(ScheduleRunRow.state) == RunState.QUEUED)
    )
    return session.exec(statement).one()


def waiting(
    session: Session, limit: int
) -> tuple[tuple[ScheduleRecord, RunRecord], ...]:
    """The oldest queued run of each schedule that is not paused."""
    oldest = (
        select(func.min(ScheduleRunRow.fire_at))
        .where(ScheduleRunRow.schedule_id == ScheduleRow.id)
        .where(ScheduleRunRow.state == RunState.QUEUED)
        .correlate(ScheduleRow)
        .scalar_subquery()
    )
    statement = (
        select(ScheduleRow, tables.OrgRow, ScheduleRunRow)
        .where(ScheduleRow.org_id == tables.OrgRow.id)
        .where(ScheduleRunRow.schedule_id == ScheduleRow.id)
        .where(ScheduleRunRow.state == RunState.QUEUED)
        .where(ScheduleRunRow.fire_at == oldest)
        .where(col(ScheduleRow.paused_at).is_(None))
        .limit(limit)
    )
    found = session.exec(statement)
    return tuple((_record(row, org), _run(run)) for row, org, run in found)


def start(session: Session, run_id: str, job_id: str, now: datetime) -> bool:
    """A queued run begins as a job; False when somebody was faster."""
    return _decide(session, run_id, RunState.STARTED, now, job_id=job_id)


def refuse(session: Session, run_id: str, reason: str, now: datetime) -> bool:
    """A queued run cannot begin; False when somebody was faster."""
    return _decide(session, run_id, RunState.REFUSED, now, reason=reason)


def _decide(
    session: Session, run_id: str, state: RunState, now: datetime, **values: str
) -> bool:
    which = (ScheduleRunRow.id == run_id, ScheduleRunRow.state == RunState.QUEUED)
    decided = {"state": state, "decided_at": now, **values}
    return update_rows(session, ScheduleRunRow, *which, **decided) == 1


def _all() -> Any:  # a select of two tables; its type has no public name
    return select(ScheduleRow, tables.OrgRow).where(
        ScheduleRow.org_id == tables.OrgRow.id
    )


def _record(row: ScheduleRow, org: tables.OrgRow) -> ScheduleRecord:
    kept = row.webhook
    hook = WebhookConfig(url=kept["url"], secret=kept["secret"]) if kept else None
    return record(ScheduleRecord, row, org=record(OrgRecord, org), webhook=hook)


def _run(row: ScheduleRunRow) -> RunRecord:
    return record(RunRecord, row, trigger=RunTrigger(row.trigger))
