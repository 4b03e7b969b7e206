"""Whoever hangs up before the whole answer came has not asked for it any more."""

from collections.abc import Callable

import pytest
from flask import Flask

from cloud_app.bus import JobInbox
from cloud_app.jobs import stream, submit
from cloud_app.jobs.submit import SubmittedJob
from cloud_app.web.request import has_hung_up
from fixtures.clouds import Cloud
from genie.contracts.inference import JobState, Outcome
from genie.errors import JobCancelled

HUNG_UP = {"waitress.client_disconnected": lambda: True}


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


def test_who_reads_a_job_again_and_hangs_up_takes_it_from_nobody(cloud: Cloud) -> None:
    job = cloud.job(mode="sync")
    again = SubmittedJob(job=job, replayed=True, inbox=None)
    with pytest.raises(JobCancelled, match="hung up"):
        submit.collect(cloud.ctx, again, gone_after(1))
    assert cloud.reread(job).state is JobState.QUEUED


def test_a_server_that_cannot_tell_says_that_everybody_is_there() -> None:
    app = Flask("any")
    with app.test_request_context():
        assert not has_hung_up()()
    with app.test_request_context(environ_base=HUNG_UP):
        assert has_hung_up()()
