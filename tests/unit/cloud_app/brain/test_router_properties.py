from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from cloud_app.brain import capacity, planner
from cloud_app.brain.capacity import Fit
from cloud_app.brain.router import Refusal, Route
from cloud_app.brain.views import DemandView, FleetView
from fixtures.views import (
    MODELS,
    QUEUES,
    SHIPPED,
    applied,
    demands,
    fleets,
)
from genie.contracts.inference import Locality
from unit.cloud_app.brain.test_router import PERSONAS, ask


def can_hold(model: str, queue: str, view: FleetView, min_context: int) -> bool:
    spec = SHIPPED.models[model]
    hosts = [w for w in view.workers if w.is_open and queue in w.queues]
    return any(
        w.placement(model) is not None
        or isinstance(capacity.fit(spec, w, min_context=min_context), Fit)
        for w in hosts
    )


class TestProperties:
    allowed = st.none() | st.lists(st.sampled_from(MODELS)).map(tuple)
    contexts = st.sampled_from([0, 1000, 4000, 8000, 20000])

    @given(fleets(), demands, st.sampled_from(PERSONAS), allowed, contexts)
    def test_only_allowed_models_that_fit_are_returned(
        self,
        view: FleetView,
        demand: Sequence[DemandView],
        persona: str,
        allowed: tuple[str, ...] | None,
        min_context: int,
    ) -> None:
        view = applied(view, planner.plan(view, demand, SHIPPED, view.as_of))
        answer = ask(view, persona, allowed=allowed, min_context=min_context)
        if isinstance(answer, Refusal):
            assert answer.message
            return
        assert allowed is None or answer.model in allowed
        assert answer.model in SHIPPED.personas[persona].ladder
        assert answer.context >= min_context
        assert can_hold(answer.model, answer.queue, view, min_context)
        assert answer.reasons

    @given(fleets(), st.sampled_from(PERSONAS))
    def test_a_rung_below_the_floor_is_always_disclosed(
        self, view: FleetView, name: str
    ) -> None:
        answer, persona = ask(view, name), SHIPPED.personas[name]
        if isinstance(answer, Route) and persona.floor is not None:
            at = persona.ladder.index(answer.model)
            is_below = at < persona.ladder.index(persona.floor)
            assert answer.substituted == (persona.floor if is_below else None)

    @given(fleets(), st.sampled_from(MODELS), allowed)
    def test_an_explicit_model_is_never_substituted(
        self, view: FleetView, model: str, allowed: tuple[str, ...] | None
    ) -> None:
        answer = ask(view, model=model, allowed=allowed)
        if isinstance(answer, Route):
            assert (answer.model, answer.substituted) == (model, None)

    @given(fleets(), st.sampled_from(PERSONAS))
    def test_the_same_question_has_the_same_answer_whatever_the_order(
        self, view: FleetView, persona: str
    ) -> None:
        turned = replace(view, workers=view.workers[::-1])
        one, other = ask(view, persona), ask(turned, persona)
        if isinstance(one, Route):
            assert isinstance(other, Route)
            assert (one.model, one.queue) == (other.model, other.queue)
        assert one == ask(view, persona)

    @given(fleets(), st.sampled_from(PERSONAS))
    def test_no_route_ever_leaves_the_orgs_queues_or_overflows(
        self, view: FleetView, persona: str
    ) -> None:
        answer = ask(view, persona)
        if isinstance(answer, Route):
            assert answer.queue in QUEUES
            assert answer.locality is not Locality.OVERFLOW
