"""The tables of schedules and webhooks. Only `cloud_app.store` looks in here."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, String, Text
from sqlalchemy import UniqueConstraint as Unique
from sqlmodel import Field

from cloud_app.tables import ID_LENGTH, Table, UtcDateTime
from cloud_app.tables import _id as _key
from cloud_app.tables import _json as _column
from cloud_app.tables import _org as _owner


def _at(*, null: bool = True) -> Any:  # SQLModel types its own Field so
    return Field(default=None, sa_column=Column(UtcDateTime(), nullable=null))


def _reference(*, null: bool = True) -> Any:
    return Field(default=None, sa_column=Column(String(ID_LENGTH), nullable=null))


def _text(*, null: bool = True) -> Any:
    return Field(default=None, sa_column=Column(Text, nullable=null))


class Schedule(Table, table=True):
    """A request that is made again and again.

    ``next_at`` is the first run nobody has decided yet, ``due_at`` the same with its
    jitter; both are None when it never runs again.
    """

    __tablename__ = "schedule"
    __table_args__ = (Unique("org_id", "name"), Index(None, "due_at"))

    id: str = _key()
    org_id: str = _owner()
    key_id: str = _reference(null=False)
    name: str
    cron: str
    timezone: str
    request: dict[str, Any] = _column()
    webhook: dict[str, str] | None = _column(null=True)
    overlap: str
    catch_up: str
    jitter_s: float
    created_at: datetime = _at(null=False)
    next_at: datetime | None = _at()
    due_at: datetime | None = _at()
    paused_at: datetime | None = _at()
    trouble: str | None = _text()


class ScheduleRun(Table, table=True):
    """What became of one run: the row is the claim, so each happens once."""

    __tablename__ = "schedule_run"
    __table_args__ = (
        Unique("schedule_id", "fire_at"),
        Index(None, "schedule_id", "id"),
        CheckConstraint(
            "state IN ('started', 'queued', 'skipped', 'refused')", name="state"
        ),
    )

    id: str = _key()
    schedule_id: str = Field(
        sa_column=Column(String(ID_LENGTH), ForeignKey("schedule.id"), nullable=False)
    )
    fire_at: datetime = _at(null=False)
    trigger: str
    state: str = Field(sa_column=Column(String(16), nullable=False))
    reason: str | None = _text()
    job_id: str | None = _reference()
    decided_at: datetime = _at(null=False)


class WebhookDelivery(Table, table=True):
    """One event for one receiver: waiting for its job, pending, delivered or failed."""

    __tablename__ = "webhook_delivery"
    __table_args__ = (
        Index(None, "state", "next_at"),
        Index(None, "org_id", "id"),
        Index(None, "job_id"),
        CheckConstraint(
            "state IN ('waiting', 'pending', 'delivered', 'failed')", name="state"
        ),
    )

    id: str = _key()
    org_id: str = _owner()
    job_id: str | None = _reference()
    event: str | None = None
    url: str = _text(null=False)
    secret: str = _text(null=False)
    body: str | None = _text()
    state: str = Field(sa_column=Column(String(16), nullable=False))
    attempts: int = 0
    next_at: datetime | None = _at()
    created_at: datetime = _at(null=False)
    ended_at: datetime | None = _at()
    status: int | None = None
    error: str | None = _text()


class JobAttempt(Table, table=True):
    """One execution of a job that had several; a job's only attempt has no row.

    ``lost_at``: its worker lived and had lost the connection that held the message.
    """

    __tablename__ = "job_attempt"

    job_id: str = Field(sa_column=Column(String(ID_LENGTH), primary_key=True))
    attempt_id: str = Field(primary_key=True)
    worker_id: str
    worker: str
    started_at: datetime = _at(null=False)
    lost_at: datetime | None = _at()
