"""Every query in one place: functions take a session first, return frozen records."""

from cloud_app.store import (
    backlog,
    batch_records,
    batches,
    chunks,
    facts,
    files,
    ids,
    jobs,
    keys,
    orgs,
    placements,
    records,
    schema,
    workers,
)
from cloud_app.store.database import Database

__all__ = [
    "Database",
    "backlog",
    "batch_records",
    "batches",
    "chunks",
    "facts",
    "files",
    "ids",
    "jobs",
    "keys",
    "orgs",
    "placements",
    "records",
    "schema",
    "workers",
]
