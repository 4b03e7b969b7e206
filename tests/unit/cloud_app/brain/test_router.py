from dataclasses import replace

import msgspec
import pytest

from cloud_app.brain import router
from cloud_app.brain.router import Refusal, Route, RoutingRequest
from cloud_app.brain.views import FleetView, WorkerView
from fixtures.views import (
    SHIPPED,
    failed,
    fleet,
    gpu,
    placement,
    ready,
    silent,
    worker,
)
from genie.catalog import Catalog
from genie.contracts.inference import Locality, WorkClass
from genie.contracts.model import Capability

PERSONAS = tuple(
    name for name, one in SHIPPED.personas.items() if Capability.CHAT in one.needs
)
SMALL, CODER = "smollm2:135m", "qwen2.5-coder:7b"


def ask(
    view: FleetView,
    persona: str | None = None,
    *,
    model: str | None = None,
    queues: tuple[str, ...] = ("org.acme", "genie"),
    allowed: tuple[str, ...] | None = None,
    min_context: int = 0,
    needed: tuple[Capability, ...] = (),
    catalog: Catalog = SHIPPED,
    may_wait: bool = False,
) -> Route | Refusal:
    request = RoutingRequest(
        queues=queues,
        model=model,
        persona=catalog.personas[persona] if persona else None,
        allowed_models=allowed,
        min_context=min_context,
        needed=needed,
        may_wait=may_wait,
    )
    return router.route(request, view, catalog)


def routed(answer: Route | Refusal) -> Route:
    assert isinstance(answer, Route), answer
    return answer


def refused(answer: Route | Refusal) -> Refusal:
    assert isinstance(answer, Refusal), answer
    return answer


def holding(view: WorkerView, *models: str, is_ready: bool = True) -> WorkerView:
    return replace(
        view,
        placements=tuple(placement(model) for model in models),
        models=tuple(ready(model) for model in models) if is_ready else (),
    )


class TestPersonas:
    @pytest.mark.parametrize("persona", PERSONAS)
    def test_on_one_cpu_worker_every_persona_gets_the_small_model_and_it_says_so(
        self, persona: str
    ) -> None:
        answer = routed(ask(fleet(worker(memory_gb=24)), persona))
        assert answer.model == SMALL
        assert answer.substituted == SHIPPED.personas[persona].floor
        assert f"{SMALL} is below {answer.substituted}" in answer.reasons[1]

    @pytest.mark.parametrize(
        ("persona", "model"),
        [
            ("chat", "qwen3:4b"),
            ("rollup", "qwen3:4b"),
            ("review", CODER),
            ("coder", CODER),
            ("agent", "qwen3:8b"),
            ("heavy", "qwen3:14b"),
        ],
    )
    def test_on_a_large_gpu_every_persona_gets_its_floor(
        self, persona: str, model: str
    ) -> None:
        answer = routed(ask(fleet(worker(), gpu(memory_gb=80)), persona))
        assert answer.model == model
        assert answer.substituted is None

    def test_a_higher_rung_is_no_substitution(self) -> None:
        view = fleet(holding(gpu(), "qwen3:14b"))
        answer = routed(ask(view, "review", allowed=("qwen3:14b", SMALL)))
        assert (answer.model, answer.substituted) == ("qwen3:14b", None)
        assert answer.skipped[0].model == CODER
        assert answer.skipped[0].why == "this key may not use it"

    def test_below_the_floor_the_highest_rung_is_chosen(self) -> None:
        chat = msgspec.structs.replace(
            SHIPPED.personas["chat"], ladder=(SMALL, "qwen3:0.6b", "qwen3:4b")
        )
        catalog = replace(SHIPPED, personas={"chat": chat})
        answer = routed(ask(fleet(worker()), "chat", catalog=catalog))
        assert (answer.model, answer.substituted) == ("qwen3:0.6b", "qwen3:4b")

    def test_a_persona_without_a_floor_gets_its_first_rung(self) -> None:
        chat = msgspec.structs.replace(SHIPPED.personas["chat"], floor=None)
        catalog = replace(SHIPPED, personas={"chat": chat})
        answer = routed(ask(fleet(gpu()), "chat", catalog=catalog))
        assert (answer.model, answer.substituted) == (SMALL, None)

    def test_a_rung_that_failed_on_every_worker_is_skipped_with_the_error(self) -> None:
        bad = replace(holding(gpu(), CODER), models=(failed(CODER),))
        answer = routed(ask(fleet(bad), "review"))
        assert answer.model == "qwen3:14b"
        assert answer.skipped[0].why == "failed on gpu-1 (out of memory)"

    def test_a_failed_rung_is_trusted_again_only_when_its_worker_says_so(self) -> None:
        due = failed(CODER, retry_s=-1)
        placed = replace(holding(gpu(), CODER), models=(due,))
        assert routed(ask(fleet(placed), "review")).model == "qwen3:14b"
        dropped = replace(gpu(), models=(due,))
        assert routed(ask(fleet(dropped), "review")).model == CODER

    def test_a_rung_that_failed_on_one_worker_is_served_by_another(self) -> None:
        bad = replace(holding(gpu("a"), CODER), models=(failed(CODER),))
        answer = routed(ask(fleet(bad, gpu("b")), "review"))
        assert answer.model == CODER

    def test_a_long_prompt_climbs_to_a_rung_with_more_context(self) -> None:
        short = msgspec.structs.replace(SHIPPED.models[CODER], context_max=2048)
        catalog = replace(SHIPPED, models={**SHIPPED.models, CODER: short})
        answer = ask(fleet(gpu()), "review", min_context=4000, catalog=catalog)
        assert routed(answer).model == "qwen3:14b"

    def test_a_prompt_over_every_context_is_refused_with_both_numbers(self) -> None:
        answer = refused(ask(fleet(worker()), "chat", min_context=9000))
        assert answer.code == "context_length_exceeded"
        assert "9000" in answer.message
        assert "4096" in answer.message

    def test_a_replica_loaded_with_a_short_context_counts_as_it_is(self) -> None:
        short = replace(placement(SMALL), context=1024)
        view = fleet(replace(worker(), placements=(short,)))
        assert routed(ask(view, "chat")).context == 1024
        assert routed(ask(view, model=SMALL, min_context=1024)).context == 1024
        answer = refused(ask(view, model=SMALL, min_context=1025))
        assert answer.code == "context_length_exceeded"


