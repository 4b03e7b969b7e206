from dataclasses import replace
from datetime import timedelta
from random import Random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from cloud_app.brain import capacity, planner, router
from cloud_app.brain.planner import MoveKind, PlacementPlan
from cloud_app.brain.views import DemandView, FleetView, WorkerView
from fixtures import views as made
from fixtures.views import (
    NOW,
    SHIPPED,
    applied,
    demands,
    fleet,
    fleets,
    gpu,
    loaded,
    placement,
    ready,
    silent,
    standing,
    want,
    worker,
)
from genie import catalog, engines


def plan(view: FleetView, *demand: DemandView) -> PlacementPlan:
    return planner.plan(view, demand, SHIPPED, view.as_of)


def models(result: PlacementPlan, name: str) -> list[str]:
    return [placed.model for placed in result.desired[name]]


def settled(view: FleetView, *rounds: list[DemandView]) -> FleetView:
    """The fleet after some rounds of demand, ten minutes apart."""
    for demand in rounds:
        view = loaded(applied(view, plan(view, *demand)))
        view = replace(view, as_of=view.as_of + timedelta(minutes=10))
    return view


def held(view: WorkerView) -> int:
    specs = SHIPPED.models
    return sum(capacity.held_bytes(specs[p.model], view, p) for p in view.placements)


class TestPlacing:
    def test_the_standing_chat_persona_becomes_the_small_model_on_one_cpu_worker(
        self,
    ) -> None:
        view = fleet(worker(memory_gb=24))
        rung = router.rung(SHIPPED.personas["chat"], "genie", view, SHIPPED)
        assert rung.spec is not None
        result = plan(view, standing(rung.spec.id))
        assert models(result, "cpu-1") == ["smollm2:135m"]
        assert [move.kind for move in result.moves] == [MoveKind.LOAD]
        assert result.desired["cpu-1"][0].reason == "kept ready for genie"

    def test_an_empty_fleet_plans_nothing_and_says_why(self) -> None:
        result = plan(fleet(), want("qwen3:8b"))
        assert result.desired == {}
        assert result.unplaced[0].why == ("no worker serves the queue genie",)

    def test_a_model_that_is_not_in_the_catalog_is_unplaced(self) -> None:
        result = plan(fleet(worker()), want("nobody:1b"))
        assert result.unplaced[0].why == ("nobody:1b is not in the catalog",)

    def test_a_model_too_big_for_every_worker_is_unplaced_with_both_sizes(self) -> None:
        result = plan(fleet(gpu(memory_gb=24)), want("qwen3:32b"))
        assert not result.moves
        assert "gpu-1 has 24.0 GB" in result.unplaced[0].why[0]

    def test_nobody_wants_anything_so_nothing_moves(self) -> None:
        idle = worker(placements=(placement("smollm2:135m"),))
        assert plan(fleet(idle)).moves == ()

    def test_a_worker_of_another_queue_gets_nothing(self) -> None:
        other = worker(queues=("org.other",))
        assert plan(fleet(other), want("smollm2:135m")).moves == ()

    def test_draining_quarantined_offline_and_lost_workers_get_nothing_new(
        self,
    ) -> None:
        shut = (
            replace(worker("a"), draining=True),
            replace(worker("b"), quarantined=True),
            silent(worker("c"), 100),
            silent(worker("d"), 301),
            worker("e", memory_gb=0.1),
            worker("f", memory_gb=0.1),
        )
        result = plan(fleet(*shut), want("smollm2:135m"))
        assert result.moves == ()
        said = " ".join(result.unplaced[0].why)
        for word in ("draining", "quarantined", "offline", "lost", "needs"):
            assert word in said

    def test_a_worker_that_has_the_model_on_disk_is_preferred(self) -> None:
        warm = worker("w2", models=(ready("smollm2:135m"),))
        result = plan(fleet(worker("w1"), warm), want("smollm2:135m"))
        assert models(result, "w2") == ["smollm2:135m"]

    def test_a_gpu_is_preferred_to_a_processor(self) -> None:
        result = plan(fleet(worker("a"), gpu("b")), want("smollm2:135m"))
        assert models(result, "b") == ["smollm2:135m"]

    def test_models_spread_over_hosts(self) -> None:
        view = fleet(gpu("a"), gpu("b"))
        result = plan(view, want("qwen3:4b"), want("qwen3:8b"))
        assert sorted(map(len, result.desired.values())) == [1, 1]


