"""The executions of a job that had more than one."""

from msgspec.structs import replace

from cloud_app import store
from cloud_app.jobs import lifecycle
from fixtures.clouds import Cloud, started


def attempts(cloud: Cloud, job_id: str) -> list[tuple[str, str, float]]:
    with cloud.ctx.db.reading() as session:
        found = store.transitions.attempts_of(session, job_id)
    began = cloud.clock.at
    return [
        (one.attempt_id, one.worker, (began - one.started_at).total_seconds())
        for one in found
    ]


def test_a_jobs_only_attempt_needs_no_row(cloud: Cloud) -> None:
    job = cloud.job()
    cloud.start(job, "a1")
    assert attempts(cloud, job.id) == []


def test_a_redelivered_job_keeps_every_attempt_with_its_worker(cloud: Cloud) -> None:
    job = cloud.job()
    cloud.start(job, "a1", "w1")
    for number, worker in ((2, "w2"), (3, "w3")):
        cloud.clock.forward(10)
        event = replace(started(job.id, f"a{number}", worker), redelivered=True)
        for _ in range(2):  # every event may come twice
            lifecycle.apply(cloud.ctx, event)
    assert attempts(cloud, job.id) == [
        ("a1", "host of w1", 20.0),
        ("a2", "host of w2", 10.0),
        ("a3", "host of w3", 0.0),
    ]
    assert cloud.reread(job).attempts == 3
