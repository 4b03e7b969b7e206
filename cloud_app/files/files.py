"""Stores, reads and deletes files, in a local folder or any bucket fsspec knows."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from itertools import islice
from pathlib import Path
from typing import BinaryIO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from cloud_app import store
from cloud_app.context import Context
from cloud_app.store.records import FileRecord, KeyRecord
from genie import logs
from genie.errors import Conflict, NotFound, SettingsError, TooLarge, Unavailable

log = logs.logger("storage")

PIECE_BYTES = 1024 * 1024
RETRY_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """The size and the hex SHA-256 of what was written."""

    size_bytes: int
    sha256: str


class FileStore:
    """Files below one URL; every path is relative to it.

    A file never changes: it is written once under a unique name, and named
    in the database afterwards. No row names what a killed process left half written.
    """

    def __init__(self, url: str) -> None:
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise SettingsError(
                f"GENIE_FILES_URL cannot be used: {error}; name a folder, or install "
                "the package of that storage"
            ) from error
        self._is_local = isinstance(self._fs, LocalFileSystem)
        if self._is_local:
            with _translated("write"):
                Path(self._root).mkdir(parents=True, exist_ok=True, mode=0o700)

    def write(self, path: str, pieces: Iterable[bytes]) -> StoredObject:
        """Write a file from its pieces, never holding more than one of them.

        Raises `Unavailable` when the storage cannot take it; an error of ``pieces``
        removes what was written and goes on up.
        """
        digest, size = hashlib.sha256(), 0
        try:
            with self._writing(path) as out:
                for piece in pieces:
                    with _translated("write"):
                        out.write(piece)
                    digest.update(piece)
                    size += len(piece)
        except BaseException:
            self.remove(path)
            raise
        return StoredObject(size_bytes=size, sha256=digest.hexdigest())

    @contextmanager
    def reading(self, path: str) -> Iterator[BinaryIO]:
        """A file open for reading, seekable; raises `NotFound` and `Unavailable`."""
        with _translated("read"):
            opened = cast(BinaryIO, self._fs.open(self._full(path), "rb"))
        with opened, _translated("read"):
            yield opened

    def pieces(self, path: str) -> Iterator[bytes]:
        """The bytes of a file, a megabyte at a time."""
        with self.reading(path) as opened:
            while piece := opened.read(PIECE_BYTES):
                yield piece

    def remove(self, path: str) -> None:
        """Remove a file, best effort: nobody finds one that stays."""
        try:
            self._fs.rm_file(self._full(path))
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("file_not_removed", error=type(error).__name__)

    def names(self, folder: str) -> tuple[str, ...]:
        """Paths of the files in a folder; none without the folder."""
        with _translated("read"):
            try:
                found = self._fs.ls(self._full(folder), detail=False)
            except FileNotFoundError:
                return ()
        return tuple(f"{folder}/{str(name).rsplit('/', 1)[-1]}" for name in found)

    @contextmanager
    def _writing(self, path: str) -> Iterator[BinaryIO]:
        full = self._full(path)
        with _translated("write"):
            self._fs.makedirs(full.rsplit("/", 1)[0], exist_ok=True)
            out = cast(BinaryIO, self._fs.open(full, "wb"))
        try:
            yield out
            if self._is_local:
                with _translated("write"):
                    out.flush()
                    os.fsync(out.fileno())  # before the database names it
        finally:
            with _translated("write"):
                out.close()

    def _full(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}"


@cache
def at(url: str) -> FileStore:
    """The storage at a URL, opened once per process."""
    return FileStore(url)


@contextmanager
def _translated(act: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(
            "the file is no longer stored; upload it again", param="file_id"
        ) from error
    except OSError as error:
        raise Unavailable(
            f"the files' storage cannot be used to {act} ({error.strerror or error}); "
            "try again, or check GENIE_FILES_URL",
            code="storage_unavailable",
            retry_after_s=RETRY_S,
        ) from error


PREFIX = "file-"
EXPIRE_LIMIT = 100
UNNAMED_FOR = timedelta(days=1)
"""No upload takes longer; bytes without a row after that are leftovers."""

_MAX_NAME = 255


def of(ctx: Context) -> FileStore:
    """This cloud's file storage."""
    return at(ctx.settings.files_url)