class TestPlacesFromTheSource:
    def test_a_placement_gets_the_slots_its_source_says_now_and_keeps_them(
        self,
    ) -> None:
        echo = catalog.load(catalog.ECHO)
        spec = msgspec.structs.replace(
            echo.models["echo:small"], source="echo:?slots=1024"
        )
        changed = replace(echo, models=echo.models | {spec.id: spec})
        view = fleet(replace(worker(), engines=(engines.assumed("echo"),)))
        before = planner.plan(view, [standing(spec.id)], echo, NOW)
        view = applied(view, before)
        after = planner.plan(view, [standing(spec.id)], changed, NOW)
        assert [placed.slots for placed in before.desired["cpu-1"]] == [4]
        assert [placed.slots for placed in after.desired["cpu-1"]] == [1024]
        assert [move.reason for move in after.moves] == ["its source says 1024 slots"]
        settled = planner.plan(applied(view, after), [], changed, NOW)
        assert settled.moves == ()


class TestReplicas:
    def test_more_than_four_waiting_for_each_slot_ask_for_another_replica(self) -> None:
        view = fleet(worker("a"), worker("b"))
        few = plan(view, want("smollm2:135m", 16))
        many = plan(view, want("smollm2:135m", 17))
        assert len(few.moves) == 1
        assert len(many.moves) == 2
        assert many.moves[1].reason == "17 wait on genie for 4 slots"

    def test_replicas_are_added_until_there_are_enough_or_no_room(self) -> None:
        view = fleet(*(worker(f"w{number}") for number in range(5)))
        assert len(plan(view, want("smollm2:135m", 48)).moves) == 3
        assert len(plan(view, want("smollm2:135m", 1000)).moves) == 5

    def test_more_replicas_never_evict_a_standing_model(self) -> None:
        full = replace(
            gpu("b", memory_gb=20), placements=(placement("qwen3:4b", slots=8),)
        )
        view = fleet(gpu("a", memory_gb=24), full)
        queued = want("qwen2.5-coder:7b", 200)
        result = plan(view, queued, standing("qwen3:4b"))
        assert models(result, "b") == ["qwen3:4b"]


class TestHysteresis:
    def full(self, model: str = "qwen3:8b", age_s: float = 600) -> WorkerView:
        return replace(
            gpu(memory_gb=30), placements=(placement(model, age_s=age_s, slots=8),)
        )

    def test_an_idle_model_leaves_when_its_memory_is_needed(self) -> None:
        result = plan(fleet(self.full()), want("qwen2.5-coder:7b"))
        assert models(result, "gpu-1") == ["qwen2.5-coder:7b"]
        assert result.moves[0].reason == "idle, and qwen2.5-coder:7b needs its memory"

    def test_an_idle_model_stays_when_there_is_room(self) -> None:
        result = plan(fleet(self.full()), want("smollm2:135m"))
        assert models(result, "gpu-1") == ["qwen3:8b", "smollm2:135m"]

    def test_a_model_somebody_waits_for_stays(self) -> None:
        result = plan(fleet(self.full()), want("qwen2.5-coder:7b"), want("qwen3:8b"))
        assert result.moves == ()
        assert "in use by wanted models" in result.unplaced[0].why[0]

    def test_a_model_in_the_middle_of_a_request_stays(self) -> None:
        busy = replace(self.full(), models=(ready("qwen3:8b", in_flight=1),))
        assert plan(fleet(busy), want("qwen2.5-coder:7b")).moves == ()

    def test_a_model_younger_than_two_minutes_stays(self) -> None:
        young, old = self.full(age_s=119), self.full(age_s=120)
        assert plan(fleet(young), want("qwen2.5-coder:7b")).moves == ()
        assert plan(fleet(old), want("qwen2.5-coder:7b")).moves != ()

    def test_work_takes_the_room_of_a_standing_idle_model_but_not_the_reverse(
        self,
    ) -> None:
        work, kept = want("qwen2.5-coder:7b"), standing("qwen3:8b")
        assert models(plan(fleet(self.full()), work, kept), "gpu-1") == [work.model]
        other = standing("qwen2.5-coder:7b")
        assert plan(fleet(self.full()), other, kept).moves == ()

    def test_an_idle_model_leaves_before_a_new_one_gets_a_short_context(self) -> None:
        kept = replace(placement("qwen3:0.6b"), context=2048, slots=1)
        host = replace(worker(memory_gb=3.05), placements=(kept,))
        result = plan(fleet(host), want("smollm2:135m"))
        assert [(p.model, p.context) for p in result.desired["cpu-1"]] == [
            ("smollm2:135m", 4096)
        ]

    def test_a_short_context_is_better_than_none(self) -> None:
        kept = replace(placement("qwen3:0.6b"), context=2048, slots=1)
        host = replace(worker(memory_gb=3.05), placements=(kept,))
        result = plan(fleet(host), want("smollm2:135m"), want("qwen3:0.6b"))
        assert [p.context for p in result.desired["cpu-1"]] == [2048, 2048]

    def test_only_the_evictions_that_are_needed_happen(self) -> None:
        small = placement("smollm2:135m", age_s=9000)
        host = self.full()
        host = replace(host, placements=(small, *host.placements))
        result = plan(fleet(host), want("qwen2.5-coder:7b"))
        assert models(result, "gpu-1") == ["smollm2:135m", "qwen2.5-coder:7b"]


