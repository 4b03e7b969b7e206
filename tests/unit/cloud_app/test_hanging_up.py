"""Whoever hangs up before the whole answer came has not asked for it any more."""

import socket
from collections.abc import Callable, Mapping

import pytest

from cloud_app.bus import JobInbox
from cloud_app.jobs import stream, submit
from cloud_app.jobs.submit import SubmittedJob
from cloud_app.web.presence import is_gone
from fixtures.clouds import Cloud
from genie.contracts.inference import JobState, Outcome
from genie.errors import JobCancelled


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "WAIT_S", 0.001)


def gone_after(looks: int) -> Callable[[], bool]:
    left = iter(range(looks))
    return lambda: next(left, None) is None


def test_the_job_of_who_hung_up_is_cancelled(cloud: Cloud) -> None:
    job = cloud.job(mode="sync")
    accepted = SubmittedJob(job=job, replayed=False, inbox=JobInbox())
    with pytest.raises(JobCancelled, match="hung up"):
        submit.collect(cloud.ctx, accepted, gone_after(3))
    assert cloud.reread(job).state is JobState.CANCELLED


def test_a_job_asked_for_under_a_key_runs_on_for_who_comes_back(cloud: Cloud) -> None:
    job = cloud.job(mode="sync", idempotency_key="once")
    inbox = JobInbox()
    inbox.put(
        Outcome(
            job_id=job.id,
            attempt_id="a",
            worker_id="w",
            worker="w",
            model=job.model,
            state=JobState.COMPLETED,
            at=job.created_at,
            text="done",
        )
    )
    accepted = SubmittedJob(job=job, replayed=False, inbox=inbox)
    answer = submit.collect(cloud.ctx, accepted, lambda: True)
    assert answer.outcome.text == "done"
    assert cloud.reread(job).state is JobState.QUEUED


def test_a_server_that_cannot_tell_says_that_everybody_is_there() -> None:
    nobody: Mapping[str, object] = {}
    assert not is_gone(nobody)()
    assert is_gone({"waitress.client_disconnected": lambda: True})()


def test_what_a_client_has_sent_ahead_is_left_to_be_read() -> None:
    here, there = socket.socketpair()
    with here:
        there.sendall(b"next request")
        assert not is_gone({"gunicorn.socket": here})()
        assert here.recv(100) == b"next request"
        there.close()
        assert is_gone({"gunicorn.socket": here})()
