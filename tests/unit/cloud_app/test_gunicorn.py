from pathlib import Path

import pytest
from gunicorn.config import Config


def test_gunicorn_takes_every_setting_and_serves_as_many_threads_as_we_say(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GENIE_DATABASE_URL", f"sqlite:///{tmp_path / 'genie.db'}")
    monkeypatch.setenv("GENIE_BROKER_URL", "memory://")
    monkeypatch.setenv("GENIE_SECRET_KEY", "a secret of tests alone")
    monkeypatch.setenv("GENIE_WEB_THREADS", "99")

    from cloud_app import gunicorn as ours

    config = Config()
    for name, value in vars(ours).items():
        if name in config.settings:
            config.set(name, value)

    assert config.worker_class_str == "gthread"
    assert config.threads == 99
    assert config.workers == 1
    assert config.control_socket_disable
    assert not config.preload_app
