"""Downloads files from the Hugging Face hub; each continues where it stopped.

The hub's own client starts a file over after a crash, so only its listing, its
addresses and its connection are used here.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from workers.files.manifest import SERVED, PullFailed, pull_failed

PIECE_BYTES = 1024 * 1024
PARTIAL_CONTENT = 206
TRIES = 4
"""How often a broken connection is resumed before the pull fails."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a repository; ``sha256`` is None for small files."""

    name: str
    blob: str
    size_bytes: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class HubRepository:
    """One commit of a repository, and what an engine may read of it."""

    name: str
    commit: str
    files: tuple[RemoteFile, ...]

    @property
    def size_bytes(self) -> int:
        """The size of all files."""
        return sum(one.size_bytes for one in self.files)


def read_revision(name: str, revision: str) -> HubRepository:
    """The files of a revision; raises PullFailed."""
    # Imported here, as below: the hub's client is slow to import and rarely needed.
    from huggingface_hub import HfApi

    with _translated(name, revision):
        info = HfApi().model_info(name, revision=revision, files_metadata=True)
    found = [
        RemoteFile(
            name=one.rfilename,
            blob=one.blob_id or "",
            size_bytes=one.size or 0,
            sha256=one.lfs.sha256 if one.lfs else None,
        )
        for one in info.siblings or ()
        if _is_served(one.rfilename)
    ]
    return HubRepository(name, info.sha or revision, tuple(found))


def fetch(
    repository: HubRepository, folder: Path, on_progress: Callable[[float], None]
) -> None:
    """Download every file into ``folder``; raises PullFailed.

    ``on_progress`` gets the share of bytes that have arrived.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = 0
    for remote in repository.files:
        start = before

        def arrived(size: int, start: int = start) -> None:
            on_progress(min(0.99, (start + size) / max(1, repository.size_bytes)))

        if not _is_here(remote, folder):
            _bring(repository, remote, folder, arrived)
        before += remote.size_bytes
        arrived(remote.size_bytes)


def _is_served(name: str) -> bool:
    if "/" in name or name.startswith("consolidated"):
        return False
    return any(fnmatchcase(name, pattern) for pattern in SERVED)


def _is_here(remote: RemoteFile, folder: Path) -> bool:
    path = folder / remote.name
    return path.is_file() and path.stat().st_size == remote.size_bytes


def _bring(
    repository: HubRepository,
    remote: RemoteFile,
    folder: Path,
    arrived: Callable[[int], None],
) -> None:
    # Named by its content: a part of another version is never continued.
    part = folder / f".{remote.name}.{(remote.sha256 or remote.blob)[:16]}.part"
    for left in reversed(range(TRIES)):
        try:
            with _translated(repository.name, repository.commit):
                _continue(repository, remote, part, arrived)
        except PullFailed as failure:
            if not failure.fault.retryable or not left:
                raise
            continue
        break
    _check(repository, remote, part)
    part.replace(folder / remote.name)


def _continue(
    repository: HubRepository,
    remote: RemoteFile,
    part: Path,
    arrived: Callable[[int], None],
) -> None:
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # listed by name
        build_hf_headers,
        hf_raise_for_status,
    )

    have = part.stat().st_size if part.exists() else 0
    if have >= remote.size_bytes > 0:
        return
    url = hf_hub_url(repository.name, remote.name, revision=repository.commit)
    # Sizes and ranges are of the file itself, so nothing may be compressed on the way.
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    stream = get_session().stream("GET", url, headers=headers, follow_redirects=True)
    with stream as response:
        hf_raise_for_status(response)
        is_rest = have and response.status_code == PARTIAL_CONTENT
        with part.open("ab" if is_rest else "wb") as file:
            for piece in response.iter_bytes(PIECE_BYTES):
                file.write(piece)
                arrived(file.tell())


@contextmanager
def _translated(name: str, revision: str) -> Iterator[None]:
    """An error of the hub's client as `PullFailed`, with the next step."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except (errors.OfflineModeIsEnabled, httpx2.ConnectError) as error:
        message = (
            f"{name} is not on this machine and the hub cannot be reached; check the "
            "network, HF_HUB_OFFLINE and HF_ENDPOINT"
        )
        raise pull_failed("offline", message, retryable=True) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        message = (
            f"the hub shows no {name}@{revision}; check the catalog's source and, if "
            "it is gated, accept its terms and set HF_TOKEN"
        )
        raise pull_failed("not_found", message) from error
    except (httpx2.HTTPError, OSError) as error:
        message = f"{name}@{revision} could not be pulled: {error}"
        raise pull_failed("pull_failed", message[:500], retryable=True) from error


def _check(repository: HubRepository, remote: RemoteFile, part: Path) -> None:
    size = part.stat().st_size
    found = _digest(part) if remote.sha256 else None
    if size == remote.size_bytes and found == remote.sha256:
        return
    part.unlink()
    message = (
        f"{remote.name} of {repository.name} arrived with {size} bytes and sha256 "
        f"{found}, not {remote.size_bytes} and {remote.sha256}; pull it again"
    )
    raise pull_failed("corrupt", message, retryable=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
