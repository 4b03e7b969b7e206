"""What the entry points of this installation say, and what is wrong with some."""

from collections.abc import Iterator
from importlib.metadata import EntryPoint

import pytest

from genie.contracts.fleet import EngineFacts
from workers.engine import registry
from workers.engine.errors import LoadFailed
from workers.engine.registry import GROUP, RegisteredEngine, engine_named


def unused(*_: object) -> object:
    raise AssertionError("nothing is loaded here")


GOOD = RegisteredEngine(facts=EngineFacts(name="good"), load=unused)  # type: ignore[arg-type]


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Three packages: one as it should be, one that is none, one that breaks."""
    here = __name__
    found = [
        EntryPoint("good", f"{here}:GOOD", GROUP),
        EntryPoint("other", f"{here}:GOOD", GROUP),
        EntryPoint("broken", "no_such_module:ENGINE", GROUP),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda: found)
    registry.registered.cache_clear()
    yield
    registry.registered.cache_clear()


def test_the_shipped_engines_are_registered_like_any_other() -> None:
    assert set(registry.registered()) >= {"transformers", "echo"}


@pytest.mark.usefixtures("points")
def test_an_entry_point_that_is_no_engine_takes_none_of_the_others_away() -> None:
    assert registry.registered() == {"good": GOOD}


def test_an_engine_that_is_not_installed_is_refused_with_those_that_are() -> None:
    with pytest.raises(
        LoadFailed, match="no engine 'vllm' is installed here, there is echo, t"
    ):
        engine_named("vllm")


def test_a_step_is_bounded_by_the_kind_of_device() -> None:
    transformers = engine_named("transformers")
    assert transformers.budget("cpu") < transformers.budget("cuda")
    assert engine_named("echo").budget("cpu") == registry.WHOLE_PROMPTS
