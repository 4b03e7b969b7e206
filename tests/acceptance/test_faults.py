"""Processes die, freeze and come back; no accepted request is lost or doubled."""

import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from fixtures.fleet import Fleet, wait_until
from fixtures.nodes import PostgresNode, RabbitNode
from genie import Client
from genie.contracts.inference import JobState
from genie.errors import BrokerDown, DatabaseDown
from genie.sdk.chat import AskOptions

HEARTBEAT_S = 2.0  # as in conftest.py
LONG: AskOptions = {"persona": "chat", "max_tokens": 150}
"""About three seconds of echo:small at 20 ms a token."""


def state_of(client: Client, name: str) -> str:
    return next(w.state for w in client.workers() if w.name == name)


def other(name: str) -> str:
    return {"atlas": "borealis", "borealis": "atlas"}[name]


def worker_of(client: Client, job_id: str) -> str:
    """The worker a job runs on, once it runs."""

    def is_running() -> bool:
        return client.job(job_id).status is JobState.RUNNING

    wait_until(is_running, 20, f"job {job_id} runs", every_s=0.05)
    name = client.job(job_id).details.worker
    assert name is not None
    return name


@pytest.fixture
def whole(fleet: Fleet, client: Client) -> Callable[[], None]:
    """Call it to wait until both workers serve again."""
    return lambda: fleet.wait_ready("echo:small", workers=2, timeout_s=90)


def test_a_killed_worker_s_job_is_answered_once_by_the_other(
    fleet: Fleet, client: Client, whole: Callable[[], None]
) -> None:
    job = client.submit("kill me", **LONG)
    victim = worker_of(client, job.id)
    fleet.kill(victim)
    result = job.result(timeout=60)
    assert result.worker == other(victim)
    assert result.usage.completion_tokens == 150
    assert client.job(job.id).details.attempts == 2
    fleet.start_worker(victim)
    whole()


def test_a_killed_worker_s_waiting_caller_gets_the_other_s_answer(
    fleet: Fleet, client: Client, whole: Callable[[], None]
) -> None:
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(lambda: client.ask("sync kill", **LONG))
        victim = _running_worker(client)
        fleet.kill(victim)
        result = future.result(timeout=60)
    assert result.worker == other(victim)
    assert len(result.text.split()) == 150
    fleet.start_worker(victim)
    whole()


def test_a_stream_whose_worker_dies_goes_on_without_a_gap(
    fleet: Fleet, client: Client, whole: Callable[[], None]
) -> None:
    pieces: list[str] = []
    victim = ""
    with client.stream("s t r e a m", **LONG) as stream:
        for piece in stream:
            pieces.append(piece)
            if not victim and len("".join(pieces).split()) > 20:
                victim = _running_worker(client)
                fleet.kill(victim)
    words = "".join(pieces).split()
    assert words == (["s", "t", "r", "e", "a", "m"] * 25)[:150]
    assert stream.result.worker == other(victim)
    fleet.start_worker(victim)
    whole()


def test_a_listener_of_a_job_hears_the_worker_that_takes_over(
    fleet: Fleet, client: Client, whole: Callable[[], None]
) -> None:
    job = client.submit("l i s t e n", **LONG)
    victim, text = "", ""
    for piece in job.stream():
        text += piece
        if not victim:
            victim = worker_of(client, job.id)
            fleet.kill(victim)
    assert text == job.result().text
    assert len(text.split()) == 150
    assert job.result().worker == other(victim)
    fleet.start_worker(victim)
    whole()


def test_a_job_completes_while_web_is_dead(fleet: Fleet, client: Client) -> None:
    job = client.submit("web dies", **LONG)
    worker_of(client, job.id)
    fleet.kill("web")
    fleet.start_web()
    wait_until(fleet.is_ready, 60, "web is back")
    assert len(job.result(timeout=60).text.split()) == 150
    assert client.job(job.id).details.attempts == 1


def test_a_stream_goes_on_when_its_web_process_dies(fleet: Fleet) -> None:
    with Client(url=fleet.url, api_key=fleet.api_key, retry_s=60) as patient:
        stream = patient.stream("web dies", **LONG)
        pieces = [next(stream)]
        fleet.kill("web")
        fleet.start_web()
        pieces += stream
        job = patient.job(stream.result.job_id)
    assert stream.result.text == "".join(pieces)
    assert len(stream.result.text.split()) == 150
    assert stream.result.finish_reason == "length"
    assert job.details.attempts == 1


def test_leaving_a_stream_after_its_web_process_died_still_cancels_it(
    fleet: Fleet,
) -> None:
    with Client(url=fleet.url, api_key=fleet.api_key, retry_s=60) as patient:
        with patient.stream("web dies", persona="chat", max_tokens=1900) as stream:
            next(stream)
            fleet.kill("web")
            fleet.start_web()
            words = 0
            while words < 200:  # more than the dead one can have sent
                words += len(next(stream).split())
        job = patient.job(stream.job_id or "")
        wait_until(lambda: job.refresh().status.is_terminal, 10, "it was stopped")
    assert job.status is JobState.CANCELLED


def test_heartbeats_and_placements_go_on_after_brain_and_beat_were_killed(
    fleet: Fleet, client: Client
) -> None:
    fleet.kill("brain")
    fleet.kill("beat")
    job = client.submit("nobody records me yet", persona="chat", max_tokens=2)
    fleet.start_brain()
    fleet.start_beat()
    assert job.result(timeout=60).usage.completion_tokens == 2
    heavy = client.submit("place the large one", persona="heavy", max_tokens=2)
    assert heavy.result(timeout=90).model == "echo:large"
    assert all(w.state == "online" for w in client.workers())


