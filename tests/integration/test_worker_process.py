"""``celery -A workers worker`` against a twin of the cloud and a real RabbitMQ."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from genie.catalog import ECHO, load
from genie.contracts import codec
from genie.contracts.fleet import (
    DesiredModel,
    Heartbeat,
    HeartbeatReply,
    ModelState,
    Registration,
    RegistrationReply,
)
from genie.contracts.inference import AttemptStarted, JobState, Outcome
from genie.messaging.queues import control_queue
from genie.messaging.tasks import make_celery
from integration.worker_rig import PATIENCE_S, Asker

ROOT = Path(__file__).parents[2]
SPEC = load(ECHO).models["echo:large"]
MODEL = SPEC.id


class CloudTwin:
    """The fleet API on loopback: one join token, one worker, one desired model."""

    def __init__(self, broker_url: str) -> None:
        self.broker_url = broker_url
        self.desired: tuple[DesiredModel, ...] = ()
        self.interval_s = 30.0
        self.forgets = False
        self.beats: list[Heartbeat] = []
        self.credentials: list[str] = []
        self._news = threading.Condition()
        twin = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                bearer = self.headers["Authorization"].removeprefix("Bearer ")
                status, answer = twin.answer(self.path, body, bearer)
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))

    def start(self) -> None:
        """Serve."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving."""
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    def answer(self, path: str, body: bytes, bearer: str) -> tuple[int, bytes]:
        """One request."""
        if path == "/fleet/v1/register":
            return self._register(codec.decode(Registration, body), bearer)
        with self._news:
            beat = codec.decode(Heartbeat, body)
            self.beats.append(beat)
            self._news.notify_all()
        reply = HeartbeatReply(
            ack_seq=beat.seq,
            server_time=datetime.now(UTC),
            next_in_s=self.interval_s,
            desired=self.desired,
            register=self.forgets,
        )
        self.forgets = False
        return 200, codec.encode(reply)

    def wait_state(self, state: ModelState) -> Heartbeat:
        """The first heartbeat that reports a model in ``state``."""
        return self.wait_beat(lambda beat: any(m.state == state for m in beat.models))

    def wait_beat(self, wanted: Callable[[Heartbeat], bool]) -> Heartbeat:
        """The first heartbeat that is as ``wanted``."""
        with self._news:
            assert self._news.wait_for(
                lambda: any(map(wanted, self.beats)), PATIENCE_S
            ), self.beats[-1:]
            return next(filter(wanted, self.beats))

    def wait_registrations(self, count: int) -> None:
        """Wait until the worker registered that often."""
        with self._news:
            assert self._news.wait_for(
                lambda: len(self.credentials) >= count, PATIENCE_S
            )

    def _register(self, said: Registration, bearer: str) -> tuple[int, bytes]:
        if bearer not in ("gj-token", "gw-secret"):
            error = {"message": "this token is used up", "type": "x", "code": "x"}
            return 401, json.dumps({"error": error}).encode()
        with self._news:
            self.credentials.append(bearer)
            self._news.notify_all()
        registered = RegistrationReply(
            worker_id="w1",
            worker_secret="gw-secret",
            name=said.name,
            org="acme",
            broker_url=self.broker_url,
            queues=("genie",),
            heartbeat_s=self.interval_s,
        )
        return 200, codec.encode(registered)


@pytest.fixture
def cloud(rabbitmq_url: str) -> Iterator[CloudTwin]:
    """A cloud that wants the slow echo model on its worker."""
    twin = CloudTwin(rabbitmq_url)
    twin.desired = (
        DesiredModel(spec=SPEC, quant="none", slots=4, context=4096, reason="a test"),
    )
    twin.start()
    yield twin
    twin.stop()


