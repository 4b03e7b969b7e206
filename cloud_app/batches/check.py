"""Checks a batch's whole input before any of it runs."""

import hashlib
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any

from cloud_app.batches import lines
from cloud_app.batches.lines import BadBatchLine, BatchLine, LineRequest
from cloud_app.context import Context
from cloud_app.files import files
from cloud_app.jobs import admission
from cloud_app.store.records import BatchRecord, FileRecord
from genie.errors import GenieError

EMPTY = 0
FIRST_PLACES = 1024


class DigestSet:
    """A set of names as 64-bit digests in one array: at most 32 bytes a name.

    A Python set of numbers takes about a hundred. A million names collide by chance
    once in 40 million batches.
    """

    def __init__(self) -> None:
        self._places = _empty(FIRST_PLACES)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, name: str) -> bool:
        """Add a name; False when it was in the set before."""
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        number = int.from_bytes(digest) or 1  # 0 marks an empty place
        if self._count * 2 >= len(self._places):
            self._grow()
        at = _find(self._places, number)
        if self._places[at] == number:
            return False
        self._places[at] = number
        self._count += 1
        return True

    def _grow(self) -> None:
        larger = _empty(len(self._places) * 2)
        for number in self._places:
            if number != EMPTY:
                larger[_find(larger, number)] = number
        self._places = larger


def _empty(places: int) -> "array[int]":
    return array("Q", [EMPTY]) * places


def _find(places: "array[int]", number: int) -> int:
    """The place of a number: from its own place on, the first that fits."""
    mask = len(places) - 1
    at = number & mask
    while places[at] not in (EMPTY, number):
        at = (at + 1) & mask
    return at


MOST_ERRORS = 100
"""The most mistakes that are listed."""

EVERY = 500
"""Lines between two calls of ``keep``."""

_one_at_a_time = Lock()
"""One check at a time: a large input takes a minute of a brain's threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSummary:
    """The contents of an input: its requests, and the mistakes that end the batch."""

    total: int
    model: str | None
    errors: tuple[dict[str, Any], ...]


def check(
    ctx: Context, batch: BatchRecord, file: FileRecord, keep: Callable[[], None]
) -> InputSummary | None:
    """Read every line; None while this process checks another batch.

    Memory holds one line and at most 32 bytes of each custom_id, never the file.
    ``keep`` is called every few hundred lines.
    """
    if not _one_at_a_time.acquire(blocking=False):
        return None
    try:
        return _InputCheck(ctx, batch).read(file, keep)
    finally:
        _one_at_a_time.release()


class _InputCheck:
    """One pass over one input."""

    def __init__(self, ctx: Context, batch: BatchRecord) -> None:
        self._ctx, self._batch = ctx, batch
        self._seen = DigestSet()
        self._targets: set[tuple[str | None, str | None]] = set()
        self._errors: list[dict[str, Any]] = []
        self._model: str | None = None
        self._total = 0

    def read(self, file: FileRecord, keep: Callable[[], None]) -> InputSummary:
        most_bytes = self._ctx.settings.max_body_bytes
        with files.of(self._ctx).reading(file.path) as source:
            for line in lines.split_lines(
                source, offset=0, after_line=0, most_bytes=most_bytes
            ):
                self._total += 1
                if self._total % EVERY == 0:
                    keep()
                self._note(line, most_bytes)
                if self._is_enough():
                    break
        if not self._total:
            self._add(BadBatchLine("the file has no requests", code="empty_file"), None)
        return InputSummary(
            total=self._total, model=self._model, errors=tuple(self._errors)
        )

    def _note(self, line: BatchLine, most_bytes: int) -> None:
        try:
            request = lines.parse(line, self._batch.endpoint, most_bytes=most_bytes)
            self._see(request)
        except GenieError as error:
            self._add(error, line.number)

    def _see(self, request: LineRequest) -> None:
        if not self._seen.add(request.custom_id):
            raise BadBatchLine(
                f"custom_id {request.custom_id[:64]!r} was used before; each must be "
                "unique",
                code="duplicate_custom_id",
                param="custom_id",
            )
        body: Any = request.body  # every shape names a model, a persona or both
        target = (body.model, body.persona)
        if target not in self._targets:
            admission.resolve(self._ctx.catalog, *target)
            self._targets.add(target)
            self._model = self._model or body.model or body.persona

    def _is_enough(self) -> bool:
        most_lines = self._ctx.settings.batch_max_lines
        if self._total > most_lines:
            error = BadBatchLine(
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