class TestFailures:
    def test_a_model_that_failed_on_a_worker_is_placed_elsewhere(self) -> None:
        bad = worker(
            "a",
            models=(made.failed("smollm2:135m"),),
            placements=(placement("smollm2:135m"),),
        )
        result = plan(fleet(bad, worker("b")), want("smollm2:135m"))
        assert models(result, "b") == ["smollm2:135m"]
        assert models(result, "a") == ["smollm2:135m"], "its own retries go on"

    def test_a_model_that_failed_everywhere_is_unplaced_with_the_error(self) -> None:
        bad = worker(models=(made.failed("smollm2:135m"),))
        result = plan(fleet(bad), want("smollm2:135m"))
        why = result.unplaced[0].why[0]
        assert why == "smollm2:135m failed on cpu-1: out of memory"

    def test_a_model_whose_retry_time_has_come_is_counted_on_again(self) -> None:
        bad = worker(
            "a",
            models=(made.failed("smollm2:135m", retry_s=-1),),
            placements=(placement("smollm2:135m"),),
        )
        assert plan(fleet(bad, worker("b")), want("smollm2:135m")).moves == ()

    def test_a_model_that_left_the_catalog_is_unloaded(self) -> None:
        result = plan(fleet(worker(placements=(placement("old:1b"),))))
        assert [move.kind for move in result.moves] == [MoveKind.UNLOAD]

    def test_memory_taken_by_others_makes_no_room_for_anything_new(self) -> None:
        squeezed = worker(memory_gb=0.5, placements=(placement("smollm2:135m"),))
        result = plan(fleet(squeezed), want("smollm2:135m"), want("qwen3:0.6b"))
        assert result.moves == ()


class TestStandingReplicas:
    def test_as_many_workers_as_wanted_hold_a_standing_model(self) -> None:
        wanted = replace(want("smollm2:135m", queued=0), standing=True, replicas=2)
        result = plan(fleet(worker("a"), worker("b"), worker("c")), wanted)
        held = [models(result, name) for name in ("a", "b", "c")]
        assert sorted(held) == [[], ["smollm2:135m"], ["smollm2:135m"]]

    def test_replicas_that_find_no_worker_are_said_and_hold_nothing_up(self) -> None:
        wanted = replace(want("smollm2:135m", queued=0), standing=True, replicas=2)
        result = plan(fleet(worker("a")), wanted)
        assert models(result, "a") == ["smollm2:135m"]
        assert [found.model for found in result.unplaced] == ["smollm2:135m"]


class TestSilence:
    def placed(self, *names: str) -> list[WorkerView]:
        return [worker(n, placements=(placement("smollm2:135m"),)) for n in names]

    def test_a_lost_workers_model_is_planned_elsewhere(self) -> None:
        (gone,) = self.placed("a")
        view = fleet(silent(gone, 301), worker("b"), worker("c"))
        result = plan(view, want("smollm2:135m"))
        assert models(result, "a") == []
        assert len(models(result, "b") + models(result, "c")) == 1
        kinds = [move.kind for move in result.moves]
        assert kinds == [MoveKind.RELEASE, MoveKind.LOAD]

    def test_an_offline_worker_keeps_its_models_until_it_is_lost(self) -> None:
        (gone,) = self.placed("a")
        view = fleet(silent(gone, 299), worker("b"), worker("c"))
        assert plan(view, want("smollm2:135m", queued=0)).moves == ()

    def test_work_that_waits_does_not_wait_for_an_offline_holder(self) -> None:
        (gone,) = self.placed("a")
        view = fleet(silent(gone, 100), worker("b"), worker("c"))
        result = plan(view, want("smollm2:135m", queued=1))
        assert [move.kind for move in result.moves] == [MoveKind.LOAD]
        assert models(result, "a") == ["smollm2:135m"]

    def test_work_that_waits_does_wait_for_a_late_holder(self) -> None:
        (late,) = self.placed("a")
        view = fleet(silent(late, 80), worker("b"), worker("c"))
        assert plan(view, want("smollm2:135m", queued=1)).moves == ()

    def test_sixty_percent_of_two_hundred_workers_silent_move_nothing(self) -> None:
        names = [f"w{number:03}" for number in range(200)]
        hosts = self.placed(*names)
        for age_s in (46, 100, 180, 301, 500):
            view = fleet(
                *(silent(w, age_s + i % 30) for i, w in enumerate(hosts[:120]))
            )
            view = replace(view, workers=(*view.workers, *hosts[120:]))
            result = plan(view, want("smollm2:135m", 5000), want("qwen3:0.6b"))
            assert result.moves == ()
            assert result.held is not None
            assert result.desired == {w.id: w.placements for w in view.workers}


