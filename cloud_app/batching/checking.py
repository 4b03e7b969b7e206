"""Reading a batch's whole input once, before any of it runs."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any

from cloud_app import files, ordering
from cloud_app.batching import lines
from cloud_app.batching.lines import BadLine, Line, Request
from cloud_app.batching.seen import Seen
from cloud_app.context import Context
from cloud_app.store.batch_records import BatchRecord, FileRecord
from genie.errors import GenieError

MOST_ERRORS = 100
"""Mistakes that are listed; more would not be read."""

EVERY = 500
"""Lines between two signs of life."""

_one_at_a_time = Lock()
"""A large input takes a minute: the other threads of a brain keep their work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What an input holds: its requests, and the mistakes that end the batch."""

    total: int
    model: str | None
    errors: tuple[dict[str, Any], ...]


def check(
    ctx: Context, batch: BatchRecord, file: FileRecord, keep: Callable[[], None]
) -> Checked | None:
    """Read every line; None while this process checks another batch.

    Memory holds one line and at most 32 bytes of each custom_id, never the file.
    ``keep`` is called every few hundred lines.
    """
    if not _one_at_a_time.acquire(blocking=False):
        return None
    try:
        return _Check(ctx, batch).read(file, keep)
    finally:
        _one_at_a_time.release()


class _Check:
    """One pass over one input."""

    def __init__(self, ctx: Context, batch: BatchRecord) -> None:
        self._ctx, self._batch = ctx, batch
        self._seen = Seen()
        self._targets: set[tuple[str | None, str | None]] = set()
        self._errors: list[dict[str, Any]] = []
        self._model: str | None = None
        self._total = 0

    def read(self, file: FileRecord, keep: Callable[[], None]) -> Checked:
        most_bytes = self._ctx.settings.max_body_bytes
        with files.of(self._ctx).reading(file.path) as source:
            for line in lines.cut(
                source, offset=0, after_line=0, most_bytes=most_bytes
            ):
                self._total += 1
                if self._total % EVERY == 0:
                    keep()
                self._note(line, most_bytes)
                if self._is_enough():
                    break
        if not self._total:
            self._add(BadLine("the file has no requests", code="empty_file"), None)
        return Checked(total=self._total, model=self._model, errors=tuple(self._errors))

    def _note(self, line: Line, most_bytes: int) -> None:
        try:
            request = lines.parse(line, self._batch.endpoint, most_bytes=most_bytes)
            self._see(request)
        except GenieError as error:
            self._add(error, line.number)

    def _see(self, request: Request) -> None:
        if not self._seen.add(request.custom_id):
            raise BadLine(
                f"custom_id {request.custom_id[:64]!r} was used before; each must be "
                "unique",
                code="duplicate_custom_id",
                param="custom_id",
            )
        body: Any = request.body  # every shape names a model, a persona or both
        target = (body.model, body.persona)
        if target not in self._targets:
            ordering.resolve(self._ctx.catalog, *target)
            self._targets.add(target)
            self._model = self._model or body.model or body.persona

    def _is_enough(self) -> bool:
        most_lines = self._ctx.settings.batch_max_lines
        if self._total > most_lines:
            error = BadLine(
                f"the file has more than {most_lines} requests; split it",
                code="too_many_requests",
            )
            self._add(error, None)
            return True
        return len(self._errors) >= MOST_ERRORS

    def _add(self, error: GenieError, line: int | None) -> None:
        self._errors.append(
            {
                "code": error.error_code,
                "message": error.message,
                "param": error.param,
                "line": line,
            }
        )
