"""Accepted work the broker has not confirmed is published again."""

import pytest

from cloud_app.jobs import lifecycle
from fixtures.clouds import Cloud
from genie.contracts.inference import JobState
from genie.errors import BrokerDown, TooLarge

DOWN = BrokerDown("the broker is away; try again")


def test_only_unconfirmed_async_jobs_are_published_again(cloud: Cloud) -> None:
    lost = cloud.job()
    lifecycle.mark_confirmed(cloud.ctx, cloud.job().id)
    cloud.job(mode="sync")
    cloud.start(cloud.job(), "a1")
    lifecycle.cancel(cloud.ctx, "acme", cloud.job().id)
    assert lifecycle.relay(cloud.ctx) == 0
    cloud.clock.forward(6)
    assert lifecycle.relay(cloud.ctx) == 1
    assert [task.job_id for task in cloud.bus.published] == [lost.id]
    assert cloud.bus.published[0].publication == 2
    assert cloud.reread(lost).confirmed_at == cloud.clock.at
    cloud.clock.forward(60)
    assert lifecycle.relay(cloud.ctx) == 0


def test_what_is_past_its_deadline_is_not_published_any_more(cloud: Cloud) -> None:
    job = cloud.job(deadline_s=30)
    cloud.clock.forward(31)
    lifecycle.relay(cloud.ctx)
    assert cloud.bus.published == []
    assert cloud.reread(job).state is JobState.TIMEOUT


def test_what_the_broker_did_not_take_is_relayed_when_it_is_back(cloud: Cloud) -> None:
    job = cloud.job()
    cloud.clock.forward(6)
    cloud.bus.fails = DOWN
    assert lifecycle.relay(cloud.ctx) == 0
    cloud.bus.fails = None
    assert lifecycle.relay(cloud.ctx) == 0  # claimed a moment ago
    cloud.clock.forward(16)
    assert lifecycle.relay(cloud.ctx) == 1
    assert cloud.reread(job).confirmed_at is not None


def test_all_that_waits_is_relayed_at_once_in_rounds(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "RELAY_LIMIT", 2)
    for _ in range(5):
        cloud.job()
    cloud.clock.forward(6)
    assert lifecycle.relay(cloud.ctx) == 5
    assert len(cloud.bus.published) == 5


def test_a_task_no_broker_will_ever_take_fails(cloud: Cloud) -> None:
    job = cloud.job()
    cloud.clock.forward(6)
    cloud.bus.fails = TooLarge("the message has 9 bytes and the limit is 8; send less")
    lifecycle.relay(cloud.ctx)
    done = cloud.reread(job)
    assert done.state is JobState.FAILED
    assert done.outcome.fault is not None
    assert done.outcome.fault.code == "message_too_large"


def test_after_an_embedded_restart_async_work_is_queued_again(cloud: Cloud) -> None:
    queued, waited = cloud.job(), cloud.job(mode="sync")
    lifecycle.mark_confirmed(cloud.ctx, queued.id)
    cloud.start(queued, "a1")
    done = cloud.job()
    cloud.finish(done)
    assert lifecycle.reopen(cloud.ctx) == 2
    assert cloud.reread(queued).state is JobState.QUEUED
    assert cloud.reread(waited).state is JobState.FAILED
    assert cloud.reread(done).state is JobState.COMPLETED
    cloud.clock.forward(6)
    assert lifecycle.relay(cloud.ctx) == 1
