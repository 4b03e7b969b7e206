"""A dead message fails its job, is shown without text, and can be replayed."""

from dataclasses import replace
from datetime import timedelta

import pytest

from cloud_app import store
from cloud_app.jobs import dead_letters, lifecycle
from cloud_app.orgs import auth
from cloud_app.store.records import AuditRecord, JobRecord, KeyRecord
from fixtures.clouds import Cloud
from fixtures.letters import TwinDeadLetters, letter
from genie.contracts.inference import InferenceTask, JobState
from genie.errors import BrokerDown, Conflict, NotFound


@pytest.fixture
def dead(cloud: Cloud) -> TwinDeadLetters:
    """The cloud's dead-letter queues."""
    twin = cloud.ctx.bus.dead = TwinDeadLetters()
    return twin


@pytest.fixture
def key(cloud: Cloud) -> KeyRecord:
    """An admin key of acme."""
    return auth.create_key(cloud.ctx, "acme", "admin", True)[0]


def task_of(job: JobRecord) -> InferenceTask:
    assert job.task is not None
    return job.task


def die(cloud: Cloud, dead: TwinDeadLetters) -> JobRecord:
    """A job whose message died and was noticed."""
    job = cloud.job()
    dead.kept.append(letter(task_of(job)))
    assert dead_letters.bury(cloud.ctx).failed == 1
    return job


def audited(cloud: Cloud) -> list[AuditRecord]:
    with cloud.ctx.db.reading() as session:
        return [*store.orgs.audit(session, cloud.acme)]


def test_a_job_whose_message_died_fails_with_the_reason_and_the_letter_stays(
    cloud: Cloud, dead: TwinDeadLetters
) -> None:
    job = die(cloud, dead)
    done = cloud.reread(job)
    assert done.state is JobState.FAILED
    assert done.outcome.fault is not None
    assert done.outcome.fault.code == "dead_lettered"
    assert "could not read it" in done.outcome.fault.message
    assert len(dead.kept) == 1
    assert dead_letters.bury(cloud.ctx).failed == 0


def test_a_job_that_ended_otherwise_stays_as_it_ended(
    cloud: Cloud, dead: TwinDeadLetters
) -> None:
    job = cloud.job()
    dead.kept.append(letter(task_of(job)))
    cloud.finish(job)
    assert dead_letters.bury(cloud.ctx).failed == 0
    assert cloud.reread(job).state is JobState.COMPLETED


def test_letters_go_when_their_time_is_over(
    cloud: Cloud, dead: TwinDeadLetters
) -> None:
    die(cloud, dead)
    cloud.clock.forward(timedelta(hours=cloud.ctx.settings.retain_h).total_seconds())
    cloud.clock.forward(1)
    assert dead_letters.bury(cloud.ctx).discarded == 1
    assert dead.kept == []


def test_an_org_sees_its_own_letters_and_no_others(
    cloud: Cloud, dead: TwinDeadLetters
) -> None:
    task = task_of(cloud.job())
    own = letter(task)
    nobodys = replace(letter(task), org=None, id="x")
    dead.kept += [own, letter(task, org="other"), nobodys]
    dead.kept += [replace(own, queue="org.acme", org=None, id="y")]
    dead.kept += [replace(own, queue="org.other", id="z")]
    found = dead_letters.find(cloud.ctx, cloud.acme)
    assert [one.id for one in found] == [own.id, "y"]


def test_reading_the_text_is_written_down_and_a_look_is_not(
    cloud: Cloud, dead: TwinDeadLetters, key: KeyRecord
) -> None:
    job = die(cloud, dead)
    dead_letters.get(cloud.ctx, key, job.id, shows_text=False)
    before = len(audited(cloud))
    dead_letters.get(cloud.ctx, key, f"chatcmpl-{job.id}", shows_text=True)
    (row, *_), after = audited(cloud), len(audited(cloud))
    assert after == before + 1
    assert (row.action, row.subject) == ("dead_letter_read", job.id)
    assert row.actor == key.prefix


def test_a_replayed_job_runs_with_its_whole_time_and_ends_like_any_other(
    cloud: Cloud, dead: TwinDeadLetters, key: KeyRecord
) -> None:
    job = die(cloud, dead)
    cloud.clock.forward(3600)
    again = dead_letters.replay(cloud.ctx, key, job.id)
    assert (again.state, again.outcome.fault, again.attempts) == (
        JobState.QUEUED,
        None,
        0,
    )
    (task,) = cloud.bus.published
    assert task.deadline_at == cloud.ctx.now() + (job.deadline_at - job.created_at)
    assert (task.job_id, task.publication) == (job.id, 2)
    assert dead.kept == []
    assert cloud.finish(job)
    assert cloud.reread(job).state is JobState.COMPLETED
    assert audited(cloud)[0].action == "dead_letter_replayed"


def test_a_replay_while_the_broker_is_away_is_published_by_the_relay(
    cloud: Cloud, dead: TwinDeadLetters, key: KeyRecord
) -> None:
    job = die(cloud, dead)
    cloud.bus.fails = BrokerDown("away")
    dead_letters.replay(cloud.ctx, key, job.id)
    cloud.bus.fails = None
    cloud.clock.forward(60)
    assert lifecycle.relay(cloud.ctx) == 1
    assert [task.job_id for task in cloud.bus.published] == [job.id]


def test_what_did_not_end_by_its_letter_cannot_be_replayed(
    cloud: Cloud, dead: TwinDeadLetters, key: KeyRecord
) -> None:
    job = cloud.job()
    dead.kept.append(letter(task_of(job)))
    cloud.finish(job)
    with pytest.raises(Conflict, match="completed"):
        dead_letters.replay(cloud.ctx, key, job.id)
    assert len(dead.kept) == 1


def test_what_is_no_task_cannot_be_replayed_only_discarded(
    cloud: Cloud, dead: TwinDeadLetters, key: KeyRecord
) -> None:
    job = cloud.job()
    dead.kept.append(letter(task_of(job), body=b"{"))
    with pytest.raises(Conflict, match="discard"):
        dead_letters.replay(cloud.ctx, key, job.id)
    dead_letters.discard(cloud.ctx, key, job.id)
    assert dead.kept == []
    with pytest.raises(NotFound):
        dead_letters.discard(cloud.ctx, key, job.id)
