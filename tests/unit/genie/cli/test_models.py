"""How many requests fit where, as the command shows it."""

import json
from collections.abc import Callable

import pytest
from click.testing import Result

from fixtures.twin_cloud import TwinCloud
from genie import memory
from genie.cli import models
from genie.memory import MemoryPool

Run = Callable[..., Result]
GIB = 1024**3
WORKERS = {
    "data": [
        {
            "id": "w1",
            "name": "atlas",
            "gpus": [
                {
                    "name": "H100",
                    "index": 0,
                    "memory_total_bytes": 80 * GIB,
                    "memory_used_bytes": 50 * GIB,
                }
            ],
            "host": {"memory_available_bytes": 8 * GIB},
        }
    ]
}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    places = [MemoryPool(name="cpu", kind="cpu", free_bytes=4 * GIB)]
    monkeypatch.setattr(models, "places_here", lambda: places)


@pytest.mark.usefixtures("here")
def test_fit_shows_the_arithmetic_of_this_machine(run: Run) -> None:
    done = run("models", "fit", "smollm2:135m", "--json")
    short, whole = json.loads(done.stdout)
    assert (short["context"], whole["context"]) == (2048, 8192)
    assert short["slots"] > whole["slots"] > 0
    parts = ("weights_bytes", "kv_bytes", "overhead_bytes")
    assert sum(whole[part] for part in parts) == whole["total_bytes"] <= 4 * GIB
    table = run("models", "fit", "smollm2:135m", "--context", "512", terminal=True)
    assert "kv cache" in table.stdout
    assert "512" in table.stdout


@pytest.mark.usefixtures("here")
def test_fit_says_when_no_device_suits(run: Run) -> None:
    done = run("models", "fit", "qwen3:32b")
    assert done.exit_code == 0
    assert "cuda only" in done.stderr


def test_fit_shows_the_workers_of_the_fleet(run: Run, cloud: TwinCloud) -> None:
    cloud.replies = {"GET /v1/workers": WORKERS}
    done = run("models", "fit", "qwen3:8b", "--fleet", "--json")
    found = json.loads(done.stdout)
    assert {one["place"] for one in found} == {"atlas cuda:0"}
    assert found[0]["free_bytes"] == 30 * GIB
    assert 0 < found[0]["slots"] < memory.SLOTS_MAX


def test_fit_of_an_unknown_model_names_a_near_one(run: Run) -> None:
    done = run("models", "fit", "smollm2:136m")
    assert done.exit_code != 0
    assert "smollm2:135m" in done.stderr
