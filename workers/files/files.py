"""Stores model files on this machine: pulled once, verified, never changed.

A served file is immutable (truncating it kills the process that maps it), so
files are written beside and renamed into place.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from filelock import AcquireReturnProxy, FileLock, Timeout

from genie import sources as model_sources
from genie.contracts.model import ModelFile, ModelSpec
from workers.files import manifest, sources
from workers.files.manifest import Manifest, OnPullProgress, pull_failed

HEADROOM_BYTES = 1024**3
"""Bytes left free on the disk after a pull."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalModel:
    """A model on disk: its folder and its source files' digests.

    ``path`` is None for an engine that reads no files.
    """

    path: Path | None
    files: tuple[ModelFile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """One model on disk."""

    id: str
    source: str
    path: Path
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskUsage:
    """Bytes that models take, and bytes still free."""

    path: Path
    used_bytes: int
    free_bytes: int


class ModelStore:
    """The models under ``root``, one folder each. Safe across processes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def ensure(
        self,
        spec: ModelSpec,
        on_progress: OnPullProgress | None = None,
        on_wait: Callable[[], None] | None = None,
    ) -> LocalModel:
        """The model's files; pulls them if they are missing.

        Blocks while another process pulls the same model, after ``on_wait``. Raises
        PullFailed with code ``corrupt``, ``disk_full``, ``offline``, ``bad_source``,
        ``not_found`` or ``pull_failed``; its fault says what to do. ``on_progress``
        gets 0 to 1.
        """
        if model_sources.kind_of(spec.source) == spec.engine:  # nothing to bring
            return LocalModel(path=None, files=())
        source = sources.parse(spec.source)
        with self._lock(spec.id, on_wait):
            found = self._present(spec)
            if found is None:
                found = self._pull(spec, source, on_progress or (lambda _: None))
        return LocalModel(path=self._target(spec.id, found), files=found.files)

    def ls(self) -> tuple[StoredModel, ...]:
        """All models on disk, by id."""
        folders = sorted(self.root.glob(f"*/{manifest.NAME}"))
        return tuple(self._stored(at.parent) for at in folders)

    def rm(self, model_id: str) -> int:
        """Delete a model's files; returns the bytes freed, 0 if there were none.

        A `path:` model loses only its record here, never its folder.
        """
        with self._lock(model_id):
            folder = self._folder(model_id)
            freed = _size(folder)
            shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(self._partial(model_id), ignore_errors=True)
        return freed

    def disk(self) -> DiskUsage:
        """The disk space that models take, and the free space."""
        used = sum(_size(at.parent) for at in self.root.glob(f"*/{manifest.NAME}"))
        return DiskUsage(path=self.root, used_bytes=used, free_bytes=self._free())

    def _folder(self, model_id: str) -> Path:
        return self.root / quote(model_id, safe="")

    def _partial(self, model_id: str) -> Path:
        return self.root / ".partial" / quote(model_id, safe="")

    def _lock(
        self, model_id: str, on_wait: Callable[[], None] | None = None
    ) -> AcquireReturnProxy[FileLock]:
        folder = self.root / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{quote(model_id, safe='')}.lock")
        try:
            return lock.acquire(blocking=False)
        except Timeout:
            if on_wait is not None:
                on_wait()
        return lock.acquire()

    def _target(self, model_id: str, found: Manifest) -> Path:
        return Path(found.target) if found.target else self._folder(model_id)

    def _present(self, spec: ModelSpec) -> Manifest | None:
        """The record of a usable copy; raises PullFailed for a corrupt one."""
        folder = self._folder(spec.id)
        found = manifest.read(folder)
        if found is None or found.source != spec.source:
            return None
        manifest.compare(spec, found.files)
        target = self._target(spec.id, found)
        fresh = manifest.recheck(target, spec.id, found)
        if fresh != found:
            manifest.write(folder, fresh)
        return fresh

    def _pull(
        self, spec: ModelSpec, source: sources.ModelSource, on_progress: OnPullProgress
    ) -> Manifest:
        partial = self._partial(spec.id)
        if not source.resumes:
            shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True, exist_ok=True)
        self._check_room(spec, source)
        fetched = source.fetch(spec, partial, on_progress)
        manifest.compare(spec, fetched.files)
        record = manifest.record(spec.source, fetched)
        ready, folder = (
            partial if record.target else fetched.folder,
            self._folder(spec.id),
        )
        manifest.write(ready, record)
        # A running engine may have mapped an older copy: its files live on, without
        # a name, until that engine ends.
        shutil.rmtree(folder, ignore_errors=True)
        ready.rename(folder)
        shutil.rmtree(partial, ignore_errors=True)
        on_progress(1.0)
        return record

    def _check_room(self, spec: ModelSpec, source: sources.ModelSource) -> None:
        needed, free = source.needed_bytes(spec), self._free()
        if needed and free < needed + HEADROOM_BYTES:
            raise pull_failed(
                "disk_full",
                f"pulling {spec.id} needs {needed / 1e9:.1f} GB and 1 GB to spare "
                f"under {self.root}; {free / 1e9:.1f} GB are free. Free some with "
                "`genie models rm ID`",
            )

    def _free(self) -> int:
        self.root.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self.root).free

    def _stored(self, folder: Path) -> StoredModel:
        found = manifest.read(folder)
        model_id = unquote(folder.name)
        return StoredModel(
            id=model_id,
            source=found.source if found else "",
            path=self._target(model_id, found) if found else folder,
            size_bytes=_size(folder),
        )


def _size(folder: Path) -> int:
    return sum(at.stat().st_size for at in folder.rglob("*") if at.is_file())
