"""Records a model's files with their digests, and holds the files against them."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

import msgspec

from genie.contracts.base import Contract, Count
from genie.contracts.inference import Fault
from genie.contracts.model import ModelFile, ModelSpec


class PullFailed(Exception):
    """A model's files could not be fetched; ``fault`` says why and what to do next."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        super().__init__(fault.message)


def pull_failed(code: str, message: str, *, retryable: bool = False) -> PullFailed:
    """A `PullFailed` in one line."""
    return PullFailed(Fault(code=code, message=message, retryable=retryable))


def corrupt(model_id: str, name: str, *, expected: str, found: str) -> PullFailed:
    """A file is not what the digest says."""
    return pull_failed(
        "corrupt",
        f"{name} of {model_id} is corrupt: its sha256 is {found}, it should be "
        f"{expected}. Run `genie models rm {model_id}`, then pull it again",
    )


NAME = "manifest.json"
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

READERS = 4
"""Files to digest at once."""

SERVED = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "vocab*",
    "merges.txt",
)
"""All an engine may read of a model: no code, no pickles."""


OnPullProgress = Callable[[float], None]
"""Hears the share of a pull that is done, 0 to 1."""


class ServedFile(Contract, frozen=True, kw_only=True):
    """One file an engine reads, as it was when its digest was taken."""

    name: str
    size_bytes: Count
    mtime_ns: Count
    sha256: str


class Manifest(Contract, frozen=True, kw_only=True):
    """``files`` came from the source, ``served`` are read by the engine.

    ``target`` is the folder of a `path:` model, None for one that lives here.
    """

    source: str
    files: tuple[ModelFile, ...]
    served: tuple[ServedFile, ...]
    target: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedModel:
    """What a source fetched: a folder to serve, and the source's own files.

    ``is_foreign`` marks a folder that is not ours to move.
    """

    folder: Path
    files: tuple[ModelFile, ...]
    is_foreign: bool = False


def digest(path: Path) -> str:
    """A file's sha256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_file(path: Path) -> ModelFile:
    """A file with its current digest and size."""
    return ModelFile(
        name=path.name, sha256=digest(path), size_bytes=path.stat().st_size
    )


def is_served(name: str) -> bool:
    """True for the name of a file that an engine may read, directly in its folder."""
    return "/" not in name and any(fnmatchcase(name, pattern) for pattern in SERVED)


def served_in(folder: Path) -> list[Path]:
    """The files of a folder that an engine may read, by name."""
    return sorted(at for at in folder.iterdir() if is_served(at.name) and at.is_file())


def record(source: str, fetched: FetchedModel) -> Manifest:
    """The manifest of what a source fetched."""
    return Manifest(
        source=source,
        files=fetched.files,
        served=_side_by_side(_served, served_in(fetched.folder)),
        target=str(fetched.folder) if fetched.is_foreign else None,
    )


def read(folder: Path) -> Manifest | None:
    """The folder's manifest; None without one that this version understands."""
    try:
        return msgspec.json.decode((folder / NAME).read_bytes(), type=Manifest)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def write(folder: Path, manifest: Manifest) -> None:
    """Write beside, then rename: a reader sees the old or the new one."""
    beside = folder / f".{NAME}.{os.getpid()}"
    beside.write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
    beside.replace(folder / NAME)


def compare(spec: ModelSpec, files: tuple[ModelFile, ...]) -> None:
    """Compare files with the catalog's digests; raises PullFailed."""
    found = {file.name: file.sha256 for file in files}
    for file in spec.files:
        if file.name not in found:
            message = f"{spec.source} of {spec.id} has no file {file.name}"
            raise pull_failed("not_found", message)
        digest = found[file.name]
        if file.sha256 is not None and file.sha256 != digest:
            name, expected = file.name, file.sha256
            raise corrupt(spec.id, name, expected=expected, found=digest or "unknown")


def recheck(folder: Path, model_id: str, manifest: Manifest) -> Manifest:
    """Compare sizes and times; digest changed files again.

    The manifest with new times; raises PullFailed for a missing or changed file.
    """
    served = _side_by_side(
        lambda one: _rechecked(folder, model_id, one), manifest.served
    )
    return msgspec.structs.replace(manifest, served=served)


def verify(path: Path, spec: ModelSpec) -> tuple[ModelFile, ...]:
    """Digest every file that an engine would read, before it does.

    Returns the source files that identify the model; raises PullFailed.
    """
    manifest = read(path)
    if manifest is None:
        files = foreign_files(path, spec)
        compare(spec, files)
        return files
    _side_by_side(lambda one: _check(path, spec.id, one), manifest.served)
    compare(spec, manifest.files)
    return manifest.files


def foreign_files(folder: Path, spec: ModelSpec) -> tuple[ModelFile, ...]:
    """Digests of a folder's files; only of those the catalog names, if it names any."""
    if not folder.is_dir():
        message = f"{folder}, where {spec.id} should be, is not a folder"
        raise pull_failed("not_found", message)
    named = [folder / file.name for file in spec.files]
    present = [at for at in named or served_in(folder) if at.is_file()]
    if not served_in(folder):
        message = f"{folder}, where {spec.id} should be, has no model files"
        raise pull_failed("not_found", message)
    return _side_by_side(source_file, present)


def _side_by_side(
    digest: Callable[[ItemT], ResultT], items: Sequence[ItemT]
) -> tuple[ResultT, ...]:
    # Digesting releases Python's lock, and a large model has many large files.
    with ThreadPoolExecutor(READERS) as pool:
        return tuple(pool.map(digest, items))


def _served(path: Path) -> ServedFile:
    stat = path.stat()
    return ServedFile(
        name=path.name,
        size_bytes=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        sha256=digest(path),
    )


def _rechecked(folder: Path, model_id: str, known: ServedFile) -> ServedFile:
    path = folder / known.name
    if path.is_file():
        stat = path.stat()
        if (stat.st_size, stat.st_mtime_ns) == (known.size_bytes, known.mtime_ns):
            return known
    return _check(folder, model_id, known)


def _check(folder: Path, model_id: str, known: ServedFile) -> ServedFile:
    path = folder / known.name
    if not path.is_file():
        raise corrupt(model_id, known.name, expected=known.sha256, found="missing")
    now = _served(path)
    if now.sha256 != known.sha256:
        raise corrupt(model_id, known.name, expected=known.sha256, found=now.sha256)
    return now