def upload(
    ctx: Context,
    key: KeyRecord,
    *,
    filename: str,
    purpose: str,
    pieces: Iterable[bytes],
    keep_s: float | None = None,
) -> FileRecord:
    """Store a file from its pieces; raises `TooLarge` and `Unavailable`.

    ``keep_s`` is how long its owner wants it; the cloud's own limit still holds.
    """
    file_id = store.ids.new_id(ctx.now())
    path = f"{key.org.id}/files/{file_id}"
    stored = of(ctx).write(path, _limited(pieces, ctx.settings.max_file_bytes))
    file = record(
        ctx,
        stored,
        id=file_id,
        org_id=key.org.id,
        key_id=key.id,
        purpose=purpose,
        filename=filename.replace("\0", "")[:_MAX_NAME] or "upload.jsonl",
        path=path,
    )
    if keep_s is not None:
        end = file.created_at + timedelta(seconds=keep_s)
        file = replace(file, expires_at=min(file.expires_at, end))
    with ctx.db.session() as session:
        store.files.insert(session, file)
    return file


def record(ctx: Context, stored: StoredObject, **given: str) -> FileRecord:
    """The record of a stored file."""
    now = ctx.now()
    return FileRecord(
        **given,
        size_bytes=stored.size_bytes,
        sha256=stored.sha256,
        created_at=now,
        expires_at=now + timedelta(hours=ctx.settings.files_retain_h),
    )


def get(ctx: Context, key: KeyRecord, file_id: str) -> FileRecord:
    """A file of the key's org, by id with or without prefix; raises `NotFound`."""
    with ctx.db.reading() as session:
        file = store.files.of_org(session, key.org.id, file_id.removeprefix(PREFIX))
    if file is None:
        raise NotFound(
            f"there is no file {file_id[:64]} in this org; GET /v1/files lists them",
            code="file_not_found",
            param="file_id",
        )
    return file


def find(
    ctx: Context,
    key: KeyRecord,
    *,
    limit: int = 100,
    after: str | None = None,
    purpose: str | None = None,
    oldest_first: bool = False,
) -> tuple[FileRecord, ...]:
    """Files of the key's org, newest first or oldest; ``after`` is the last id seen."""
    last = after.removeprefix(PREFIX) if after else None
    with ctx.db.reading() as session:
        return store.files.find(
            session,
            key.org.id,
            limit=limit,
            after=last,
            purpose=purpose,
            oldest_first=oldest_first,
        )


def content(ctx: Context, file: FileRecord) -> Iterator[bytes]:
    """The bytes of a file, a megabyte at a time; the first one is read at once."""
    pieces = of(ctx).pieces(file.path)
    first = next(pieces, b"")
    return _chained(first, pieces)


def delete(ctx: Context, key: KeyRecord, file_id: str) -> FileRecord:
    """Delete a file; raises `NotFound`, and `Conflict` while a batch reads it."""
    file = get(ctx, key, file_id)
    with ctx.db.session() as session:
        if store.batches.is_read(session, file.id):
            raise Conflict(
                "a batch still reads this file; cancel it or wait for its end",
                code="file_in_use",
                param="file_id",
            )
        store.files.drop(session, [file.id])
    of(ctx).remove(file.path)
    return file


def expire(ctx: Context) -> int:
    """Delete expired files; returns how many."""
    with ctx.db.session() as session:
        old = [
            file
            for file in store.files.expired(session, ctx.now(), EXPIRE_LIMIT)
            if not store.batches.is_read(session, file.id)
        ]
        store.files.drop(session, [file.id for file in old])
    for file in old:
        of(ctx).remove(file.path)
    return len(old)


def tidy(ctx: Context) -> int:
    """Remove what killed uploads left a day ago without a row; returns how many."""
    before = store.ids.first(ctx.now() - UNNAMED_FOR)
    with ctx.db.reading() as session:
        orgs = store.orgs.every_id(session)
    return sum(_remove_unnamed(ctx, f"{org_id}/files", before) for org_id in orgs)


def _remove_unnamed(ctx: Context, folder: str, before: str) -> int:
    """A file is stored under its id, and ids sort by time of creation."""
    stored = (path.rsplit("/", 1)[-1] for path in of(ctx).names(folder))
    old, removed = (name for name in stored if name < before), 0
    while group := list(islice(old, EXPIRE_LIMIT)):
        with ctx.db.reading() as session:
            unnamed = set(group) - store.files.known(session, group)
        for name in unnamed:
            of(ctx).remove(f"{folder}/{name}")
        removed += len(unnamed)
    return removed


def _limited(pieces: Iterable[bytes], most_bytes: int) -> Iterator[bytes]:
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > most_bytes:
            raise TooLarge(
                f"the file is larger than {most_bytes} bytes; split it",
                param="file",
            )
        yield piece


def _chained(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest
