"""However a job is stopped, its engine stops within a step and a hop."""

import http.client
import json
import statistics
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator

import psycopg
import pytest

from acceptance.test_promises import LONG, wait_running
from fixtures.fleet import Fleet, wait_until
from genie import Client
from genie.contracts.inference import JobState

TOKENS = 2000
"""Forty seconds of echo:small at 20 ms a token: nothing here ends by itself."""

IsStopped = Callable[[str], bool]
Stop = Callable[[Fleet, Client], tuple[str, float]]
"""Runs a job and stops it: its id, and when it was told to stop."""


@pytest.fixture
def is_stopped(postgres_url: str) -> Iterator[IsStopped]:
    """Whether a worker has said that a cancelled job is over there."""
    address = postgres_url.replace("+psycopg", "")
    with psycopg.connect(address, autocommit=True) as session:

        def look(job_id: str) -> bool:
            row = session.execute("SELECT dropped FROM job WHERE id = %s", [job_id])
            return bool((row.fetchone() or (0,))[0])

        yield look


def by_sdk(fleet: Fleet, client: Client) -> tuple[str, float]:
    job = client.submit("stop me", persona="chat", max_tokens=TOKENS)
    wait_running(client, job.id)
    began = time.monotonic()
    job.cancel()
    return job.id, began


def by_delete(fleet: Fleet, client: Client) -> tuple[str, float]:
    job = client.submit("stop me", persona="chat", max_tokens=TOKENS)
    wait_running(client, job.id)
    request = urllib.request.Request(
        f"{fleet.url}/v1/jobs/{job.id}",
        method="DELETE",
        headers={"Authorization": f"Bearer {fleet.api_key}"},
    )
    began = time.monotonic()
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200
    return job.id, began


def by_disconnect(fleet: Fleet, client: Client) -> tuple[str, float]:
    with client.stream("stop me", persona="chat", max_tokens=TOKENS) as stream:
        next(stream)
        assert stream.job_id is not None
        began = time.monotonic()
    return stream.job_id, began


def by_hanging_up(fleet: Fleet, client: Client) -> tuple[str, float]:
    """A plain request for a whole answer, whose client does not wait for it."""
    said = [{"role": "user", "content": "stop me"}]
    body = {"model": "chat", "messages": said, "max_tokens": TOKENS}
    headers = {
        "Authorization": f"Bearer {fleet.api_key}",
        "Content-Type": "application/json",
    }
    asker = http.client.HTTPConnection(fleet.url.removeprefix("http://"))
    before = newest(client)
    asker.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    wait_until(lambda: newest(client) != before, 10, "it is accepted")
    job_id = newest(client)
    wait_running(client, job_id)
    began = time.monotonic()
    asker.close()
    return job_id, began


def newest(client: Client) -> str:
    """The id of the job that was accepted last; empty before the first."""
    return next((job.id for job in client.jobs(limit=1)), "")


def by_command(fleet: Fleet, client: Client) -> tuple[str, float]:
    job = client.submit("stop me", persona="chat", max_tokens=TOKENS)
    wait_running(client, job.id)
    environ = {"GENIE_URL": fleet.url, "GENIE_API_KEY": fleet.api_key}
    said = fleet.run("genie", "jobs", "cancel", job.id, **environ)
    assert "cancelled" in said
    return job.id, time.monotonic()  # not what starting Python takes


STOPS = [by_sdk, by_delete, by_disconnect, by_hanging_up, by_command]


@pytest.mark.parametrize("stop", STOPS)
def test_a_stopped_job_s_engine_stops_within_a_step_and_a_hop(
    fleet: Fleet, client: Client, is_stopped: IsStopped, stop: Stop
) -> None:
    took: list[float] = []
    for _ in range(3):
        job_id, began = stop(fleet, client)
        wait_until(lambda one=job_id: is_stopped(one), 5, "it stops", every_s=0.005)  # type: ignore[misc]  # a default keeps the loop's value
        took.append(time.monotonic() - began)
        assert client.job(job_id).status is JobState.CANCELLED
    ms = [round(1000 * one) for one in took]
    sys.stdout.write(f"{stop.__name__} to stop: {ms} ms\n")
    assert statistics.median(took) < 2


def test_a_deadline_stops_what_runs(client: Client) -> None:
    job = client.submit("stop me", persona="chat", max_tokens=TOKENS, timeout=1.0)
    wait_running(client, job.id)
    began = time.monotonic()
    ended = job.wait(timeout=20).details
    took_s = time.monotonic() - began
    assert (ended.status, ended.attempts) == (JobState.TIMEOUT, 1)
    assert took_s < 10  # not by the sweep, which waits 30 s for the worker's own word
    wait_until(lambda: is_free(client), 10, "its slot is free")


def is_free(client: Client) -> bool:
    return not any(m.in_flight for w in client.workers() for m in w.models)


def test_what_never_started_never_starts_after_its_cancel(client: Client) -> None:
    running = [client.submit(f"r{n}", **LONG) for n in range(8)]
    waiting = client.submit("never", **LONG)
    assert waiting.cancel().status is JobState.CANCELLED
    for job in running:
        job.result(timeout=60)
    ended = client.job(waiting.id).details
    assert (ended.started_at, ended.attempts) == (None, 0)
