"""Pulling from a hub over HTTP: interrupted, resumed, verified, one pull at a time.

The hub is a stand-in on loopback that speaks the three requests the client sends.
"""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fixtures import tiny
from genie.cli.models import spec_of
from workers.files import files, manifest

REPO, COMMIT = "genie/tiny", "c" * 40
WAIT_S = 60.0


class Hub(ThreadingHTTPServer):
    """One repository; ``hold_after`` bytes of the weights it stops sending, and while
    ``is_tampered`` they are not those it has announced."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hold_after: int | None = None
        self.is_tampered = False
        self.held = threading.Event()
        self.go_on = threading.Event()
        self.ranges: list[str] = []
        self.fetched: list[str] = []
        super().__init__(("127.0.0.1", 0), Answering)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answering(BaseHTTPRequestHandler):
    """The hub's answers; no test reads its log."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._file(with_body=False)

    def do_GET(self) -> None:
        if self.path.startswith("/api/"):
            self._listing()
        else:
            self._file(with_body=True)

    def _listing(self) -> None:
        names = sorted(at.name for at in self.server.folder.iterdir())
        siblings = [self._sibling(self.server.folder / name) for name in names]
        body = {"id": REPO, "sha": COMMIT, "siblings": siblings}
        self._send(json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _sibling(self, path: Path) -> dict[str, object]:
        size, digest = path.stat().st_size, _digest(path)
        found: dict[str, object] = {
            "rfilename": path.name,
            "size": size,
            "blobId": digest[:40],
        }
        if path.suffix == ".safetensors":
            found["lfs"] = {"size": size, "sha256": digest, "pointerSize": 134}
        return found

    def _send(self, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, *, with_body: bool) -> None:
        path = self.server.folder / self.path.rpartition("/")[2].partition("?")[0]
        if not path.is_file():
            self.send_error(404)
            return
        whole = path.read_bytes()
        if self.server.is_tampered and path.suffix == ".safetensors":
            whole = whole[:-1] + bytes([whole[-1] ^ 1])
        start = self._start(with_body=with_body)
        body = whole[start:]
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{_digest(path)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(body)))
        if start:
            span = f"bytes {start}-{len(whole) - 1}/{len(whole)}"
            self.send_header("Content-Range", span)
        self.end_headers()
        if with_body:
            self.server.fetched.append(path.name)
            self._body(path.name, body)

    def _start(self, *, with_body: bool) -> int:
        asked = self.headers.get("Range")
        if asked is None or not with_body:
            return 0
        self.server.ranges.append(asked)
        return int(asked.removeprefix("bytes=").partition("-")[0])

    def _body(self, name: str, body: bytes) -> None:
        hold = self.server.hold_after
        if hold is None or not name.endswith(".safetensors"):
            self.wfile.write(body)
            return
        self.wfile.write(body[:hold])
        self.wfile.flush()
        self.server.held.set()
        self.server.go_on.wait(WAIT_S)
        self.close_connection = True


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    # More than one piece as they are written: what was cut off can be gone on with.
    tiny.make("llama", folder, intermediate_size=60_000)
    (folder / "modeling_evil.py").write_text("raise SystemExit('run')")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    return folder


@pytest.fixture
def hub(repository: Path) -> Iterator[Hub]:
    server = Hub(repository)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.go_on.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def catalog(tmp_path: Path, repository: Path) -> Path:
    """A catalog of the one model, its weights' digest included."""
    file = tmp_path / "catalog.toml"
    digest = _digest(repository / "model.safetensors")
    file.write_text(
        f"""
[[models]]
id = "tiny:1"
family = "llama"
parameters = 1_000
license = "none"
source = "hf:{REPO}@main"
context_max = 512
layers = 2
kv_heads = 2
head_dim = 8
quants = [{{ name = "f32", dtype = "float32" }}]
files = {{ "model.safetensors" = "{digest}" }}

[[personas]]
name = "chat"
tier = "lite"
ladder = ["tiny:1"]
"""
    )
    return file


