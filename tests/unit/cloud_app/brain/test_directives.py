import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_app.brain.directives import open_for
from cloud_app.brain.views import PlacementView
from fixtures.views import placement
from genie.contracts.fleet import DirectiveKind, ModelState, ModelStatus

SMALL = "smollm2:135m"


def status(model: str, state: ModelState, quant: str = "f32") -> ModelStatus:
    return ModelStatus(model=model, quant=quant, state=state)


@pytest.mark.parametrize("state", list(ModelState))
def test_a_load_is_open_until_the_model_is_ready(state: ModelState) -> None:
    found = open_for([placement(SMALL)], [status(SMALL, state)])
    kinds = [directive.kind for directive in found]
    assert kinds == ([] if state is ModelState.READY else [DirectiveKind.LOAD])


def test_a_worker_that_reported_nothing_has_to_load() -> None:
    (directive,) = open_for([placement(SMALL)], [])
    assert (directive.kind, directive.model) == (DirectiveKind.LOAD, SMALL)
    assert directive.quant == "f32"


@pytest.mark.parametrize(
    ("state", "is_open"),
    [
        (ModelState.ABSENT, False),
        (ModelState.FETCHING, True),
        (ModelState.ON_DISK, False),
        (ModelState.LOADING, True),
        (ModelState.READY, True),
        (ModelState.UNLOADING, True),
        (ModelState.FAILED, False),
    ],
)
def test_an_unload_is_open_while_the_model_takes_memory(
    state: ModelState, is_open: bool
) -> None:
    found = open_for([], [status(SMALL, state)])
    assert bool(found) is is_open
    assert all(directive.kind is DirectiveKind.UNLOAD for directive in found)


def test_unloads_come_first_because_they_make_the_room() -> None:
    found = open_for([placement("qwen3:0.6b")], [status(SMALL, ModelState.READY)])
    assert [d.kind for d in found] == [DirectiveKind.UNLOAD, DirectiveKind.LOAD]


def test_another_quant_is_another_model() -> None:
    held = status(SMALL, ModelState.READY, quant="int8")
    found = open_for([placement(SMALL)], [held])
    assert [d.quant for d in found] == ["int8", "f32"]


def test_a_model_placed_anew_has_a_new_directive() -> None:
    before, again = placement(SMALL, age_s=600), placement(SMALL, age_s=5)
    assert open_for([before], [])[0].id != open_for([again], [])[0].id


models = st.sampled_from([SMALL, "qwen3:0.6b", "qwen3:4b"])
placements = st.lists(models.map(placement), unique_by=lambda p: p.model)
reports = st.lists(
    st.builds(status, models, st.sampled_from(ModelState)), unique_by=lambda m: m.model
)


@given(placements, reports)
def test_ids_are_unique_and_do_not_depend_on_order(
    desired: list[PlacementView], reported: list[ModelStatus]
) -> None:
    found = open_for(desired, reported)
    assert found == open_for(desired[::-1], reported[::-1])
    assert len({directive.id for directive in found}) == len(found)


@given(placements)
def test_a_worker_that_holds_what_it_should_has_nothing_to_do(
    desired: list[PlacementView],
) -> None:
    reported = [
        ModelStatus(model=p.model, quant=p.quant, state=ModelState.READY)
        for p in desired
    ]
    assert open_for(desired, reported) == ()
