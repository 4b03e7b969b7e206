"""How long prompts and answers are kept."""

from dataclasses import replace

import pytest

from cloud_app import store
from cloud_app.jobs import lifecycle
from cloud_app.store.records import JobRecord
from fixtures.clouds import Cloud, outcome
from genie.contracts.inference import JobState

HOUR = 3600


def accepted(cloud: Cloud, mode: str, retain_h: int | None) -> JobRecord:
    new = replace(cloud.new_job(mode=mode), retain_h=retain_h)
    return lifecycle.accept(cloud.ctx, new)[0]


def swept(cloud: Cloud, job: JobRecord, hours: float) -> JobRecord:
    cloud.clock.forward(hours * HOUR)
    lifecycle.sweep(cloud.ctx)
    return cloud.reread(job)


@pytest.mark.parametrize(("retain_h", "kept_h"), [(None, 24), (2, 2), (900, 24)])
def test_an_answer_is_kept_as_long_as_its_org_and_request_say(
    cloud: Cloud, retain_h: int | None, kept_h: int
) -> None:
    job = accepted(cloud, "async", retain_h)
    cloud.finish(job)
    assert swept(cloud, job, kept_h - 0.1).outcome.text == "one two"
    assert swept(cloud, job, 0.2).outcome.text is None


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
def test_the_prompt_of_a_job_that_did_not_complete_is_kept_to_be_retried(
    cloud: Cloud, state: JobState
) -> None:
    job = accepted(cloud, "async", None)
    lifecycle.apply(cloud.ctx, outcome(job.id, state=state))
    assert cloud.reread(job).task == job.task
    assert swept(cloud, job, 25).task is None


def test_a_prompt_that_is_not_to_be_kept_goes_with_the_end(cloud: Cloud) -> None:
    job = accepted(cloud, "async", 0)
    assert job.task is not None
    lifecycle.apply(cloud.ctx, outcome(job.id, state=JobState.FAILED))
    assert cloud.reread(job).task is None


def test_an_answer_that_is_not_to_be_kept_goes_after_its_delivery(
    cloud: Cloud,
) -> None:
    job = accepted(cloud, "async", 0)
    cloud.finish(job)
    assert swept(cloud, job, 1).outcome.text == "one two"  # nobody has it yet
    lifecycle.mark_delivered(cloud.ctx, cloud.reread(job))
    assert (
        swept(cloud, job, 0).outcome.text == "one two"
    )  # the answer may have been lost
    assert swept(cloud, job, 61 / HOUR).outcome.text is None


def test_an_answer_nobody_fetches_goes_after_the_longest_time(cloud: Cloud) -> None:
    job = accepted(cloud, "async", 0)
    cloud.finish(job)
    assert swept(cloud, job, 24.1).outcome.text is None


def test_an_answer_somebody_waited_for_was_delivered_at_its_end(cloud: Cloud) -> None:
    job = accepted(cloud, "sync", 0)
    cloud.finish(job)
    assert swept(cloud, job, 59 / HOUR).outcome.text == "one two"
    assert swept(cloud, job, 2 / HOUR).outcome.text is None


def test_only_an_ended_job_is_delivered_and_only_once(cloud: Cloud) -> None:
    job = accepted(cloud, "async", 0)
    lifecycle.mark_delivered(cloud.ctx, job)
    cloud.finish(job)
    assert swept(cloud, job, 1).outcome.text == "one two"
    with cloud.ctx.db.session() as session:
        store.backlog.delivered(session, job.id, cloud.clock.at)
    cloud.clock.forward(59)
    lifecycle.mark_delivered(cloud.ctx, cloud.reread(job))
    assert swept(cloud, job, 2 / HOUR).outcome.text is None
