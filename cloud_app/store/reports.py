"""The last hour of jobs as bare times and counts: what pages and metrics draw."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, or_, select
from sqlmodel import col

from cloud_app.store.database import Database
from cloud_app.store.jobs import IS_OPEN
from cloud_app.store.records import OrgRecord
from cloud_app.store.statements import record
from cloud_app.store.tables import JobRow
from genie.contracts.inference import JobState

ROWS_MAX = 2_000
"""Lines are drawn from this many of the newest jobs; counts are of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTimes:
    """When one job went through its states, without any of its text."""

    id: str
    state: JobState
    persona: str | None
    model: str
    created_at: datetime
    started_at: datetime | None
    first_token_at: datetime | None
    finished_at: datetime | None
    tokens: int
    worker: str | None = None

    @property
    def first_token_s(self) -> float | None:
        """Seconds from being asked to the first token; None when there is none."""
        if self.first_token_at is None:
            return None
        return max(0.0, (self.first_token_at - self.created_at).total_seconds())


_TIMES = ("usage", *(one for one in JobTimes.__dataclass_fields__ if one != "tokens"))


def since(db: Database, org: OrgRecord, moment: datetime) -> tuple[JobTimes, ...]:
    """Jobs of an org that are open, or were asked or ended since ``moment``."""
    is_recent = or_(
        IS_OPEN,
        col(JobRow.created_at) >= moment,
        col(JobRow.finished_at) >= moment,
    )
    statement = (
        select(*(getattr(JobRow, name) for name in _TIMES))
        .where(col(JobRow.org_id) == org.id)
        .where(is_recent)
        .order_by(col(JobRow.id).desc())
        .limit(ROWS_MAX)
    )
    return tuple(
        record(JobTimes, row, tokens=row.usage.completion_tokens if row.usage else 0)
        for row in _rows(db, statement)
    )


def counts(db: Database, org: OrgRecord, moment: datetime) -> dict[JobState, int]:
    """How many of an org's jobs are open, or ended since ``moment``, by state."""
    statement = (
        select(col(JobRow.state), func.count())
        .where(col(JobRow.org_id) == org.id)
        .where(or_(IS_OPEN, col(JobRow.finished_at) >= moment))
        .group_by(col(JobRow.state))
    )
    return dict.fromkeys(JobState, 0) | dict(_rows(db, statement))


def reasons(
    db: Database, org: OrgRecord, job_ids: Iterable[str]
) -> dict[str, tuple[str, ...]]:
    """Why these jobs went where they went, by job id."""
    statement = (
        select(col(JobRow.id), col(JobRow.route))
        .where(col(JobRow.org_id) == org.id)
        .where(col(JobRow.id).in_(tuple(job_ids)))
    )
    rows = _rows(db, statement)
    return {row.id: tuple(row.route.get("reasons", ())) for row in rows}


def states(db: Database) -> dict[str, int]:
    """How many jobs of all orgs are kept in each state."""
    statement = select(col(JobRow.state), func.count()).group_by(col(JobRow.state))
    counted = dict.fromkeys(JobState, 0) | dict(_rows(db, statement))
    return {state.value: count for state, count in counted.items()}


def _rows(db: Database, statement: Select[*tuple[Any, ...]]) -> Sequence[Any]:
    with db.reading() as session:
        return session.connection().execute(statement).all()
