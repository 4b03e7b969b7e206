"""A worker's settings."""

from pathlib import Path

import pytest

from genie import env
from genie.errors import SettingsError
from workers.settings import WorkerSettings


def test_the_address_is_all_a_joined_worker_needs(tmp_path: Path) -> None:
    environ = {
        "GENIE_URL": "https://genie.example",
        "GENIE_HOME": str(tmp_path),
        "GENIE_WORKER_NAME": "gpu-7",
    }
    settings = env.read(WorkerSettings, environ)
    assert settings.state_folder == tmp_path / "workers" / "gpu-7"
    assert settings.models_folder == tmp_path / "models"
    assert settings.threads >= 1
    assert settings.join_token is None


def test_the_models_may_lie_on_another_disk(tmp_path: Path) -> None:
    environ = {"GENIE_URL": "http://x", "GENIE_MODELS_DIR": str(tmp_path)}
    assert env.read(WorkerSettings, environ).models_folder == tmp_path


def test_every_wrong_variable_is_named_at_once() -> None:
    environ = {
        "GENIE_WORKER_NAME": "../up",
        "GENIE_MEMORY_RESERVE_SHARE": "1",
        "GENIE_THREADS": "0",
        "GENIE_SLOTS": "many",
    }
    with pytest.raises(SettingsError) as caught:
        env.read(WorkerSettings, environ)
    for name in (*environ, "GENIE_URL"):
        assert name in str(caught.value)


@pytest.mark.parametrize("value", ["x", "-0.1", "1.0", "nan"])
def test_a_reserve_is_a_share_below_one(value: str) -> None:
    environ = {"GENIE_URL": "http://x", "GENIE_MEMORY_RESERVE_SHARE": value}
    with pytest.raises(SettingsError, match="GENIE_MEMORY_RESERVE_SHARE"):
        env.read(WorkerSettings, environ)
