"""What the store gives out of schedules and webhooks: frozen records."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from cloud_app.store.records import OrgRecord, Webhook


class Trigger(StrEnum):
    """Why a run came about."""

    CRON = "cron"
    MANUAL = "manual"


class RunState(StrEnum):
    """What became of one run of a schedule."""

    STARTED = "started"
    QUEUED = "queued"
    SKIPPED = "skipped"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRecord:
    """A request that is made again and again.

    ``next_at`` is the first run nobody has decided, ``due_at`` the same with its
    jitter; None: it never runs again. ``trouble`` says why it could not run lately.
    """

    id: str
    org: OrgRecord
    key_id: str
    name: str
    cron: str
    timezone: str
    request: dict[str, Any]
    webhook: Webhook | None
    overlap: str
    catch_up: str
    jitter_s: float
    created_at: datetime
    next_at: datetime | None
    due_at: datetime | None
    paused_at: datetime | None = None
    trouble: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run: when it was due, what was decided, and the job it made."""

    id: str
    schedule_id: str
    fire_at: datetime
    trigger: Trigger
    state: RunState
    reason: str | None = None
    job_id: str | None = None
    decided_at: datetime


class DeliveryState(StrEnum):
    """How far a webhook's delivery is; ``waiting`` is for the end of its job."""

    WAITING = "waiting"
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRecord:
    """One event for one receiver. ``status`` is the last HTTP status it answered.

    ``body`` is what is sent when it is not about a job.
    """

    id: str
    org: str
    job_id: str | None
    event: str | None
    url: str
    secret: str = field(repr=False)
    body: str | None = field(repr=False)
    state: DeliveryState
    attempts: int
    next_at: datetime | None
    created_at: datetime
    ended_at: datetime | None
    status: int | None
    error: str | None
