"""Every query in one place: functions take a session first, return frozen records."""

from cloud_app.store import (  # noqa: F401  # what `from cloud_app import store` gives
    backlog,
    batches,
    files,
    ids,
    jobs,
    keys,
    orgs,
    placements,
    records,
    schedules,
    schema,
    transitions,
    webhooks,
    workers,
)
from cloud_app.store.database import Database as Database