class TestProperties:
    @given(fleets(), demands, demands)
    def test_memory_is_never_overcommitted(
        self, view: FleetView, first: list[DemandView], second: list[DemandView]
    ) -> None:
        for host in settled(view, first, second).workers:
            assert held(host) <= host.memory_bytes

    @given(fleets(), demands, demands)
    def test_applying_a_plan_twice_moves_nothing(
        self, view: FleetView, first: list[DemandView], second: list[DemandView]
    ) -> None:
        view = settled(view, first)
        once = applied(view, plan(view, *second))
        assert plan(once, *second).moves == ()
        assert plan(loaded(once), *second).moves == ()

    @given(fleets(min_size=3), demands, st.integers(0, 2), st.floats(46, 90))
    def test_one_late_beat_moves_nothing(
        self, view: FleetView, demand: list[DemandView], which: int, age_s: float
    ) -> None:
        view = loaded(applied(view, plan(view, *demand)))
        hosts = list(view.workers)
        hosts[which] = silent(hosts[which], age_s)
        assert plan(fleet(*hosts), *demand).moves == ()

    @given(fleets(min_size=2), demands, demands, st.integers(46, 590))
    def test_mass_silence_moves_nothing(
        self,
        view: FleetView,
        before: list[DemandView],
        after: list[DemandView],
        age_s: int,
    ) -> None:
        view = settled(view, before)
        count = len(view.workers) // 2 + 1
        hosts = [silent(w, age_s) for w in view.workers[:count]]
        view = replace(view, workers=(*hosts, *view.workers[count:]))
        result = plan(view, *after)
        assert result.moves == ()
        assert result.desired == {w.id: w.placements for w in view.workers}

    @given(fleets(min_size=3), demands)
    def test_what_a_lost_worker_held_is_placed_elsewhere_or_said_to_have_no_place(
        self, view: FleetView, demand: list[DemandView]
    ) -> None:
        view = settled(view, demand)
        view = replace(view, workers=(silent(view.workers[0], 400), *view.workers[1:]))
        result = plan(view, *demand)
        assert result.desired[view.workers[0].id] == ()
        unplaced = {(u.queue, u.model) for u in result.unplaced}
        for wanted in demand:
            if not (wanted.has_work or wanted.standing):
                continue
            holders = [
                w
                for w in view.workers[1:]
                if wanted.queue in w.queues and wanted.model in models(result, w.id)
            ]
            assert holders or (wanted.queue, wanted.model) in unplaced

    @given(fleets(), demands, demands, st.randoms(use_true_random=False))
    def test_the_plan_depends_on_no_order(
        self,
        view: FleetView,
        first: list[DemandView],
        second: list[DemandView],
        random: Random,
    ) -> None:
        view = settled(view, first)
        hosts, demand = list(view.workers), list(second)
        random.shuffle(hosts)
        random.shuffle(demand)
        again = plan(replace(view, workers=tuple(hosts)), *demand)
        assert again == plan(view, *second)

    @given(fleets(), demands)
    def test_only_open_workers_are_given_anything(
        self, view: FleetView, demand: list[DemandView]
    ) -> None:
        result = plan(view, *demand)
        for host in view.workers:
            if not host.is_open:
                assert result.desired[host.id] == ()
            for placed in result.desired[host.id]:
                assert not host.has_failed(placed.model, NOW)
                assert any(
                    d.model == placed.model and d.queue in host.queues for d in demand
                )
