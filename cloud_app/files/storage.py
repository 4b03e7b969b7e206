"""Stores files in a local folder or any bucket that fsspec knows, by URL."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from genie import logs
from genie.errors import NotFound, SettingsError, Unavailable

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
