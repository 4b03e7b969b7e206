"""Every query in one place: functions take a session first, return frozen records."""

from cloud_app.store import (
    attempts,
    backlog,
    batches,
    chunks,
    files,
    ids,
    jobs,
    keys,
    orgs,
    outcomes,
    placements,
    records,
    retention,
    schedules,
    schema,
    webhooks,
    workers,
)
from cloud_app.store.database import Database

__all__ = [
    "Database",
    "attempts",
    "backlog",
    "batches",
    "chunks",
    "files",
    "ids",
    "jobs",
    "keys",
    "orgs",
    "outcomes",
    "placements",
    "records",
    "retention",
    "schedules",
    "schema",
    "webhooks",
    "workers",
]
