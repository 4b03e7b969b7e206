"""A worker's data plane on a real RabbitMQ, and in memory where that can show it."""

import os
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import kombu
import pytest

from fixtures.fleet import wait_until
from genie import topology
from genie.contracts.inference import (
    AttemptStarted,
    Chunk,
    InferenceTask,
    JobState,
    Outcome,
    Sampling,
    WorkClass,
)
from integration.worker_rig import FINGERPRINT, MODEL, Asker, Rig

ROOT = Path(__file__).parents[2]


def test_a_request_is_answered_in_chunks_and_its_outcome_goes_to_cloud_and_asker(
    rabbitmq_url: str, asker: Asker
) -> None:
    with Rig(rabbitmq_url, "ann"):
        job = asker.ask("good day")
        outcome = asker.outcome(job)
        stored = asker.outcome(job, topology.OUTCOMES)
    assert outcome == stored
    assert outcome.state is JobState.COMPLETED
    assert outcome.text == asker.text(job) == "good day good day"
    assert outcome.worker == "ann"
    assert outcome.fingerprint == FINGERPRINT
    kinds = [type(event) for event in asker.events(job)]
    assert (kinds[0], kinds[-1]) == (AttemptStarted, Outcome)
    assert not any(isinstance(e, Chunk) for e in asker.events(job, topology.OUTCOMES))


@pytest.mark.parametrize("work_class", list(WorkClass))
def test_every_class_of_work_is_served(
    rabbitmq_url: str, asker: Asker, work_class: WorkClass
) -> None:
    with Rig(rabbitmq_url, "ann", slots=1):
        jobs = [asker.ask(work_class=work_class) for _ in range(3)]
        states = [asker.outcome(job).state for job in jobs]
    assert states == [JobState.COMPLETED] * 3


def test_two_equal_workers_share_the_work(rabbitmq_url: str, asker: Asker) -> None:
    ann = Rig(rabbitmq_url, "ann", slots=2, ms_per_token=5)
    bob = Rig(rabbitmq_url, "bob", slots=2, ms_per_token=5)
    with ann, bob:
        jobs = [asker.ask("a b c d") for _ in range(40)]
        workers = [asker.outcome(job).worker for job in jobs]
    assert min(workers.count("ann"), workers.count("bob")) >= 8


def test_of_two_copies_of_a_running_job_the_worker_keeps_none(
    rabbitmq_url: str, asker: Asker
) -> None:
    job = uuid.uuid4().hex[:26]
    with Rig(rabbitmq_url, "ann", ms_per_token=50):
        for _ in range(2):
            asker.ask("a b c d e f g h", job_id=job)
        assert asker.outcome(job).state is JobState.COMPLETED
        runs = [e for e in asker.events(job) if isinstance(e, AttemptStarted)]
    assert len(runs) == 1
    # What a worker has not acknowledged is in the queue again when it has gone.
    queue = topology.model_queue(topology.SHARED, MODEL, WorkClass.INTERACTIVE)
    with kombu.Connection(rabbitmq_url) as connection:
        found = connection.channel().queue_declare(queue, passive=True)
    assert found.message_count == 0


def test_a_worker_takes_no_more_than_it_can_start(
    rabbitmq_url: str, asker: Asker
) -> None:
    with Rig(rabbitmq_url, "ann", slots=2, ms_per_token=20) as rig:
        jobs = [asker.ask("a b c d e f g h") for _ in range(8)]
        asker.started(jobs[0])
        seen = []
        while not asker.events(jobs[-1]):
            (load,) = rig.serving.loads() or (None,)
            seen.append(load.in_flight if load else 0)
            time.sleep(0.005)
        for job in jobs:
            asker.outcome(job)
    assert max(seen) == 2


def test_a_killed_workers_request_runs_on_another_worker(
    rabbitmq_url: str, asker: Asker
) -> None:
    with worker_process(rabbitmq_url, "doomed", ms_per_token=200) as doomed:
        job = asker.ask("a b c d e f")
        assert asker.started(job).worker == "doomed"
        with Rig(rabbitmq_url, "heir"):
            killed_at = time.monotonic()
            doomed.kill()
            outcome = asker.outcome(job)
            took = time.monotonic() - killed_at
    assert (outcome.worker, outcome.state) == ("heir", JobState.COMPLETED)
    starts = [e for e in asker.events(job) if isinstance(e, AttemptStarted)]
    assert [start.redelivered for start in starts] == [False, True]
    assert took < 5


def test_an_engine_that_dies_gives_its_requests_back(
    rabbitmq_url: str, asker: Asker
) -> None:
    with Rig(rabbitmq_url, "ann", ms_per_token=50) as ann:
        job = asker.ask("a b c d e f")
        asker.started(job)
        with Rig(rabbitmq_url, "heir"):
            ann.engine.close()
            outcome = asker.outcome(job)
    assert outcome.worker == "heir"


