"""Accepts, lists and cancels batches for their owners.

The brain runs them: see `cloud_app.batches.driver`.
"""

import re
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from cloud_app import store
from cloud_app.context import Context
from cloud_app.files import files
from cloud_app.store.records import BatchRecord, KeyRecord, NewBatch
from genie.contracts.batch import BatchState
from genie.errors import BadRequest, Conflict, NotFound

PREFIX = "batch_"
LONGEST = timedelta(hours=24)
PURPOSE = "batch"
_UNITS = {"m": 60, "h": 3600}
_WINDOW = re.compile(r"([1-9]\d{0,3})([mh])")
_MAX_KEY = 255
OPEN = (BatchState.VALIDATING, BatchState.IN_PROGRESS)


def window_of(text: str) -> timedelta:
    """A completion window of 1m to 24h; raises `BadRequest` for anything else.

    >>> window_of("90m")
    datetime.timedelta(seconds=5400)
    """
    found = _WINDOW.fullmatch(text)
    window = timedelta()
    if found is not None:
        window = timedelta(seconds=int(found[1]) * _UNITS[found[2]])
    if not timedelta() < window <= LONGEST:
        raise BadRequest(
            f"completion_window is {text[:20]!r}; use 24h or less, like 24h, 1h or 30m",
            param="completion_window",
        )
    return window


def create(
    ctx: Context,
    key: KeyRecord,
    *,
    input_file_id: str,
    endpoint: str,
    window: str,
    metadata: dict[str, str],
    idempotency_key: str | None = None,
    body_sha256: str = "",
) -> BatchRecord:
    """Accept a batch; the brain checks it and runs it.

    Raises `BadRequest`, `NotFound` for the input file, and `Conflict` for an
    idempotency key that was used with another body.
    """
    length = window_of(window)
    file = files.get(ctx, key, input_file_id)
    _check(file.purpose, idempotency_key)
    now = ctx.now()
    new = NewBatch(
        id=store.ids.new_id(now),
        org=key.org,
        key_id=key.id,
        endpoint=endpoint,
        window=window,
        input_file_id=file.id,
        metadata=metadata,
        created_at=now,
        expires_at=now + length,
        idempotency_key=idempotency_key,
        body_sha256=body_sha256,
    )
    return _record(ctx, new)


def get(ctx: Context, key: KeyRecord, batch_id: str) -> BatchRecord:
    """A batch of the key's org, by id with or without prefix; raises `NotFound`."""
    with ctx.db.reading() as session:
        batch = store.batches.of_org(session, key.org.id, batch_id.removeprefix(PREFIX))
    if batch is None:
        raise NotFound(
            f"there is no batch {batch_id[:64]} in this org; `genie batch list` lists "
            "them",
            code="batch_not_found",
            param="batch_id",
        )
    return batch


def find(
    ctx: Context, key: KeyRecord, *, limit: int = 20, after: str | None = None
) -> tuple[BatchRecord, ...]:
    """Batches of the key's org, newest first; ``after`` is the last id seen."""
    last = after.removeprefix(PREFIX) if after else None
    with ctx.db.reading() as session:
        return store.batches.find(session, key.org.id, limit=limit, after=last)


def cancel(ctx: Context, key: KeyRecord, batch_id: str) -> BatchRecord:
    """Stop a batch; finished answers are kept. An ended batch stays as it is."""
    batch = get(ctx, key, batch_id)
    closing = BatchState.CANCELLED.value
    move(ctx, batch, OPEN, BatchState.CANCELLING, closing=closing)
    return get(ctx, key, batch.id)


def move(
    ctx: Context,
    batch: BatchRecord,
    before: Iterable[BatchState],
    after: BatchState,
    **values: Any,
) -> None:
    """Change the state of a batch that is in one of the states ``before``."""
    values[f"{after.value}_at"] = ctx.now()
    with ctx.db.session() as session:
        store.batches.move(session, batch.id, before, state=after.value, **values)


def _record(ctx: Context, new: NewBatch) -> BatchRecord:
    with ctx.db.session() as session:
        if store.batches.insert(session, new):
            batch = store.batches.by_id(session, new.id)
        else:
            batch = store.batches.by_idempotency_key(
                session, new.org.id, new.idempotency_key or ""
            )
    if batch is None or batch.body_sha256 != new.body_sha256:
        raise Conflict(
            "this Idempotency-Key was used for another request; send a new key",
            param="Idempotency-Key",
        )
    return batch


def _check(purpose: str, idempotency_key: str | None) -> None:
    if purpose != PURPOSE:
        raise BadRequest(
            f"the file's purpose is {purpose}; upload it with purpose batch",
            param="input_file_id",
        )
    key = idempotency_key
    if key is not None and not (0 < len(key) <= _MAX_KEY and key.isprintable()):
        raise BadRequest(
            f"Idempotency-Key must be 1 to {_MAX_KEY} printable characters",
            param="Idempotency-Key",
        )