def pull(home: Path, hub: Hub, catalog: Path) -> "subprocess.Popen[str]":
    """``genie models pull`` in a process of its own."""
    command = [sys.executable, "-m", "genie", "models", "pull", "tiny:1"]
    environ = {
        **os.environ,
        "GENIE_HOME": str(home),
        "HF_HOME": str(home / "hf"),
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
    }
    return subprocess.Popen(
        [*command, "--catalog", str(catalog)],
        env=environ,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def done(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=WAIT_S)
    return process.returncode, out, err


def test_a_pull_brings_what_is_served_and_neither_code_nor_pickles(
    tmp_path: Path, hub: Hub, catalog: Path, repository: Path
) -> None:
    status, out, err = done(pull(tmp_path, hub, catalog))
    assert status == 0, err
    folder = Path(out.strip())
    names = {at.name for at in folder.iterdir()}
    assert {"config.json", "model.safetensors", "manifest.json"} <= names
    assert not {"modeling_evil.py", "pytorch_model.bin"} & names
    assert _digest(folder / "model.safetensors") == _digest(
        repository / "model.safetensors"
    )
    spec = spec_of("tiny:1", str(catalog))
    assert manifest.verify(folder, spec)


def test_a_pull_killed_halfway_goes_on_where_it_stopped(
    tmp_path: Path, hub: Hub, catalog: Path, repository: Path
) -> None:
    size = (repository / "model.safetensors").stat().st_size
    hub.hold_after = size // 2
    first = pull(tmp_path, hub, catalog)
    assert hub.held.wait(WAIT_S)
    _wait_for_part(tmp_path, at_least=1)
    first.kill()
    done(first)
    hub.go_on.set()
    hub.hold_after = None
    before = len(hub.fetched)
    status, out, err = done(pull(tmp_path, hub, catalog))
    assert status == 0, err
    assert hub.ranges, "the second pull began at the start"
    start = int(hub.ranges[-1].removeprefix("bytes=").partition("-")[0])
    assert 0 < start <= size // 2
    assert "config.json" not in hub.fetched[before:]
    assert _digest(Path(out.strip()) / "model.safetensors") == _digest(
        repository / "model.safetensors"
    )


def test_two_pulls_of_one_model_fetch_it_once(
    tmp_path: Path, hub: Hub, catalog: Path, repository: Path
) -> None:
    hub.hold_after = (repository / "model.safetensors").stat().st_size
    first = pull(tmp_path, hub, catalog)
    assert hub.held.wait(WAIT_S)
    second = pull(tmp_path, hub, catalog)
    assert second.stderr is not None
    said = next(line for line in second.stderr if "already" in line)
    assert "tiny:1 is being pulled already; waiting for it" in said
    hub.go_on.set()
    assert [done(one)[0] for one in (first, second)] == [0, 0]
    assert hub.fetched.count("model.safetensors") == 1


def test_weights_that_arrive_changed_are_never_served(
    tmp_path: Path, hub: Hub, catalog: Path
) -> None:
    hub.is_tampered = True
    status, _, err = done(pull(tmp_path, hub, catalog))
    assert status != 0
    assert "model.safetensors" in err
    assert "pull it again" in err
    assert files.ModelStore(tmp_path / "models").ls() == ()
    hub.is_tampered = False
    status, out, err = done(pull(tmp_path, hub, catalog))
    assert status == 0, err
    assert manifest.verify(Path(out.strip()), spec_of("tiny:1", str(catalog)))


def test_a_hub_that_cannot_be_reached_says_what_to_check(
    tmp_path: Path, hub: Hub, catalog: Path
) -> None:
    hub.shutdown()
    hub.server_close()
    status, _, err = done(pull(tmp_path, hub, catalog))
    assert status != 0
    assert "HF_ENDPOINT" in err


def _wait_for_part(home: Path, *, at_least: int) -> None:
    """Until the client has written some of the weights to disk."""
    ticks: Any = threading.Event()
    for _ in range(int(WAIT_S / 0.05)):
        parts = (home / "models" / ".partial").rglob("*.part")
        if any(at.stat().st_size >= at_least for at in parts):
            return
        ticks.wait(0.05)
    raise AssertionError("nothing of the weights was written")
