"""How far a worker is with what it was told."""

import pytest

from genie.contracts.fleet import Directive, DirectiveKind, ModelState, ModelStatus
from workers.directives import progress, wants_drain

KINDS = DirectiveKind
STATES = ModelState


def model(state: ModelState, in_flight: int = 0) -> ModelStatus:
    return ModelStatus(
        model="m",
        quant="f32",
        state=state,
        in_flight=in_flight,
        error="why" if state is STATES.FAILED else None,
    )


@pytest.mark.parametrize(
    ("kind", "state", "word"),
    [
        (KINDS.LOAD, STATES.ABSENT, "accepted"),
        (KINDS.LOAD, STATES.FETCHING, "running"),
        (KINDS.LOAD, STATES.LOADING, "running"),
        (KINDS.LOAD, STATES.READY, "done"),
        (KINDS.LOAD, STATES.FAILED, "failed"),
        (KINDS.LOAD, STATES.UNLOADING, "accepted"),
        (KINDS.PREFETCH, STATES.FETCHING, "running"),
        (KINDS.PREFETCH, STATES.ON_DISK, "done"),
        (KINDS.PREFETCH, STATES.READY, "done"),
        (KINDS.UNLOAD, STATES.READY, "running"),
        (KINDS.UNLOAD, STATES.UNLOADING, "running"),
        (KINDS.UNLOAD, STATES.ON_DISK, "done"),
        (KINDS.UNLOAD, STATES.ABSENT, "done"),
    ],
)
def test_a_model_directive_is_read_off_the_models_state(
    kind: DirectiveKind, state: ModelState, word: str
) -> None:
    directive = Directive(id="d", kind=kind, model="m")
    models = () if state is STATES.ABSENT else (model(state),)
    (status,) = progress([directive], models, is_draining=False)
    assert (status.id, status.state) == ("d", word)
    assert (status.error == "why") == (word == "failed")


@pytest.mark.parametrize(
    ("kind", "is_draining", "in_flight", "word"),
    [
        (KINDS.DRAIN, True, 2, "running"),
        (KINDS.DRAIN, True, 0, "done"),
        (KINDS.RESUME, True, 0, "running"),
        (KINDS.RESUME, False, 0, "done"),
    ],
)
def test_a_drain_is_done_when_nothing_runs_any_more(
    kind: DirectiveKind, is_draining: bool, in_flight: int, word: str
) -> None:
    models = (model(STATES.READY, in_flight),)
    directive = Directive(id="d", kind=kind)
    (status,) = progress([directive], models, is_draining=is_draining)
    assert status.state == word


def test_a_worker_drains_while_told_to_and_until_told_to_resume() -> None:
    drain = Directive(id="1", kind=KINDS.DRAIN)
    resume = Directive(id="2", kind=KINDS.RESUME)
    load = Directive(id="3", kind=KINDS.LOAD, model="m")
    assert wants_drain([drain], is_draining=False)
    assert wants_drain([load], is_draining=True)
    assert not wants_drain([resume], is_draining=True)
    assert not wants_drain([], is_draining=False)