def test_a_silent_worker_becomes_late_offline_and_lost_and_comes_back(
    fleet: Fleet, client: Client, whole: Callable[[], None]
) -> None:
    fleet.freeze("atlas")
    seen: list[str] = []

    def is_lost() -> bool:
        state = state_of(client, "atlas")
        if state not in seen:
            seen.append(state)
        return state == "lost"

    wait_until(is_lost, HEARTBEAT_S * 10 + 20, "atlas is lost")
    assert [s for s in seen if s != "online"] == ["late", "offline", "lost"]
    assert client.ask("still served", max_tokens=2).worker == "borealis"
    fleet.thaw("atlas")
    wait_until(lambda: state_of(client, "atlas") == "online", 30, "atlas is online")
    whole()


def test_one_late_beat_moves_nothing(fleet: Fleet, client: Client) -> None:
    # a worker that was lost keeps its models; the next plan gives it its placements
    wait_until(lambda: all(w.placements for w in client.workers()), 20, "all placed")
    before = {w.name: w.placements for w in client.workers()}
    fleet.freeze("atlas")
    wait_until(lambda: state_of(client, "atlas") == "late", 20, "atlas is late")
    fleet.thaw("atlas")
    wait_until(lambda: state_of(client, "atlas") == "online", 20, "atlas is online")
    assert {w.name: w.placements for w in client.workers()} == before


def test_a_killed_engine_child_is_replaced_and_its_request_answered(
    fleet: Fleet, client: Client, whole: Callable[[], None]
) -> None:
    job = client.submit("engine dies", **LONG)
    name = worker_of(client, job.id)
    for child in psutil.Process(fleet.pid(name)).children(recursive=True):
        child.kill()
    assert job.result(timeout=60).usage.completion_tokens == 150
    whole()


def test_sigterm_lets_a_worker_finish_what_it_runs(
    fleet: Fleet, client: Client, whole: Callable[[], None]
) -> None:
    job = client.submit("finish first", **LONG)
    name = worker_of(client, job.id)
    fleet.kill(name, signal.SIGTERM)
    assert job.result(timeout=30).worker == name
    assert client.job(job.id).details.attempts == 1
    fleet.start_worker(name)
    whole()


def test_a_broker_that_is_down_means_503_and_work_goes_on_when_it_is_back(
    fleet: Fleet, client: Client, rabbitmq: RabbitNode, whole: Callable[[], None]
) -> None:
    rabbitmq.kill()
    try:
        with (
            Client(url=fleet.url, api_key=fleet.api_key, retry_s=0.01) as impatient,
            pytest.raises(BrokerDown) as refused,
        ):
            impatient.ask("nobody takes me")
        assert refused.value.retry_after_s
        job = client.submit("kept in the database", max_tokens=2)
    finally:
        rabbitmq.start()
    assert job.result(timeout=60).usage.completion_tokens == 2
    whole()
    assert client.ask("back", max_tokens=1).text.strip() == "back"


def test_a_database_that_is_down_means_503_and_no_restart_is_needed(
    fleet: Fleet, client: Client, postgres: PostgresNode, whole: Callable[[], None]
) -> None:
    running = client.submit("outlives the database", **LONG)
    worker_of(client, running.id)
    postgres.kill()
    try:
        with (
            Client(url=fleet.url, api_key=fleet.api_key, retry_s=0.01) as impatient,
            pytest.raises(DatabaseDown),
        ):
            impatient.submit("not accepted")
    finally:
        postgres.start()
    wait_until(fleet.is_ready, 30, "web sees the database again")
    assert running.result(timeout=60).usage.completion_tokens == 150
    whole()


def test_a_burst_survives_a_worker_s_death_without_loss_or_doubles(
    fleet: Fleet, client: Client, whole: Callable[[], None]
) -> None:
    jobs = [client.submit(f"w{n}", max_tokens=20) for n in range(60)]
    threading.Timer(0.5, lambda: fleet.kill("atlas")).start()
    results = [job.result(timeout=90) for job in jobs]
    assert [r.text.split()[0] for r in results] == [f"w{n}" for n in range(60)]
    assert all(r.usage.completion_tokens == 20 for r in results)
    wait_until(lambda: not _is_up(fleet, "atlas"), 10, "atlas is down")
    fleet.start_worker("atlas")
    whole()


def _is_up(fleet: Fleet, name: str) -> bool:
    try:
        fleet.pid(name)
    except KeyError:
        return False
    return True


def _running_worker(client: Client) -> str:
    found: list[str] = []

    def is_found() -> bool:
        jobs = client.jobs(state="running", limit=1)
        found[:] = [j.details.worker for j in jobs if j.details.worker]
        return bool(found)

    wait_until(is_found, 20, "a job runs", every_s=0.05)
    return found[0]


def test_a_job_waits_for_a_worker_that_is_away_and_runs_when_it_returns(
    fleet: Fleet, client: Client, whole: Callable[[], None]
) -> None:
    def is_refused() -> bool:
        return client.route(persona="chat").refused == "no_capacity"

    for name in ("atlas", "borealis"):
        fleet.kill(name)
    wait_until(is_refused, 60, "nobody is believed to serve")
    job = client.submit("while you were away", persona="chat", max_tokens=4)
    assert job.refresh().status is JobState.QUEUED
    assert job.details.route is not None
    assert "to return" in (job.details.route.waits or "")
    fleet.start_worker("borealis")
    assert job.result(timeout=90).worker == "borealis"
    fleet.start_worker("atlas")
    whole()
