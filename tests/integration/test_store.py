"""What only a real PostgreSQL shows: concurrency between processes, and outages."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TypeVar

import pytest
from msgspec import structs
from psycopg import DataError

from cloud_app import store
from cloud_app.fleet import placement, registry
from cloud_app.jobs import lifecycle
from cloud_app.orgs import auth
from cloud_app.store.records import JobRecord, NewJob
from fixtures.clouds import NOON, Cloud, outcome, started
from fixtures.nodes import PostgresNode
from genie.contracts.inference import JobRequest, JobState, Outcome
from genie.errors import Conflict, DatabaseDown, Unauthorized

MANY = 8

T = TypeVar("T")


@pytest.fixture
def cloud(postgres: PostgresNode) -> Iterator[Cloud]:
    """A cloud on an empty PostgreSQL database."""
    postgres.start()
    made = Cloud(postgres.create_database())
    yield made
    made.close()


def test_a_job_reads_back_the_same_from_postgresql(cloud: Cloud) -> None:
    new = cloud.new_job(idempotency_key="k", prompt="NUL \0, ☃ and \ud7ff")
    job, created = lifecycle.accept(cloud.ctx, new)
    assert created
    assert cloud.reread(job) == job
    cloud.start(job, "a1")
    cloud.finish(job, "an answer with NUL \0")
    assert cloud.reread(job).outcome.text == "an answer with NUL \0"
    assert lifecycle.find(cloud.ctx, "acme", state=JobState.COMPLETED) == (
        cloud.reread(job),
    )
    cloud.clock.forward(24 * 3600 + 1)
    assert lifecycle.sweep(cloud.ctx).purged == 1
    assert cloud.reread(job).outcome.text is None


def test_concurrent_submits_under_one_key_make_one_job(cloud: Cloud) -> None:
    new = [cloud.new_job(idempotency_key="k") for _ in range(MANY)]
    answers = _at_once([partial(lifecycle.accept, cloud.ctx, n) for n in new])
    assert sum(created for _, created in answers) == 1
    assert len({job.id for job, _ in answers}) == 1


def test_of_many_jobs_recorded_at_once_those_that_are_new_are_counted(
    cloud: Cloud,
) -> None:
    new = [cloud.new_job(mode="batch") for _ in range(MANY)]
    with cloud.ctx.db.session() as session:
        assert store.jobs.insert_all(session, new[:2]) == 2
        assert store.jobs.insert_all(session, new) == MANY - 2
        assert store.jobs.insert_all(session, new[:1]) == 0
        ids = [one.task.job_id for one in new]
        assert set(store.jobs.still_open(session, ids)) == set(ids)


def test_concurrent_submits_of_other_bodies_conflict(cloud: Cloud) -> None:
    new = [cloud.new_job(idempotency_key="k", body=f"{n:064d}") for n in range(MANY)]

    def accept(number: int) -> str:
        try:
            lifecycle.accept(cloud.ctx, new[number])
        except Conflict:
            return "conflict"
        return "created"

    answers = _at_once([partial(accept, n) for n in range(MANY)])
    assert sorted(answers) == ["conflict"] * (MANY - 1) + ["created"]


def test_of_concurrent_outcomes_one_wins_and_the_rest_are_counted(
    cloud: Cloud,
) -> None:
    job = cloud.job()
    events: list[Outcome] = [outcome(job.id, text=f"answer {n}") for n in range(MANY)]
    won = _at_once([partial(lifecycle.apply, cloud.ctx, e) for e in events])
    assert sum(won) == 1
    done = cloud.reread(job)
    assert done.outcome.text == f"answer {won.index(True)}"
    assert done.dropped == MANY - 1


def test_two_brains_that_record_the_same_events_record_each_once(
    cloud: Cloud,
) -> None:
    made = [cloud.job() for _ in range(MANY)]
    starts = [started(job.id, "a1") for job in made]
    ends = [outcome(job.id, text="NUL \0") for job in made[: MANY // 2]]
    brains = [partial(lifecycle.record_batch, cloud.ctx, [*starts, *ends])] * 4
    left = [len(places) for places in _at_once(brains)]
    # Whoever comes later finds half of the jobs at their end: a start and an end each.
    assert sorted(left) == [0, MANY, MANY, MANY]
    done = [cloud.reread(job) for job in made]
    assert [job.attempts for job in done] == [1] * MANY
    assert [job.outcome.text for job in done] == ["NUL \0"] * (MANY // 2) + [None] * (
        MANY // 2
    )


def test_two_brains_do_not_publish_the_same_job(cloud: Cloud) -> None:
    for _ in range(20):
        cloud.job()
    cloud.clock.forward(6)
    _at_once([partial(lifecycle.relay, cloud.ctx) for _ in range(4)])
    published = [task.job_id for task in cloud.bus.published]
    assert len(published) == len(set(published)) == 20


def test_a_join_token_lets_one_of_many_in(cloud: Cloud) -> None:
    token = auth.create_join_token(cloud.ctx, "acme")

    def redeem() -> bool:
        try:
            with cloud.ctx.db.session() as session:
                auth.redeem(session, token, NOON)
        except Unauthorized:
            return False
        return True

    assert sum(_at_once([redeem for _ in range(MANY)])) == 1


def test_brains_that_plan_at_once_plan_once(cloud: Cloud) -> None:
    worker = cloud.join()
    _at_once([partial(placement.place, cloud.ctx) for _ in range(4)])
    assert cloud.bus.nudged == [worker.id]


def test_a_heartbeat_and_the_view_work_on_postgresql(cloud: Cloud) -> None:
    worker = cloud.join()
    placement.place(cloud.ctx)
    reply = cloud.beat(worker, 1)
    assert reply.desired[0].spec.id == "echo:small"
    cloud.clock.forward(301)
    assert registry.gather(cloud.ctx).transitions[0].worker.liveness == "lost"


def test_an_outage_is_told_at_once_and_over_without_a_restart(
    cloud: Cloud, postgres: PostgresNode
) -> None:
    job = cloud.job()
    postgres.stop()
    for call in _calls(cloud, job):
        with pytest.raises(DatabaseDown) as caught:
            call()
        assert caught.value.http_status == 503
    postgres.start()
    for call in _calls(cloud, job):
        call()
    assert cloud.finish(job)


def test_a_crash_loses_no_accepted_job(cloud: Cloud, postgres: PostgresNode) -> None:
    accepted: list[JobRecord] = []
    stop = threading.Event()

    def submit() -> None:
        while not stop.is_set():
            try:
                accepted.append(lifecycle.accept(cloud.ctx, cloud.new_job())[0])
            except DatabaseDown:
                stop.wait(0.05)

    threads = [threading.Thread(target=submit) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        _until(accepted, 20)
        postgres.kill()
        postgres.start()
        _until(accepted, len(accepted) + 5)
    stop.set()
    for thread in threads:
        thread.join(30)
    for job in accepted:
        assert cloud.reread(job).id == job.id


def test_a_transaction_cut_in_the_middle_leaves_nothing(
    cloud: Cloud, postgres: PostgresNode
) -> None:
    with pytest.raises(DatabaseDown), cloud.ctx.db.session() as session:
        store.orgs.insert(session, "globex", "Globex", NOON)
        postgres.kill()
    postgres.start()
    with cloud.ctx.db.reading() as session:
        assert store.orgs.by_slug(session, "globex") is None


def test_other_settings_of_the_same_cloud_share_nothing(cloud: Cloud) -> None:
    other = replace(cloud.ctx, db=store.Database(cloud.ctx.settings.database_url))
    cloud.join()
    assert len(registry.view(other).workers) == 1
    other.db.dispose()


def _calls(cloud: Cloud, job: JobRecord) -> tuple[Callable[[], object], ...]:
    return (
        cloud.ctx.db.ping,
        lambda: lifecycle.get(cloud.ctx, "acme", job.id),
        lambda: lifecycle.accept(cloud.ctx, cloud.new_job()),
        lambda: cloud.beat(cloud.join(), 1),
    )


def _at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(30) for future in [pool.submit(c) for c in calls]]


def _until(accepted: list[JobRecord], count: int) -> None:
    pause = threading.Event()
    for _ in range(600):
        if len(accepted) >= count:
            return
        pause.wait(0.05)
    raise TimeoutError(f"only {len(accepted)} jobs were accepted")


def test_a_row_written_the_short_way_is_the_row_of_the_usual_way(cloud: Cloud) -> None:
    labels = {"ünï": 'a "quoted" \\ ☃', "nul": "a\0b"}
    request = JobRequest(metadata=labels, substituted="echo:large")
    job = cloud.new_job(idempotency_key="k☃", prompt="NUL \0")
    made = replace(job, request=request, retain_h=0)
    rows = []
    for number, insert in enumerate((store.jobs.insert_alone, _the_usual_way)):
        task = structs.replace(made.task, job_id=store.ids.new_id(NOON))
        new = replace(made, task=task, idempotency_key=f"k☃{number}")
        assert insert(cloud.ctx.db, new)
        assert not insert(cloud.ctx.db, new)
        rows.append(lifecycle.get(cloud.ctx, "acme", task.job_id))
    short, usual = rows
    assert short.request.metadata == labels
    assert replace(short, id="", task=None, idempotency_key="") == replace(
        usual, id="", task=None, idempotency_key=""
    )


def _the_usual_way(db: store.Database, new: NewJob) -> bool:
    with db.session() as session:
        return store.jobs.insert_all(session, [new]) == 1


def test_a_nul_where_no_column_takes_one_is_refused_whole(cloud: Cloud) -> None:
    new = cloud.new_job(idempotency_key="cut\0here")
    with pytest.raises(DataError):
        store.jobs.insert_alone(cloud.ctx.db, new)


def test_a_rollback_on_the_same_connection_costs_no_row(cloud: Cloud) -> None:
    first = cloud.new_job()
    assert store.jobs.insert_alone(cloud.ctx.db, first)
    for _ in range(8):  # psycopg prepares what it sees often, and drops all of it
        with pytest.raises(ZeroDivisionError), cloud.ctx.db.session() as session:
            store.jobs.by_id(session, first.task.job_id)
            raise ZeroDivisionError
    assert store.jobs.insert_alone(cloud.ctx.db, cloud.new_job())
