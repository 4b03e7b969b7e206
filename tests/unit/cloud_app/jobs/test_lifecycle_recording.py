"""Events recorded together end where events recorded one by one end."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_app.jobs import lifecycle
from cloud_app.store.records import JobRecord
from fixtures.clouds import Cloud, Statements, outcome, started
from genie.contracts.inference import AttemptGivenBack, JobState, RecordedEvent


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cloud, Cloud]]:
    """Two clouds for all examples of a property."""
    folder = tmp_path_factory.mktemp("recording")
    both = Cloud(f"sqlite:///{folder}/one.db"), Cloud(f"sqlite:///{folder}/other.db")
    yield both
    for one in both:
        one.close()


def test_many_jobs_that_start_and_end_take_two_statements(cloud: Cloud) -> None:
    made = [cloud.job() for _ in range(20)]
    events: list[RecordedEvent] = []
    for job in made:
        events += [started(job.id, "a1"), outcome(job.id, text="an answer \0")]
    with Statements() as statements:
        assert lifecycle.record_batch(cloud.ctx, events) == []
    assert len(statements.seen) == 2
    for job in made:
        done = cloud.reread(job)
        assert (done.state, done.outcome.text) == (JobState.COMPLETED, "an answer \0")
        assert (done.attempts, done.worker, done.task) == (1, "host of w1", None)
        moments = (done.started_at, done.first_token_at, done.finished_at)
        now = cloud.clock.at
        assert moments == (
            now - timedelta(seconds=2),
            now - timedelta(seconds=1.5),
            now,
        )


def test_what_is_not_plain_is_left_to_be_told_one_by_one(cloud: Cloud) -> None:
    plain, twice, failed, ended = (cloud.job() for _ in range(4))
    cloud.finish(ended)
    events: list[RecordedEvent] = [
        started(plain.id, "a1"),
        msgspec.structs.replace(started(twice.id, "a1"), redelivered=True),
        outcome(failed.id, state=JobState.FAILED),
        outcome(ended.id),
        outcome("no such job \0"),
        outcome(plain.id),
    ]
    assert lifecycle.record_batch(cloud.ctx, events) == [1, 2, 3, 4]
    assert cloud.reread(plain).state is JobState.COMPLETED
    assert cloud.reread(twice).state is JobState.QUEUED


def test_an_event_told_twice_counts_once(cloud: Cloud) -> None:
    made = [cloud.job(), cloud.job()]
    for _ in range(2):
        starts = [started(job.id, "a1") for job in made]
        assert lifecycle.record_batch(cloud.ctx, starts) == []
    assert [cloud.reread(job).attempts for job in made] == [1, 1]


def test_the_end_of_a_single_job_takes_one_statement(cloud: Cloud) -> None:
    job = cloud.job()
    with Statements() as statements:
        assert lifecycle.record_batch(cloud.ctx, [outcome(job.id)]) == ()
    assert len(statements.seen) == 1
    assert cloud.reread(job).state is JobState.COMPLETED
    assert lifecycle.record_batch(cloud.ctx, [outcome(job.id)]) == (0,)


@settings(max_examples=60)
@given(
    said=st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from(["start", "again", "finish", "fail", "give_back"]),
            st.sampled_from(["a1", "a2"]),
        ),
        max_size=9,
    ),
    size=st.integers(1, 5),
)
def test_together_ends_where_one_by_one_ends(
    clouds: tuple[Cloud, Cloud], said: list[tuple[int, str, str]], size: int
) -> None:
    ends = []
    for number, cloud in enumerate(clouds):
        made = [cloud.job() for _ in range(3)]
        events = [_event(made[at].id, kind, attempt) for at, kind, attempt in said]
        if number == 0:
            for event in events:
                lifecycle.apply(cloud.ctx, event)
        for at in range(0, len(events), size) if number else ():
            _record(cloud, events[at : at + size])
        ends.append([_comparable(cloud.reread(job)) for job in made])
    assert ends[0] == ends[1]


def _record(cloud: Cloud, events: Sequence[RecordedEvent]) -> None:
    for place in lifecycle.record_batch(cloud.ctx, events):
        lifecycle.apply(cloud.ctx, events[place])


def _event(job_id: str, kind: str, attempt: str) -> RecordedEvent:
    if kind == "finish":
        return msgspec.structs.replace(outcome(job_id), attempt_id=attempt)
    if kind == "fail":
        return outcome(job_id, state=JobState.FAILED)
    start = started(job_id, attempt)
    if kind != "give_back":
        return msgspec.structs.replace(start, redelivered=kind == "again")
    return AttemptGivenBack(
        job_id=job_id, attempt_id=attempt, worker_id="w1", worker="w", at=start.at
    )


def _comparable(job: JobRecord) -> JobRecord:
    """Without what differs between two jobs, and without when it began: of a start and
    an end told at once, the worker's own measure is kept."""
    return replace(
        job,
        id="",
        key_id="",
        task=None,
        started_at=None,
    )