def test_a_running_job_is_cancelled_and_a_waiting_one_never_starts(
    rabbitmq_url: str, asker: Asker
) -> None:
    with Rig(rabbitmq_url, "ann", slots=1, ms_per_token=20) as rig:
        running = asker.ask("word " * 500)
        asker.started(running)
        waiting = asker.ask()
        rig.serving.cancel(waiting)
        rig.serving.cancel(running)
        states = [asker.outcome(job).state for job in (running, waiting)]
    assert states == [JobState.CANCELLED] * 2
    assert not any(isinstance(e, AttemptStarted) for e in asker.events(waiting))


def test_a_job_past_its_deadline_ends_without_running(
    rabbitmq_url: str, asker: Asker
) -> None:
    late = datetime.now(UTC) - timedelta(seconds=1)
    with Rig(rabbitmq_url, "ann"):
        outcome = asker.outcome(asker.ask(deadline_at=late))
    assert outcome.state is JobState.TIMEOUT
    assert outcome.fault is not None
    assert outcome.fault.code == "deadline_exceeded"


def test_bad_messages_are_dead_lettered_and_good_ones_served(
    rabbitmq_url: str, asker: Asker
) -> None:
    bodies = [b"", b"\xff\xfe", b"[]", b"null", b'[[],{"task":{}},{}]', b"{" * 1000]
    with Rig(rabbitmq_url, "ann"):
        for body in bodies:
            asker.publish(task(asker), body)
        assert asker.outcome(asker.ask()).state is JobState.COMPLETED
        dead = dead_letters(rabbitmq_url, len(bodies))
    assert sorted(dead) == sorted(bodies)


def test_work_goes_on_after_the_broker_closed_the_connection(
    rabbitmq_url: str, asker: Asker
) -> None:
    with Rig(rabbitmq_url, "ann") as rig:
        asker.outcome(asker.ask())
        rig.plane._link.reset()
        assert asker.outcome(asker.ask()).state is JobState.COMPLETED


def test_no_message_comes_to_a_consumer_that_has_hung_up(
    rabbitmq_url: str, asker: Asker, caplog: pytest.LogCaptureFixture
) -> None:
    # py-amqp bounces such a message, which is then marked as redelivered.
    with Rig(rabbitmq_url, "ann", slots=4):
        jobs = [asker.ask() for _ in range(300)]
        for job in jobs:
            asker.outcome(job)
    starts = [
        e for job in jobs for e in asker.events(job) if isinstance(e, AttemptStarted)
    ]
    assert not [start for start in starts if start.redelivered]
    assert "no callbacks" not in caplog.text


def test_consumers_that_were_closed_leave_nothing_behind(
    rabbitmq_url: str, asker: Asker
) -> None:
    with Rig(rabbitmq_url, "ann", slots=1) as rig:
        for job in [asker.ask() for _ in range(50)]:
            asker.outcome(job)
        consuming = rig.plane._link._session._consumers  # type: ignore[attr-defined]
        wait_until(lambda: len(consuming) <= len(WorkClass) + 1, 5, "they are gone")


@pytest.mark.parametrize("transport", ["rabbitmq", "memory"])
def test_an_idle_worker_starts_the_next_request_soon(
    request: pytest.FixtureRequest,
    transport: str,
    record_property: Callable[[str, object], None],
) -> None:
    url = "memory://" if transport == "memory" else None
    url = url or request.getfixturevalue("rabbitmq_url")
    with Asker(url) as asker, Rig(url, "ann", slots=1):
        jobs = [asker.ask() for _ in range(200)]
        asker.outcome(jobs[-1])
        starts = asker.times(jobs, AttemptStarted)
        ends = asker.times(jobs, Outcome)
    gaps = [start - end for end, start in zip(ends, starts[1:], strict=False)]
    gap_ms = 1000 * statistics.median(gaps)
    record_property(f"idle_gap_{transport}_ms", round(gap_ms, 2))
    sys.stdout.write(f"{transport}: idle gap {gap_ms:.2f} ms median\n")
    assert gap_ms < 100


@contextmanager
def worker_process(
    url: str, name: str, *, ms_per_token: float
) -> Iterator["subprocess.Popen[str]"]:
    """A worker in a process of its own, killed at the end if it still lives."""
    command = [sys.executable, "-m", "integration.worker_rig"]
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    with subprocess.Popen(
        [*command, url, name, str(ms_per_token), "2"],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def task(asker: Asker) -> InferenceTask:
    """Where a bad message is published."""
    now = datetime.now(UTC)
    return InferenceTask(
        job_id="bad",
        org="acme",
        queue=topology.SHARED,
        model=MODEL,
        work_class=WorkClass.INTERACTIVE,
        created_at=now,
        deadline_at=now + timedelta(seconds=60),
        sampling=Sampling(),
        reply_to=asker.reply_to,
    )


def dead_letters(url: str, count: int) -> list[bytes]:
    """The next dead letters of the shared queue."""
    bodies: list[bytes] = []
    connection: kombu.Connection = kombu.Connection(url)
    with connection:
        channel = connection.channel()
        deadline = time.monotonic() + 10
        while len(bodies) < count and time.monotonic() < deadline:
            message = channel.basic_get(topology.dead_letters(topology.SHARED), True)
            if message is None:
                time.sleep(0.02)
                continue
            body = message.body
            bodies.append(body.encode() if isinstance(body, str) else body)
    return bodies
