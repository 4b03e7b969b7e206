"""Promises of a whole fleet, in their short forms; the numbers are the promises'."""

import contextlib
import itertools
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

from fixtures.fleet import Fleet, wait_until
from fixtures.nodes import RabbitNode
from genie import Client
from genie.contracts.inference import JobState
from genie.errors import Conflict, JobFailed, Unavailable
from genie.sdk.chat import AskOptions

HEARTBEAT_S = 2.0  # as in conftest.py
LONG: AskOptions = {"persona": "chat", "max_tokens": 150}
"""About three seconds of echo:small at 20 ms a token."""

POISON = "p0ison"
"""The word that kills the engine of echo:small; see catalog.toml."""


@pytest.fixture
def whole(fleet: Fleet, client: Client) -> Callable[[], None]:
    """Call it to wait until both workers serve again."""
    return lambda: fleet.wait_ready("echo:small", workers=2, timeout_s=120)


def wait_running(client: Client, job_id: str) -> str:
    """The worker a job runs on, once it runs."""
    names: list[str] = []

    def is_running() -> bool:
        job = client.job(job_id)
        names[:] = [job.details.worker or ""]
        return job.status is JobState.RUNNING

    wait_until(is_running, 20, f"job {job_id} runs", every_s=0.05)
    return names[0]


def test_p2_a_key_has_one_effect_and_another_body_is_refused(client: Client) -> None:
    ids = {
        client.submit("once", max_tokens=2, idempotency_key="p2").id for _ in range(8)
    }
    assert len(ids) == 1
    with pytest.raises(Conflict):
        client.submit("other", max_tokens=2, idempotency_key="p2")


def test_p11_a_poisonous_prompt_is_stopped_and_its_neighbours_are_answered(
    client: Client, whole: Callable[[], None]
) -> None:
    before = [client.submit(f"n{n}", max_tokens=40) for n in range(6)]
    poison = client.submit(f"{POISON} now", max_tokens=5)
    after = [client.submit(f"n{n}", max_tokens=40) for n in range(6, 12)]
    with pytest.raises(JobFailed, match="engine died 3 times"):
        poison.result(timeout=100)
    ended = client.job(poison.id)
    assert ended.details.error is not None
    assert (ended.details.error.code, ended.details.attempts) == ("poison", 3)
    texts = [job.result(timeout=100).text.split()[0] for job in (*before, *after)]
    assert texts == [f"n{n}" for n in range(12)]
    whole()


def test_p18_a_graceful_stop_finishes_and_a_second_signal_gives_back(
    fleet: Fleet, client: Client, whole: Callable[[], None]
) -> None:
    jobs = [client.submit(f"g{n}", **LONG) for n in range(6)]
    for job in jobs:
        wait_running(client, job.id)
    fleet.kill("atlas", signal.SIGTERM)
    for job in jobs:
        assert job.result(timeout=60).usage.completion_tokens == 150
        assert client.job(job.id).details.attempts == 1
    fleet.start_worker("atlas")
    whole()


def test_p18_work_given_back_three_times_in_good_order_is_no_poison(
    fleet: Fleet, client: Client, whole: Callable[[], None]
) -> None:
    job = client.submit("move me about", persona="chat", max_tokens=400)
    for _ in range(3):
        name = wait_running(client, job.id)
        twice(fleet, name)
        fleet.start_worker(name)
        whole()
    assert job.result(timeout=90).usage.completion_tokens == 400
    assert client.job(job.id).details.attempts == 1


def twice(fleet: Fleet, name: str) -> None:
    """Two signals: give back at once what runs, then go."""
    os.kill(fleet.pid(name), signal.SIGTERM)
    time.sleep(0.5)  # Celery counts two signals in one moment as one
    fleet.kill(name, signal.SIGTERM)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_stream_outlives_its_worker_greedy_or_not(
    fleet: Fleet, client: Client, whole: Callable[[], None], temperature: float
) -> None:
    pieces: list[str] = []
    times: list[float] = []
    victim = ""
    with client.stream(
        "a b c d e", temperature=temperature, persona="chat", max_tokens=150
    ) as stream:
        for piece in stream:
            pieces.append(piece)
            times.append(time.monotonic())
            if not victim and len("".join(pieces).split()) > 75:
                assert stream.job_id is not None
                victim = wait_running(client, stream.job_id)
                fleet.kill(victim)
    assert "".join(pieces).split() == (["a", "b", "c", "d", "e"] * 30)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    sys.stdout.write(f"temperature {temperature}: pause {max(gaps):.2f} s\n")
    assert stream.result.worker != victim
    assert stream.result.usage.completion_tokens == 150
    fleet.start_worker(victim)
    whole()


def test_p7_a_broker_in_alarm_means_503_soon_and_async_work_runs_later(
    fleet: Fleet, rabbitmq: RabbitNode, whole: Callable[[], None]
) -> None:
    with Client(url=fleet.url, api_key=fleet.api_key, retry_s=0.0) as impatient:
        impatient.ask("open the connections", max_tokens=1)
        rabbitmq.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
        try:
            began = time.monotonic()
            with pytest.raises(Unavailable) as refused:
                impatient.ask("nobody takes me", max_tokens=1)
            took_s = time.monotonic() - began
            job = impatient.submit("kept", persona="chat", max_tokens=2)
        finally:
            rabbitmq.ctl("set_vm_memory_high_watermark", "0.4")
        assert refused.value.retry_after_s
        assert took_s < 3
        assert job.result(timeout=60).usage.completion_tokens == 2
    whole()


def test_p14_clients_that_read_nothing_are_cut_off_and_slow_nobody(
    fleet: Fleet, client: Client
) -> None:
    client.ask("warm", max_tokens=1)
    with contextlib.ExitStack() as stack:
        ids = [stack.enter_context(stopped_reader(fleet)) for _ in range(4)]
        gaps = list(gaps_of(client))
        sys.stdout.write(f"largest gap beside stopped readers: {max(gaps):.3f} s\n")

        def is_over(job_id: str) -> bool:
            return client.job(job_id).status.is_terminal

        for job_id in ids:
            wait_until(lambda one=job_id: is_over(one), 60, "it is cut off")  # type: ignore[misc]  # a default keeps the loop's value
            ended = client.job(job_id)
            assert ended.status in (JobState.FAILED, JobState.CANCELLED)
    assert max(gaps) < 2


def gaps_of(client: Client) -> Iterator[float]:
    """Seconds between two pieces of an ordinary stream."""
    with client.stream("tick", persona="chat", max_tokens=100) as stream:
        last = time.monotonic()
        for _ in stream:
            now = time.monotonic()
            yield now - last
            last = now


@contextlib.contextmanager
def stopped_reader(fleet: Fleet) -> Iterator[str]:
    """A client that asks for a long stream of long words and reads no more."""
    address = urlsplit(fleet.url)
    body = json.dumps(
        {
            "model": "chat",
            "stream": True,
            "max_tokens": 1500,
            "messages": [{"role": "user", "content": "x" * 8_000}],
        }
    ).encode()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((address.hostname, address.port))
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: genie\r\n"
            b"Content-Type: application/json\r\n"
            + f"Authorization: Bearer {fleet.api_key}\r\n".encode()
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(256)
        head = head.partition(b"\r\n\r\n")[0]  # the first pieces may have come along
        lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        yield lines[b"x-genie-job-id"].decode()
