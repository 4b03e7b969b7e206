"""A child that warms up while nobody waits, and is given back when room is short."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures.engines import (
    QUIET,
    Heard,
    asking,
    echo_spec,
    is_alive,
    pid_of,
    wait_until,
    wanted,
)
from genie.contracts.model import ModelSpec
from workers.engine.errors import LoadFailed
from workers.engine.parent import starter as warm_child
from workers.engine.parent.process import ChildEnvironment, EngineProcess
from workers.engine.parent.starter import EngineStarter
from workers.engine.protocol import LoadedEngine

Make = Callable[..., Any]
HERE = ChildEnvironment("", 1)


@pytest.fixture
def starter() -> Iterator[EngineStarter]:
    made = EngineStarter()
    yield made
    made.close()


@pytest.fixture
def load(starter: EngineStarter, tiny: Make) -> Iterator[Callable[..., LoadedEngine]]:
    loaded: list[LoadedEngine] = []

    def make(spec: ModelSpec | None = None) -> LoadedEngine:
        model = tiny()
        path = model.path if spec is None else None
        one = starter(
            wanted(
                spec or model.spec(),
                quant=model.quant(),
                path=path,
                slots=2,
                context=128,
            ),
            QUIET,
        )
        loaded.append(one)
        return one

    yield make
    for one in loaded:
        one.engine.close()


def kept(starter: EngineStarter) -> EngineProcess:
    """The spare, spawned."""
    found = starter._spare
    assert found is not None
    assert wait_until(lambda: found.pid != 0)
    return found


def test_the_next_model_starts_in_the_warm_child(
    starter: EngineStarter, load: Make
) -> None:
    starter._prepare(HERE, "transformers")
    spare = kept(starter)
    assert wait_until(lambda: starter.held_bytes() > 100_000_000)
    loaded = load()
    assert pid_of(loaded) == spare.pid
    heard = Heard()
    loaded.engine.submit(asking("r", "x"), heard)
    assert heard.finish.fault is None
    # The kernel ends it before the worker when memory runs out.
    score = Path(f"/proc/{spare.pid}/oom_score_adj").read_text()
    own = Path(f"/proc/{os.getpid()}/oom_score_adj").read_text()
    assert int(score) >= max(500, int(own))
    assert kept(starter).pid != spare.pid


def test_a_load_that_is_refused_does_not_cost_the_warm_child(
    starter: EngineStarter, tiny: Make
) -> None:
    starter._prepare(HERE, "transformers")
    spare = kept(starter)
    with pytest.raises(LoadFailed, match="slots"):
        starter(wanted(tiny().spec(), path=tiny().path, slots=0), QUIET)
    assert kept(starter) is spare


def test_a_child_for_other_devices_is_replaced(starter: EngineStarter) -> None:
    starter._prepare(HERE, "transformers")
    spare = kept(starter)
    assert starter._take(ChildEnvironment("0", 1), "transformers") is None
    starter._prepare(ChildEnvironment("", 2), "transformers")
    assert kept(starter).site == ChildEnvironment("", 2)
    assert wait_until(lambda: not is_alive(spare.pid))


def test_a_child_of_another_engine_is_replaced(starter: EngineStarter) -> None:
    starter._prepare(HERE, "transformers")
    spare = kept(starter)
    assert starter._take(HERE, "echo") is None
    starter._prepare(HERE, "echo")
    assert kept(starter).warms == "echo"
    assert wait_until(lambda: not is_alive(spare.pid))


def test_a_child_that_is_there_already_is_kept(starter: EngineStarter) -> None:
    starter._prepare(HERE, "transformers")
    spare = kept(starter)
    starter._prepare(HERE, "transformers")
    assert kept(starter) is spare


def test_a_dead_child_is_not_taken(starter: EngineStarter) -> None:
    starter._prepare(HERE, "transformers")
    spare = kept(starter)
    os.kill(spare.pid, signal.SIGKILL)
    assert wait_until(lambda: not spare.is_alive)
    assert starter._take(HERE, "transformers") is None
    starter._prepare(HERE, "transformers")
    assert kept(starter) is not spare


def test_the_room_is_given_back_when_it_is_needed(starter: EngineStarter) -> None:
    starter._prepare(HERE, "transformers")
    spare = kept(starter)
    assert starter.give_back()
    assert wait_until(lambda: not is_alive(spare.pid))
    assert starter.held_bytes() == 0
    assert not starter.give_back()


def test_no_child_is_kept_when_memory_is_short(
    starter: EngineStarter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_child, "LEAST_BYTES", 2**62)
    starter._prepare(HERE, "transformers")
    assert starter._spare is None


def test_a_worker_can_do_without() -> None:
    starter = EngineStarter(keeps=False)
    starter._prepare(HERE, "transformers")
    assert starter._spare is None
    assert starter.held_bytes() == 0


def test_a_model_without_weights_leaves_no_child(
    starter: EngineStarter, load: Make
) -> None:
    load(echo_spec())
    assert starter._spare is None
