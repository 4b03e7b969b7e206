"""The brain's Celery app reads its settings when the process starts."""

import importlib
import ssl
from dataclasses import replace

import pytest
from celery.app.utils import find_app
from structlog.testing import capture_logs

from cloud_app import celery as brain
from cloud_app import context
from fixtures.clouds import Cloud
from genie import topology


def test_celery_finds_the_app_by_the_packages_name() -> None:
    assert find_app("cloud_app") is brain.app


def test_importing_without_settings_is_fine_and_starting_names_them_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("GENIE_DATABASE_URL", "GENIE_BROKER_URL", "GENIE_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
    fresh = importlib.reload(brain)
    with pytest.raises(SystemExit) as ended:
        _ = fresh.app.conf.broker_url
    for name in ("GENIE_DATABASE_URL", "GENIE_BROKER_URL", "GENIE_SECRET_KEY"):
        assert name in str(ended.value)


def test_the_process_runs_threads_on_the_brains_queue(cloud: Cloud) -> None:
    app = brain.make_app(lambda: cloud.ctx.settings)
    assert app.conf.worker_pool == "threads"
    assert [queue.name for queue in app.conf.task_queues] == [topology.BRAIN]
    assert app.conf.task_default_queue == topology.BRAIN
    assert app.conf.broker_url == "memory://"
    assert topology.TASK_PLACE in app.conf.beat_schedule
    assert app.conf.beat_scheduler == "celery.beat:Scheduler"


def test_a_brain_starts_and_stops_its_context_and_outcomes(cloud: Cloud) -> None:
    app = brain.make_app(lambda: cloud.ctx.settings)
    (kind,) = (step for step in app.steps["worker"] if issubclass(step, brain.Brain))
    step = kind(None)
    before = list(context._installed)
    try:
        step.start(None)
        assert context.current().settings == cloud.ctx.settings
        step.stop(None)
        step.terminate(None)
    finally:
        context._installed[:] = before


def test_a_brain_refuses_an_old_schema_with_the_command(
    cloud: Cloud, tmp_path: object
) -> None:
    old = replace(cloud.ctx.settings, database_url=f"sqlite:///{tmp_path}/old.db")
    app = brain.make_app(lambda: old)
    (kind,) = (step for step in app.steps["worker"] if issubclass(step, brain.Brain))
    step = kind(None)
    with capture_logs() as said, pytest.raises(SystemExit) as ended:
        step.start(None)
    step.stop(None)
    assert ended.value.code == 1
    assert "run `genie db upgrade`" in said[0]["reason"]


def test_celery_checks_the_brokers_certificate_as_everybody_does(cloud: Cloud) -> None:
    settings = replace(cloud.ctx.settings, broker_url="amqps://rabbit.example//")
    app = brain.make_app(lambda: settings)
    opened = app.connection_for_write()
    assert opened.ssl["server_hostname"] == "rabbit.example"
    assert opened.ssl["cert_reqs"] is ssl.CERT_REQUIRED
