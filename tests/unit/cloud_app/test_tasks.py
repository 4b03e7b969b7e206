"""Tasks find their context, do their work, and wait when something is away."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import celery
import pytest
from structlog.testing import capture_logs

from cloud_app import context, store, tasks
from fixtures.clouds import Cloud
from genie import topology
from genie.contracts.fleet import ModelState, ModelStatus
from genie.errors import GenieError
from genie.messaging.tasks import make_celery

NAMES = (
    topology.TASK_GATHER,
    topology.TASK_PLACE,
    topology.TASK_RELAY,
    topology.TASK_SWEEP,
    topology.TASK_DRIVE,
    topology.TASK_BURY,
)


@pytest.fixture
def app() -> celery.Celery:
    """An app with the cloud's tasks."""
    made = make_celery("test", broker_url="memory://")
    tasks.register(made)
    return made


@pytest.fixture
def installed(cloud: Cloud) -> Iterator[Cloud]:
    """The cloud, as the one this process's tasks use."""
    before = list(context._installed)
    context.install(cloud.ctx)
    yield cloud
    context._installed[:] = before


def test_every_task_gives_no_result(app: celery.Celery, installed: Cloud) -> None:
    for name in NAMES:
        assert app.tasks[name]() is None
        assert app.tasks[name].ignore_result


def test_tasks_do_their_work(app: celery.Celery, installed: Cloud) -> None:
    worker = installed.join()
    app.tasks[topology.TASK_PLACE]()
    assert installed.bus.nudged == [worker.id]
    job = installed.job()
    installed.clock.forward(6)
    app.tasks[topology.TASK_RELAY]()
    assert [task.job_id for task in installed.bus.published] == [job.id]


def test_a_lost_worker_that_comes_back_unloads_nothing_only_to_load_it_again(
    app: celery.Celery, installed: Cloud
) -> None:
    worker, other = installed.join("lost"), installed.join("other")
    serving = _serving("echo:small")
    installed.beat(worker, 1, serving)
    installed.clock.forward(301)
    installed.beat(other, 1)
    app.tasks[topology.TASK_GATHER]()

    back = installed.known(worker)
    assert [it.spec.id for it in installed.beat(back, 2, serving).desired] == [
        "echo:small"
    ]
    app.tasks[topology.TASK_GATHER]()
    reply = installed.beat(installed.known(worker), 3, serving)
    (desired,) = reply.desired
    assert (desired.spec.id, desired.slots, desired.context) == (
        serving.model,
        serving.slots,
        serving.context,
    )
    assert reply.directives == ()


def test_a_lost_worker_whose_models_found_another_place_unloads_them(
    app: celery.Celery, installed: Cloud
) -> None:
    worker, other = installed.join("lost"), installed.join("other")
    serving = _serving("echo:small")
    installed.beat(worker, 1, serving)
    installed.clock.forward(301)
    installed.beat(other, 1)
    app.tasks[topology.TASK_GATHER]()
    app.tasks[topology.TASK_PLACE]()
    installed.beat(other, 2, serving)

    installed.beat(installed.known(worker), 2, serving)
    app.tasks[topology.TASK_GATHER]()
    assert installed.beat(installed.known(worker), 3, serving).desired == ()


def test_counts_are_logged_and_zeros_are_not(
    app: celery.Celery, installed: Cloud
) -> None:
    with capture_logs() as quiet:
        app.tasks[topology.TASK_SWEEP]()
    assert quiet == []
    installed.job(deadline_s=-60)
    with capture_logs() as logs:
        app.tasks[topology.TASK_SWEEP]()
    assert [(line["event"], line["timed_out"]) for line in logs] == [("task_done", 1)]


def test_a_task_waits_for_a_database_that_is_away(
    app: celery.Celery, installed: Cloud, tmp_path: Path
) -> None:
    away = store.Database(f"sqlite:///{tmp_path}/no-such-folder/genie.db")
    context.install(replace(installed.ctx, db=away))
    with capture_logs() as logs:
        for name in NAMES:
            app.tasks[name]()
    assert [(line["event"], line["task"]) for line in logs] == [
        ("task_waits", name) for name in NAMES
    ]


def test_without_a_context_a_task_says_how_to_start_the_process(
    app: celery.Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "_installed", [])
    with pytest.raises(GenieError, match="celery -A cloud_app worker"):
        app.tasks[topology.TASK_SWEEP]()


def test_every_task_runs_and_no_backlog_is_replayed(cloud: Cloud) -> None:
    entries = tasks.beat_schedule(cloud.ctx.settings)
    assert {entry["task"]: entry["schedule"] for entry in entries.values()} == {
        topology.TASK_GATHER: 10.0,
        topology.TASK_PLACE: 10.0,
        topology.TASK_RELAY: 5.0,
        topology.TASK_SWEEP: 30.0,
        topology.TASK_BURY: 10.0,
        topology.TASK_DRIVE: 1.0,
        topology.TASK_FIRE: 5.0,
        topology.TASK_TELL: 2.0,
        topology.TASK_TIDY: 3600.0,
    }
    for entry in entries.values():
        assert entry["options"]["expires"] == entry["schedule"]


def _serving(model: str) -> ModelStatus:
    return ModelStatus(
        model=model, quant="none", state=ModelState.READY, slots=4, context=2048
    )