class TestExplicitModels:
    def test_a_model_is_served_as_asked(self) -> None:
        answer = routed(ask(fleet(gpu()), model="qwen3:8b"))
        assert (answer.model, answer.substituted) == ("qwen3:8b", None)

    def test_a_model_wins_over_a_persona(self) -> None:
        assert routed(ask(fleet(gpu()), "review", model=SMALL)).model == SMALL

    @pytest.mark.parametrize(
        ("model", "allowed", "needed", "code", "retryable"),
        [
            ("qwen3:32b", None, (), "no_capacity", False),
            ("nobody:1b", None, (), "model_not_found", False),
            (SMALL, ("qwen3:4b",), (), "permission_denied", False),
            (SMALL, None, (Capability.VISION,), "invalid_request", False),
        ],
    )
    def test_what_cannot_be_served_is_refused_and_never_swapped(
        self,
        model: str,
        allowed: tuple[str, ...] | None,
        needed: tuple[Capability, ...],
        code: str,
        retryable: bool,
    ) -> None:
        view = fleet(worker())
        answer = refused(ask(view, model=model, allowed=allowed, needed=needed))
        assert (answer.code, answer.retryable) == (code, retryable)
        assert answer.reasons
        assert "`genie" in answer.message or "admin" in answer.message

    def test_a_failed_model_may_be_asked_for_again_later(self) -> None:
        bad = replace(worker(), models=(failed(SMALL),))
        answer = refused(ask(fleet(bad), model=SMALL))
        assert answer.retryable
        assert "out of memory" in answer.message

    def test_a_disabled_model_is_refused(self) -> None:
        off = msgspec.structs.replace(SHIPPED.models[SMALL], enabled=False)
        catalog = replace(SHIPPED, models={**SHIPPED.models, SMALL: off})
        answer = refused(ask(fleet(worker()), model=SMALL, catalog=catalog))
        assert answer.reasons == (f"{SMALL}: is disabled in the catalog",)

    def test_a_request_for_nothing_is_refused(self) -> None:
        assert refused(ask(fleet(worker()))).code == "no_capacity"


