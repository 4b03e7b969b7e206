"""Plans become rows, differences only, and workers are nudged."""

import pytest
from msgspec.structs import replace

from cloud_app import store
from cloud_app.brain.views import PlacementView
from cloud_app.fleet import placement, registry
from cloud_app.jobs import lifecycle
from cloud_app.store.records import PlacementRecord
from fixtures.clouds import Cloud, Statements
from genie.contracts.fleet import ModelState, ModelStatus
from genie.contracts.inference import WorkClass
from genie.errors import BrokerDown

FAILED = ModelStatus(
    model="echo:small", quant="none", state=ModelState.FAILED, error="out of memory"
)


def test_a_standing_persona_is_placed_on_the_first_worker(cloud: Cloud) -> None:
    worker = cloud.join()
    plan = placement.place(cloud.ctx)
    assert [held.model for held in plan.desired[worker.id]] == ["echo:small"]
    assert _rows(cloud) == [(worker.id, "echo:small")]
    assert cloud.bus.nudged == [worker.id]
    assert cloud.beat(worker, 1).desired[0].spec.id == "echo:small"


def test_placing_twice_changes_nothing(cloud: Cloud) -> None:
    cloud.join()
    placement.place(cloud.ctx)
    cloud.bus.nudged.clear()
    cloud.clock.forward(10)
    with Statements() as statements:
        plan = placement.place(cloud.ctx)
    assert plan.moves == ()
    assert statements.writes == []
    assert cloud.bus.nudged == []


def test_work_that_waits_is_demand(cloud: Cloud) -> None:
    cloud.join()
    first = cloud.job(model="echo:large")
    cloud.clock.forward(20)
    cloud.start(cloud.job(model="echo:large"), "a1")
    cloud.finish(cloud.job(model="echo:large"))
    found = [d for d in placement.demand(cloud.ctx) if not d.standing]
    assert [(d.queue, d.model, d.queued, d.running) for d in found] == [
        ("genie", "echo:large", 1, 1)
    ]
    assert found[0].arrivals_per_min == pytest.approx(3 / 5)
    assert found[0].oldest_s == 20
    placement.place(cloud.ctx)
    assert ("echo:large") in [model for _, model in _rows(cloud)]
    lifecycle.cancel(cloud.ctx, "acme", first.id)


def test_the_oldest_that_waits_is_known_by_class(cloud: Cloud) -> None:
    cloud.join()
    cloud.job(model="echo:small", work_class=WorkClass.INTERACTIVE)
    cloud.clock.forward(5)
    cloud.job(model="echo:small", work_class=WorkClass.INTERACTIVE)
    cloud.job(model="echo:small", work_class=WorkClass.JOB)
    cloud.start(cloud.job(model="echo:large"), "a1")
    cloud.clock.forward(2)
    assert placement.waiting_s(cloud.ctx) == {
        ("genie", "echo:small", WorkClass.INTERACTIVE): 7.0,
        ("genie", "echo:small", WorkClass.JOB): 2.0,
    }


def test_standing_personas_are_kept_on_every_queue_that_is_served(
    cloud: Cloud,
) -> None:
    cloud.join("shared")
    cloud.join("own", queues=("org.acme",))
    standing = [d for d in placement.demand(cloud.ctx) if d.standing]
    assert {d.queue for d in standing} == {"genie", "org.acme"}
    placement.place(cloud.ctx)
    assert len(_rows(cloud)) == 2


def test_a_model_that_failed_here_is_tried_elsewhere(cloud: Cloud) -> None:
    one, two = cloud.join("one"), cloud.join("two")
    placement.place(cloud.ctx)
    ((first, _),) = _rows(cloud)
    bad = one if one.id == first else two
    good = two if one.id == first else one
    retry_at = cloud.clock.at.replace(year=2027)
    cloud.beat(bad, 1, replace(FAILED, retry_at=retry_at))
    cloud.beat(good, 1)
    cloud.clock.forward(1)
    placement.place(cloud.ctx)
    assert (good.id, "echo:small") in _rows(cloud)


def test_a_broker_that_is_away_does_not_stop_a_plan(cloud: Cloud) -> None:
    cloud.join()
    cloud.bus.fails = BrokerDown("the broker is away; try again")
    placement.place(cloud.ctx)
    assert len(_rows(cloud)) == 1


def test_a_plan_shows_in_the_next_view(cloud: Cloud) -> None:
    cloud.join()
    assert registry.view(cloud.ctx).workers[0].placements == ()
    placement.place(cloud.ctx)
    (held,) = registry.view(cloud.ctx).workers[0].placements
    assert isinstance(held, PlacementView)


def test_a_placement_is_changed_in_place_and_dropped_by_model(cloud: Cloud) -> None:
    worker = cloud.join()
    first = PlacementRecord(
        worker_id=worker.id,
        model="echo:small",
        quant="none",
        slots=4,
        context=2048,
        reason="first",
        since=cloud.clock.at,
    )
    with cloud.ctx.db.session() as session:
        store.placements.write(session, first)
        store.placements.write(session, first)
        assert store.placements.of_worker(session, worker.id) == (first,)
        assert store.placements.drop(session, worker.id, ["echo:large"]) == 0
        assert store.placements.drop(session, worker.id, ["echo:small"]) == 1


def _rows(cloud: Cloud) -> list[tuple[str, str]]:
    with cloud.ctx.db.reading() as session:
        records = store.placements.everything(session)
    return [(record.worker_id, record.model) for record in records]


@pytest.mark.parametrize(
    ("is_gone", "is_moved"), [(True, True), (False, False)], ids=["gone", "there"]
)
def test_work_does_not_wait_for_a_late_worker_the_broker_has_lost_too(
    cloud: Cloud, is_gone: bool, is_moved: bool
) -> None:
    one, two, three = (cloud.join(name) for name in ("one", "two", "three"))
    cloud.job(model="echo:large")
    placement.place(cloud.ctx)
    holder = next(worker for worker, model in _rows(cloud) if model == "echo:large")
    cloud.clock.forward(60)  # late, not yet offline
    for worker in (one, two, three):
        if worker.id != holder:
            cloud.beat(worker, 1)
    cloud.bus.gone = {holder} if is_gone else set()
    placement.place(cloud.ctx)
    holders = {worker for worker, model in _rows(cloud) if model == "echo:large"}
    assert (len(holders) == 2) is is_moved
    assert holder in holders  # its placements stay until it is lost


def test_a_broker_that_is_away_makes_nobody_dead(cloud: Cloud) -> None:
    one, two, three = (cloud.join(name) for name in ("one", "two", "three"))
    cloud.job(model="echo:large")
    placement.place(cloud.ctx)
    before = _rows(cloud)
    cloud.clock.forward(60)
    for worker in (one, two, three):
        if (worker.id, "echo:large") not in before:
            cloud.beat(worker, 1)
    cloud.bus.fails = BrokerDown("away")
    placement.place(cloud.ctx)
    assert _rows(cloud) == before