@contextmanager
def worker(
    cloud: CloudTwin, home: Path, *, token: str | None = "gj-token"
) -> Iterator["subprocess.Popen[str]"]:
    """The production process."""
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "GENIE_URL": cloud.url,
        "GENIE_HOME": str(home),
        "GENIE_WORKER_NAME": "ann",
    }
    environ.pop("GENIE_JOIN_TOKEN", None)
    if token is not None:
        environ["GENIE_JOIN_TOKEN"] = token
    command = [sys.executable, "-m", "celery", "-A", "workers", "worker"]
    with subprocess.Popen(
        [*command, "-l", "WARNING"],
        env=environ,
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_worker_joins_empty_loads_what_is_desired_and_serves_it(
    cloud: CloudTwin, tmp_path: Path, rabbitmq_url: str
) -> None:
    with Asker(rabbitmq_url) as asker, worker(cloud, tmp_path) as process:
        ready = cloud.wait_state(ModelState.READY)
        assert cloud.beats[0].models == ()
        outcome = asker.outcome(asker.ask("good day", model=MODEL))
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0, process.communicate()[0]
    assert outcome.text == "good day good day"
    assert outcome.fingerprint == ready.models[0].fingerprint
    assert cloud.beats[-1].draining
    saved = tmp_path / "workers" / "ann" / "worker.json"
    assert saved.stat().st_mode & 0o777 == 0o600


def test_a_stop_signal_lets_the_running_request_finish(
    cloud: CloudTwin, tmp_path: Path, rabbitmq_url: str
) -> None:
    with Asker(rabbitmq_url) as asker, worker(cloud, tmp_path) as process:
        job = asker.ask("word " * 100, model=MODEL)  # about a second
        asker.started(job)
        process.send_signal(signal.SIGTERM)
        outcome = asker.outcome(job)
        assert process.wait(PATIENCE_S) == 0
        assert outcome.state is JobState.COMPLETED
        assert len(asker.times([job], AttemptStarted)) == 1


def test_a_second_signal_gives_the_running_request_back(
    cloud: CloudTwin, tmp_path: Path, rabbitmq_url: str
) -> None:
    with Asker(rabbitmq_url) as asker:
        with worker(cloud, tmp_path) as process:
            job = asker.ask("word " * 300, model=MODEL)
            asker.started(job)
            process.send_signal(signal.SIGTERM)
            cloud.wait_beat(lambda beat: beat.draining)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
        assert asker.times([job], Outcome) == []
        with worker(cloud, tmp_path, token=None):
            asker.wait_until(lambda: len(asker.times([job], AttemptStarted)) == 2)


def test_a_nudge_brings_a_heartbeat_and_a_cancel_ends_a_job(
    cloud: CloudTwin, tmp_path: Path, rabbitmq_url: str
) -> None:
    app = make_celery("cloud", control_queue("w1"), broker_url=rabbitmq_url)
    with Asker(rabbitmq_url) as asker, worker(cloud, tmp_path):
        job = asker.ask("word " * 1000, model=MODEL)
        asker.started(job)
        app.send_task("worker.cancel", kwargs={"job_id": job}, queue="worker.w1")
        assert asker.outcome(job).state is JobState.CANCELLED
        cloud.desired = ()
        app.send_task("worker.nudge", queue="worker.w1")
        gone = cloud.wait_state(ModelState.ON_DISK)
        assert [model.state for model in gone.models] == [ModelState.ON_DISK]
    app.close()


def test_a_worker_the_cloud_forgot_registers_with_its_own_secret(
    cloud: CloudTwin, tmp_path: Path
) -> None:
    cloud.interval_s = 0.2
    with worker(cloud, tmp_path):
        cloud.wait_state(ModelState.READY)
        cloud.forgets = True
        cloud.wait_registrations(2)
    assert cloud.credentials == ["gj-token", "gw-secret"]


def test_a_worker_without_credentials_says_how_to_join(
    cloud: CloudTwin, tmp_path: Path
) -> None:
    with worker(cloud, tmp_path, token=None) as process:
        said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "genie worker join" in said


def test_a_used_token_is_refused_with_the_clouds_words_and_the_next_step(
    cloud: CloudTwin, tmp_path: Path
) -> None:
    with worker(cloud, tmp_path, token="gj-old") as process:
        said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "this token is used up" in said
    assert "genie worker join" in said