class TestQueues:
    def test_the_orgs_own_machines_come_first(self) -> None:
        own = worker("own", queues=("org.acme",))
        answer = routed(ask(fleet(worker("shared"), own), "chat"))
        assert (answer.queue, answer.locality) == ("org.acme", Locality.DEDICATED)

    def test_shared_machines_serve_an_org_without_its_own(self) -> None:
        answer = routed(ask(fleet(worker()), "chat"))
        assert (answer.queue, answer.locality) == ("genie", Locality.LOCAL)

    def test_shared_machines_serve_what_the_orgs_own_cannot(self) -> None:
        own = worker("own", queues=("org.acme",))
        answer = routed(ask(fleet(own, gpu()), model=CODER))
        assert answer.queue == "genie"

    def test_a_model_that_solves_the_task_comes_before_the_orgs_own_machines(
        self,
    ) -> None:
        own = worker("own", queues=("org.acme",))
        answer = routed(ask(fleet(own, gpu()), "review"))
        assert (answer.queue, answer.model) == ("genie", CODER)

    def test_a_queue_the_org_may_not_use_is_never_used(self) -> None:
        other = worker(queues=("org.other",))
        assert refused(ask(fleet(other), "chat")).code == "no_capacity"

    @pytest.mark.parametrize(
        "shut",
        [
            silent(worker(), 91),
            silent(worker(), 400),
            replace(worker(), draining=True),
            replace(worker(), quarantined=True),
        ],
        ids=["offline", "lost", "draining", "quarantined"],
    )
    def test_without_a_live_worker_the_answer_is_how_to_join_one(
        self, shut: WorkerView
    ) -> None:
        answer = refused(ask(fleet(shut), "chat"))
        assert (answer.code, answer.retryable) == ("no_capacity", True)
        assert "`genie worker join`" in answer.message

    @pytest.mark.parametrize(
        ("shut", "why"),
        [
            (silent(worker(), 91), "offline"),
            (silent(worker(), 400), "lost"),
            (replace(worker(), draining=True), "draining"),
            (replace(worker(), quarantined=True), "quarantined"),
        ],
    )
    def test_what_may_wait_waits_for_the_worker_that_could_serve_it(
        self, shut: WorkerView, why: str
    ) -> None:
        answer = routed(ask(fleet(shut), "chat", may_wait=True))
        assert not answer.ready
        assert f"{shut.name} ({why})" in (answer.waits or "")
        assert answer.reasons == (answer.waits,)

    def test_an_absent_machine_that_fits_is_waited_for_beside_one_that_does_not(
        self,
    ) -> None:
        view = fleet(worker("small"), silent(gpu("big"), 400))
        answer = routed(ask(view, model=CODER, may_wait=True))
        assert "big (lost)" in (answer.waits or "")
        assert isinstance(ask(view, model=CODER), Refusal)

    @pytest.mark.parametrize(
        ("view", "model", "code"),
        [
            (fleet(), SMALL, "no_capacity"),
            (fleet(silent(worker(), 400)), "qwen3:32b", "no_capacity"),
            (fleet(silent(worker(queues=("org.x",)), 400)), SMALL, "no_capacity"),
            (fleet(silent(worker(), 400)), "no-such", "no_capacity"),
            (fleet(worker(), silent(gpu("g"), 400)), "no-such", "model_not_found"),
        ],
    )
    def test_what_no_known_worker_can_ever_serve_is_refused_at_once(
        self, view: FleetView, model: str, code: str
    ) -> None:
        assert refused(ask(view, model=model, may_wait=True)).code == code

    def test_what_a_key_may_not_use_does_not_wait(self) -> None:
        view = fleet(worker(), silent(gpu("g"), 400))
        answer = ask(view, model=CODER, allowed=(SMALL,), may_wait=True)
        assert refused(answer).code == "permission_denied"

    def test_a_text_too_long_for_who_is_here_does_not_wait_for_more(self) -> None:
        # The model would be loaded here for it, and the text be too long after all.
        view = fleet(worker(), silent(gpu("g"), 400))
        answer = refused(ask(view, model=SMALL, min_context=6000, may_wait=True))
        assert answer.code == "context_length_exceeded"
        assert not isinstance(ask(fleet(gpu()), model=SMALL, min_context=6000), Refusal)

    def test_what_is_served_now_does_not_wait(self) -> None:
        view = fleet(worker(), silent(gpu("g"), 400))
        assert routed(ask(view, model=SMALL, may_wait=True)).waits is None

    def test_while_the_whole_fleet_is_silent_its_workers_still_count(self) -> None:
        hosts = [silent(holding(worker(n), SMALL), 120) for n in ("a", "b")]
        assert routed(ask(fleet(*hosts), "chat")).ready


class TestReadiness:
    def test_a_ready_model_is_said_to_be_ready_and_where(self) -> None:
        answer = routed(ask(fleet(holding(worker(), SMALL)), "chat"))
        assert answer.ready
        assert answer.reasons[0] == f"{SMALL} is ready on cpu-1"

    def test_the_shortest_replica_decides_because_any_may_get_the_request(
        self,
    ) -> None:
        short = replace(placement(SMALL), context=1024)
        first = replace(worker("a"), placements=(short,))
        view = fleet(first, holding(worker("b"), SMALL))
        assert routed(ask(view, "chat")).context == 1024

    def test_a_placed_model_is_being_loaded(self) -> None:
        view = fleet(holding(worker(), SMALL, is_ready=False))
        answer = routed(ask(view, "chat"))
        assert not answer.ready
        assert answer.reasons[0] == f"{SMALL} is being loaded on cpu-1"

    def test_the_work_class_is_kept(self) -> None:
        request = RoutingRequest(
            queues=("genie",), model=SMALL, work_class=WorkClass.JOB
        )
        answer = routed(router.route(request, fleet(worker()), SHIPPED))
        assert answer.work_class is WorkClass.JOB

    def test_what_a_standing_persona_needs_is_the_same_choice(self) -> None:
        view = fleet(worker(), gpu())
        for persona in SHIPPED.personas.values():
            chosen = router.rung(persona, "genie", view, SHIPPED)
            assert chosen.spec is not None
            assert chosen.spec.id == routed(ask(view, persona.name)).model

    def test_a_queue_without_workers_has_no_rung(self) -> None:
        chosen = router.rung(SHIPPED.personas["chat"], "org.x", fleet(), SHIPPED)
        assert chosen.spec is None
        assert len(chosen.skipped) == 3
