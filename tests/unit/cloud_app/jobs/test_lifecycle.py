"""Jobs: accepted once, ended once, whoever says what in which order."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from cloud_app import store
from cloud_app.brain.views import PlacementView
from cloud_app.jobs import lifecycle
from cloud_app.orgs import auth
from cloud_app.store.records import JobRecord, PlacementRecord
from fixtures.clouds import NOON, Cloud, Statements, outcome, started
from genie.contracts.inference import AttemptGivenBack, Fault, FinishReason, JobState
from genie.errors import BadRequest, BrokerDown, Conflict, UnknownJob

DOWN = BrokerDown("the broker is away; try again")


@pytest.fixture(scope="module")
def cloud_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """One cloud for all examples of a property."""
    made = Cloud(f"sqlite:///{tmp_path_factory.mktemp('jobs')}/genie.db")
    yield made
    made.close()


def test_an_accepted_job_reads_back_as_it_was_accepted(cloud: Cloud) -> None:
    new = cloud.new_job(prompt="a NUL \0 and a snowman ☃")
    job, created = lifecycle.accept(cloud.ctx, new)
    assert created
    assert cloud.reread(job) == job
    assert job.state is JobState.QUEUED
    assert job.task == new.task
    assert lifecycle.get(cloud.ctx, cloud.acme, f"chatcmpl-{job.id}") == job


def test_accepting_takes_one_statement(cloud: Cloud) -> None:
    new = cloud.new_job()
    with Statements() as statements:
        lifecycle.accept(cloud.ctx, new)
    assert len(statements.seen) == 1


def test_the_prompt_of_work_somebody_waits_for_is_not_stored(cloud: Cloud) -> None:
    job = cloud.job(mode="stream")
    assert job.task is None
    assert cloud.reread(job) == job


def test_the_same_key_and_body_give_the_same_job(cloud: Cloud) -> None:
    first, _ = lifecycle.accept(cloud.ctx, cloud.new_job(idempotency_key="k"))
    again, created = lifecycle.accept(cloud.ctx, cloud.new_job(idempotency_key="k"))
    assert (again, created) == (first, False)


def test_the_same_key_with_another_body_is_a_conflict(cloud: Cloud) -> None:
    cloud.job(idempotency_key="k")
    with pytest.raises(Conflict, match="send a new key") as caught:
        cloud.job(idempotency_key="k", body="1" * 64)
    assert caught.value.http_status == 409


def test_two_orgs_may_use_the_same_key(cloud: Cloud) -> None:
    cloud.job(idempotency_key="k")
    other = cloud.job(idempotency_key="k", org="globex", body="1" * 64)
    assert other.org == "globex"


@pytest.mark.parametrize("key", ["", "a\0", "x" * 256])
def test_an_idempotency_key_is_text_of_some_length(cloud: Cloud, key: str) -> None:
    with pytest.raises(BadRequest) as caught:
        cloud.job(idempotency_key=key)
    assert caught.value.param == "Idempotency-Key"


def test_another_orgs_job_is_an_unknown_job(cloud: Cloud) -> None:
    auth.ensure_org(cloud.ctx, "globex")
    job = cloud.job()
    for look in (lifecycle.get, lifecycle.cancel):
        with pytest.raises(UnknownJob, match="in this org"):
            look(cloud.ctx, "globex", job.id)
    assert lifecycle.find(cloud.ctx, "globex") == ()
    assert cloud.reread(job).state is JobState.QUEUED


def test_a_job_runs_and_completes(cloud: Cloud) -> None:
    job = cloud.job()
    cloud.clock.forward(1)
    assert cloud.start(job, "a1")
    cloud.clock.forward(2)
    assert cloud.finish(job, "the answer \0")
    done = cloud.reread(job)
    assert done.state is JobState.COMPLETED
    assert (done.outcome.text, done.worker, done.attempts) == (
        "the answer \0",
        "host of w1",
        1,
    )
    assert done.task is None
    assert done.outcome.usage is not None
    assert done.outcome.usage.completion_tokens == 2
    moments = (done.started_at, done.first_token_at, done.finished_at)
    assert [(at - NOON).total_seconds() for at in moments if at] == [1.0, 1.5, 3.0]


def test_an_outcome_that_overtook_its_start_still_ends_the_job(cloud: Cloud) -> None:
    job = cloud.job()
    assert cloud.finish(job)
    assert not cloud.start(job, "a1")
    done = cloud.reread(job)
    assert (done.state, done.attempts) == (JobState.COMPLETED, 1)


def test_a_worker_that_starts_an_ended_job_is_told_to_stop(cloud: Cloud) -> None:
    job = cloud.job()
    lifecycle.cancel(cloud.ctx, "acme", job.id)
    assert not cloud.start(job, "a1", "w9")
    assert cloud.bus.cancelled == [("w9", job.id)]


def test_the_first_outcome_wins_and_later_ones_are_counted(cloud: Cloud) -> None:
    job = cloud.job()
    assert cloud.finish(job, "first")
    assert not cloud.finish(job, "second")
    failed = outcome(job.id, text="third", state=JobState.FAILED)
    assert not lifecycle.apply(cloud.ctx, failed)
    done = cloud.reread(job)
    assert (done.outcome.text, done.state, done.dropped) == (
        "first",
        JobState.COMPLETED,
        2,
    )


@settings(max_examples=25)
@given(
    order=st.lists(
        st.sampled_from(["start", "finish", "fail", "cancel", "sweep"]), max_size=8
    )
)
def test_whatever_the_order_a_job_ends_once(
    cloud_of_module: Cloud, order: list[str]
) -> None:
    cloud = cloud_of_module
    job = cloud.job(deadline_s=-60)
    ended: JobState | None = None
    for number, step in enumerate(order):
        if step == "start":
            cloud.start(job, f"a{number}")
        elif step == "finish":
            cloud.finish(job)
        elif step == "fail":
            lifecycle.apply(cloud.ctx, outcome(job.id, state=JobState.FAILED))
        elif step == "cancel":
            lifecycle.cancel(cloud.ctx, "acme", job.id)
        else:
            lifecycle.sweep(cloud.ctx)
        state = cloud.reread(job).state
        assert ended in (None, state)
        ended = state if state.is_terminal else None


def test_an_attempt_told_twice_counts_once(cloud: Cloud) -> None:
    job = cloud.job()
    assert cloud.start(job, "a1")
    assert not cloud.start(job, "a1")
    assert cloud.reread(job).attempts == 1


def test_a_prompt_that_kills_its_engine_is_stopped_at_the_fourth_start(
    cloud: Cloud,
) -> None:
    job = cloud.job()
    for attempt in ("a1", "a2", "a3"):
        cloud.start(job, attempt)
        assert cloud.reread(job).state is JobState.RUNNING
    cloud.start(job, "a4", "w4")
    done = cloud.reread(job)
    assert done.state is JobState.FAILED
    assert done.outcome.fault is not None
    assert done.outcome.fault.code == "poison"
    assert cloud.bus.cancelled == [("w4", job.id)]


def given_back(job: JobRecord, attempt: str) -> AttemptGivenBack:
    return AttemptGivenBack(
        job_id=job.id, attempt_id=attempt, worker_id="w1", worker="ann", at=NOON
    )


def test_an_attempt_that_was_given_back_does_not_count(cloud: Cloud) -> None:
    job = cloud.job()
    for attempt in ("a1", "a2", "a3", "a4", "a5"):
        cloud.start(job, attempt)
        assert lifecycle.apply(cloud.ctx, given_back(job, attempt))
        assert not lifecycle.apply(cloud.ctx, given_back(job, attempt))
        waits = cloud.reread(job)
        assert (waits.state, waits.attempts) == (JobState.QUEUED, 0)
        assert waits.worker is None


def lost(job: JobRecord, attempt: str) -> AttemptGivenBack:
    return replace(given_back(job, attempt), goes_on=True)


def again(cloud: Cloud, job: JobRecord, attempt: str) -> bool:
    return lifecycle.apply(
        cloud.ctx, replace(started(job.id, attempt), redelivered=True)
    )


def test_an_attempt_whose_worker_lost_its_connection_still_runs(cloud: Cloud) -> None:
    job = cloud.job()
    cloud.start(job, "a1")
    assert lifecycle.apply(cloud.ctx, lost(job, "a1"))
    assert not lifecycle.apply(cloud.ctx, lost(job, "a1"))
    runs = cloud.reread(job)
    assert (runs.state, runs.worker_id) == (JobState.RUNNING, "w1")
    assert cloud.finish(job)


@settings(max_examples=200)
@given(
    ends=st.lists(
        st.sampled_from(["death", "lost", "lost, said late", "back", "lost and back"]),
        max_size=14,
    )
)
def test_only_attempts_nobody_accounts_for_make_a_job_poison(
    cloud_of_module: Cloud, ends: list[str]
) -> None:
    cloud = cloud_of_module
    job, deaths = cloud.job(), 0
    late: list[AttemptGivenBack] = []
    for number, end in enumerate(ends):
        assert again(cloud, job, f"a{number}")
        if cloud.reread(job).state is JobState.FAILED:
            break
        for event in late:  # its worker noticed only after the next one had begun
            lifecycle.apply(cloud.ctx, event)
        late.clear()
        deaths += end == "death"
        if end.startswith("lost"):
            said = lost(job, f"a{number}")
            late.append(said) if "late" in end else lifecycle.apply(cloud.ctx, said)
        if end.endswith("back"):
            lifecycle.apply(cloud.ctx, given_back(job, f"a{number}"))
    else:
        assert deaths + len(late) <= 3
        again(cloud, job, "last")
    is_poison = cloud.reread(job).state is JobState.FAILED
    # One said late is one too many until it is said, never for good.
    assert is_poison == (deaths + len(late) >= 3)


def test_a_job_replayed_counts_from_the_start(cloud: Cloud) -> None:
    job = cloud.job()
    for attempt in ("a1", "a2", "a3", "a4"):
        again(cloud, job, attempt)
        lifecycle.apply(cloud.ctx, lost(job, attempt))
    lifecycle.apply(cloud.ctx, outcome(job.id, state=JobState.FAILED))
    job = cloud.reread(job)
    assert job.task is not None
    with cloud.ctx.db.session() as session:
        assert store.transitions.lost_attempts(session, job.id) == 4
        assert store.transitions.reopen(session, job, job.task)
        assert store.transitions.lost_attempts(session, job.id) == 0


def test_an_older_attempt_given_back_late_changes_nothing(cloud: Cloud) -> None:
    job = cloud.job()
    cloud.start(job, "a1")
    cloud.start(job, "a2")
    assert not lifecycle.apply(cloud.ctx, given_back(job, "a1"))
    assert cloud.reread(job).state is JobState.RUNNING


def test_an_outcome_that_ends_nothing_is_dropped(cloud: Cloud) -> None:
    job = cloud.job()
    assert not lifecycle.apply(cloud.ctx, outcome(job.id, state=JobState.RUNNING))
    assert cloud.reread(job).state is JobState.QUEUED


@pytest.mark.parametrize("job_id", ["", "nothing", "a\0", "0" * 26])
def test_an_event_of_no_job_changes_nothing(cloud: Cloud, job_id: str) -> None:
    assert not lifecycle.apply(cloud.ctx, started(job_id, "a1"))
    assert not lifecycle.apply(cloud.ctx, outcome(job_id))


def test_names_a_hostile_worker_sends_can_be_stored(cloud: Cloud) -> None:
    job = cloud.job()
    assert cloud.start(job, "a\0" * 500, "w\0")
    assert cloud.reread(job).worker_id == "w"


def test_cancelling_tells_the_worker_that_runs_it(cloud: Cloud) -> None:
    job = cloud.job()
    cloud.start(job, "a1", "w7")
    done = lifecycle.cancel(cloud.ctx, "acme", f"cmpl-{job.id}")
    assert done.state is JobState.CANCELLED
    assert done.outcome.finish_reason == FinishReason.CANCELLED
    assert cloud.bus.cancelled == [("w7", job.id)]


def test_cancelling_queued_work_tells_every_worker_that_may_take_it(
    cloud: Cloud,
) -> None:
    near, far = cloud.join("near"), cloud.join("far", queues=("org.acme",))
    for worker in (near, far):
        _hold(cloud, worker.id)
    job = cloud.job()
    lifecycle.cancel(cloud.ctx, cloud.acme, job.id)
    assert cloud.bus.cancelled == [(near.id, job.id)]


def test_cancelling_twice_or_too_late_changes_nothing(cloud: Cloud) -> None:
    job = cloud.job()
    cloud.finish(job)
    assert lifecycle.cancel(cloud.ctx, "acme", job.id) == cloud.reread(job)
    assert cloud.bus.cancelled == []


def test_a_broker_that_is_away_does_not_stop_a_cancel(cloud: Cloud) -> None:
    job = cloud.job()
    cloud.start(job, "a1")
    cloud.bus.fails = DOWN
    assert lifecycle.cancel(cloud.ctx, "acme", job.id).state is JobState.CANCELLED


def test_a_job_that_could_not_be_published_failed(cloud: Cloud) -> None:
    job = cloud.job()
    lifecycle.refuse(
        cloud.ctx, job.id, Fault(code="not_published", message="ask again")
    )
    done = cloud.reread(job)
    assert (done.state, done.outcome.finish_reason) == (
        JobState.FAILED,
        FinishReason.ERROR,
    )


def test_jobs_are_found_newest_first_page_by_page(cloud: Cloud) -> None:
    made = []
    for _ in range(5):
        cloud.clock.forward(1)
        made.append(cloud.job().id)
    made.reverse()
    first = lifecycle.find(cloud.ctx, "acme", limit=2)
    assert [job.id for job in first] == made[:2]
    rest = lifecycle.find(cloud.ctx, cloud.acme, after=first[-1].id)
    assert [job.id for job in rest] == made[2:]
    assert {job.task for job in rest} == {None}


def test_a_listing_takes_one_statement(cloud: Cloud) -> None:
    for _ in range(5):
        cloud.job()
    with Statements() as statements:
        lifecycle.find(cloud.ctx, "acme")
    assert len(statements.seen) == 1


def test_jobs_are_found_by_what_is_known_of_them(cloud: Cloud) -> None:
    old = cloud.job()
    cloud.clock.forward(60)
    new = cloud.job(model="echo:large")
    cloud.start(new, "a1", "w2")

    def ids(**wanted: object) -> list[str]:
        return [job.id for job in lifecycle.find(cloud.ctx, "acme", **wanted)]  # type: ignore[arg-type]  # a test names what find takes

    assert ids(state=JobState.RUNNING) == [new.id]
    assert ids(model="echo:small") == [old.id]
    assert ids(persona="chat") == [new.id, old.id]
    assert ids(persona="review") == []
    assert ids(worker="w2") == ids(worker="host of w2") == [new.id]
    assert ids(since=cloud.clock.at) == [new.id]


def test_a_job_past_its_deadline_and_grace_is_timed_out(cloud: Cloud) -> None:
    waiting, running = cloud.job(deadline_s=10), cloud.job(deadline_s=10)
    cloud.start(running, "a1", "w3")
    later = cloud.job(deadline_s=100)
    cloud.clock.forward(39)
    assert lifecycle.sweep(cloud.ctx).timed_out == 0
    cloud.clock.forward(2)
    assert lifecycle.sweep(cloud.ctx).timed_out == 2
    for job in (waiting, running):
        done = cloud.reread(job)
        assert done.state is JobState.TIMEOUT
        assert done.outcome.fault is not None
        assert done.outcome.fault.code == "job_timeout"
        assert done.task is not None  # it may be retried
    assert cloud.bus.cancelled == [("w3", running.id)]
    assert cloud.reread(later).state is JobState.QUEUED


def test_texts_are_forgotten_after_their_retention(cloud: Cloud) -> None:
    job = cloud.job()
    cloud.finish(job, "secret")
    cloud.clock.forward(24 * 3600)
    assert lifecycle.sweep(cloud.ctx).purged == 0
    cloud.clock.forward(1)
    assert lifecycle.sweep(cloud.ctx).purged == 1
    assert lifecycle.sweep(cloud.ctx).purged == 0
    done = cloud.reread(job)
    assert (done.outcome.text, done.state) == (None, JobState.COMPLETED)


def _hold(cloud: Cloud, worker_id: str) -> None:
    view = PlacementView(
        model="echo:small", quant="none", slots=4, context=2048, since=NOON, reason="x"
    )
    record = PlacementRecord(
        worker_id=worker_id,
        model=view.model,
        quant=view.quant,
        slots=view.slots,
        context=view.context,
        reason=view.reason,
        since=view.since,
    )
    with cloud.ctx.db.session() as session:
        store.placements.write(session, record)
