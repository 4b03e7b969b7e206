"""Registrations, heartbeats, and who went silent."""

import pytest
from msgspec.structs import replace
from sqlmodel import select

from cloud_app import store
from cloud_app.brain.views import Liveness
from cloud_app.fleet import placement, registry
from cloud_app.orgs import auth
from cloud_app.store.records import PlacementRecord
from cloud_app.store.tables import ModelFactRow
from fixtures.clouds import NOON, Cloud, Statements, heartbeat, registration
from genie import engines
from genie.contracts.fleet import DirectiveKind, EngineFacts, ModelState, ModelStatus
from genie.contracts.model import ModelFile
from genie.errors import BadRequest, NotFound, Unauthorized

READY = ModelStatus(
    model="echo:small",
    quant="none",
    state=ModelState.READY,
    fingerprint="gf1-1",
    slots=4,
    context=2048,
    files=(ModelFile(name="model.safetensors", sha256="ab" * 32),),
)


def test_a_worker_joins_with_a_token_and_is_told_where_its_work_is(
    cloud: Cloud,
) -> None:
    token = auth.create_join_token(cloud.ctx, "acme", ("org.acme", "genie"))
    answer = registry.register(cloud.ctx, registration("gpu-1", gpus=2), token)
    assert (answer.org, answer.name) == ("acme", "gpu-1")
    assert answer.queues == ("org.acme", "genie")
    assert answer.broker_url == "memory://"
    assert answer.heartbeat_s == 30.0
    worker = registry.workers(cloud.ctx, cloud.acme)[0]
    assert worker.id == answer.worker_id
    assert registry.view(cloud.ctx).workers[0].device == "cuda"


def test_what_a_worker_says_of_its_engines_is_what_is_planned_with(
    cloud: Cloud,
) -> None:
    token = auth.create_join_token(cloud.ctx, "acme")
    tiny = EngineFacts(name="tiny", version="3", sources=("tiny",), dtypes=("float32",))
    said = replace(registration(), engines=("echo", "tiny"), engine_facts=(tiny,))
    registry.register(cloud.ctx, said, token)
    view = registry.view(cloud.ctx).workers[0]
    assert view.engine("tiny") == tiny
    assert view.engine("vllm") is None


def test_a_worker_of_the_release_before_only_names_its_engines(cloud: Cloud) -> None:
    token = auth.create_join_token(cloud.ctx, "acme")
    registry.register(cloud.ctx, registration(), token)
    view = registry.view(cloud.ctx).workers[0]
    assert view.engine("echo") == engines.SHIPPED["echo"]


def test_a_token_joins_one_worker(cloud: Cloud) -> None:
    token = auth.create_join_token(cloud.ctx, "acme")
    registry.register(cloud.ctx, registration("one"), token)
    with pytest.raises(Unauthorized, match="was used before"):
        registry.register(cloud.ctx, registration("two"), token)
    assert len(registry.workers(cloud.ctx, "acme")) == 1


def test_a_registration_without_a_token_says_how_to_get_one(cloud: Cloud) -> None:
    for token in (None, ""):
        with pytest.raises(Unauthorized, match="genie worker token"):
            registry.register(cloud.ctx, registration(), token)


def test_a_worker_that_registers_again_keeps_its_id_and_what_it_holds(
    cloud: Cloud,
) -> None:
    token = auth.create_join_token(cloud.ctx, "acme")
    first = registry.register(cloud.ctx, registration(), token)
    _hold(cloud, first.worker_id)
    said = replace(registration(), boot_id="second boot")
    again = registry.register(cloud.ctx, said, first.worker_secret)
    assert again == first
    worker = auth.authenticate_worker(cloud.ctx, first.worker_secret)
    assert worker is not None
    assert worker.boot_id == "second boot"
    reply = registry.heartbeat(cloud.ctx, worker, heartbeat("second boot", 0))
    assert [wanted.spec.id for wanted in reply.desired] == ["echo:small"]


def test_a_removed_worker_has_to_join_again(cloud: Cloud) -> None:
    token = auth.create_join_token(cloud.ctx, "acme")
    joined = registry.register(cloud.ctx, registration(), token)
    worker = auth.authenticate_worker(cloud.ctx, joined.worker_secret)
    _hold(cloud, joined.worker_id)
    registry.remove(cloud.ctx, "acme", joined.worker_id)
    assert registry.workers(cloud.ctx, "acme") == ()
    assert auth.authenticate_worker(cloud.ctx, joined.worker_secret) is None
    assert registry.heartbeat(cloud.ctx, worker, heartbeat("b", 1)).register
    with pytest.raises(Unauthorized, match="join again"):
        registry.register(cloud.ctx, registration(), joined.worker_secret)


def test_a_new_worker_takes_the_name_of_a_silent_one(cloud: Cloud) -> None:
    old = cloud.join("gpu-1")
    cloud.clock.forward(91)
    new = cloud.join("gpu-1")
    assert [worker.id for worker in registry.workers(cloud.ctx, "acme")] == [new.id]
    assert old.id != new.id


def test_two_live_workers_may_have_one_name(cloud: Cloud) -> None:
    ids = {cloud.join("gpu-1").id, cloud.join("gpu-1").id}
    assert {worker.id for worker in registry.workers(cloud.ctx, "acme")} == ids


def test_another_protocol_is_refused_naming_both(cloud: Cloud) -> None:
    worker = cloud.join()
    beat = replace(heartbeat(worker.boot_id, 1), protocol=2)
    with pytest.raises(BadRequest, match=r"protocol 2 .* speaks 1; upgrade the cloud"):
        registry.heartbeat(cloud.ctx, worker, beat)
    said = replace(registration(), protocol=0)
    with pytest.raises(BadRequest, match=r"protocol 0 .* 1; upgrade the worker") as no:
        registry.register(cloud.ctx, said, "gj-x")
    assert no.value.param == "protocol"


@pytest.mark.parametrize("field", ["name", "hostname", "boot_id", "version"])
def test_a_registration_with_an_unreadable_field_names_it(
    cloud: Cloud, field: str
) -> None:
    said = replace(registration(), **{field: "a\0b"})
    with pytest.raises(BadRequest) as caught:
        registry.register(cloud.ctx, said, "gj-x")
    assert caught.value.param == field


def test_a_heartbeat_is_one_write_and_one_read(cloud: Cloud) -> None:
    worker = cloud.join()
    with Statements() as first:
        cloud.beat(worker, 1, READY)
    assert len(first.seen) == 3  # the fact is new
    with Statements() as later:
        cloud.beat(worker, 2, READY)
    assert len(later.seen) == 2
    assert len(later.writes) == 1


def test_a_heartbeat_shows_in_the_view(cloud: Cloud) -> None:
    worker = cloud.join()
    cloud.clock.forward(10)
    reply = cloud.beat(worker, 7, READY)
    assert (reply.ack_seq, reply.register, reply.next_in_s) == (7, False, 30.0)
    assert reply.server_time == cloud.clock.at
    seen = registry.view(cloud.ctx).workers[0]
    assert seen.age_s == 0
    assert seen.models[0].fingerprint == "gf1-1"


def test_a_stale_heartbeat_is_ignored_and_answered(cloud: Cloud) -> None:
    worker = cloud.join()
    cloud.beat(worker, 5, READY)
    cloud.clock.forward(50)
    reply = cloud.beat(worker, 4)
    assert reply.ack_seq == 5
    seen = registry.view(cloud.ctx).workers[0]
    assert seen.models
    assert seen.liveness is Liveness.LATE


def test_a_new_boot_counts_from_anywhere(cloud: Cloud) -> None:
    worker = cloud.join()
    cloud.beat(worker, 5, READY)
    reply = registry.heartbeat(cloud.ctx, worker, heartbeat("another boot", 0))
    assert reply.ack_seq == 0
    assert registry.view(cloud.ctx).workers[0].models == ()


@pytest.mark.parametrize(
    ("boot_id", "seq", "field"), [("a\0", 1, "boot_id"), ("b", 2**63, "seq")]
)
def test_a_heartbeat_no_database_could_store_is_refused(
    cloud: Cloud, boot_id: str, seq: int, field: str
) -> None:
    worker = cloud.join()
    with pytest.raises(BadRequest) as caught:
        registry.heartbeat(cloud.ctx, worker, heartbeat(boot_id, seq))
    assert caught.value.param == field


def test_an_unknown_worker_is_asked_to_register(cloud: Cloud) -> None:
    reply = registry.heartbeat(cloud.ctx, None, heartbeat("b", 3))
    assert reply.register
    assert (reply.ack_seq, reply.desired) == (3, ())


def test_the_answer_always_holds_everything_desired(cloud: Cloud) -> None:
    worker = cloud.join()
    _hold(cloud, worker.id)
    for seq in (1, 2):
        reply = cloud.beat(worker, seq)
        assert [wanted.spec.id for wanted in reply.desired] == ["echo:small"]
        assert [order.kind for order in reply.directives] == [DirectiveKind.LOAD]
    assert cloud.beat(worker, 3, READY).directives == ()


def test_a_quarantined_worker_is_wanted_to_hold_nothing(cloud: Cloud) -> None:
    worker = cloud.join()
    _hold(cloud, worker.id)
    registry.quarantine(cloud.ctx, "acme", worker.id)
    worker = registry.workers(cloud.ctx, "acme")[0]
    assert cloud.beat(worker, 1).desired == ()
    registry.quarantine(cloud.ctx, "acme", worker.id, on=False)
    assert registry.workers(cloud.ctx, "acme")[0].quarantined_at is None


def test_another_orgs_worker_is_no_worker(cloud: Cloud) -> None:
    auth.ensure_org(cloud.ctx, "globex")
    worker = cloud.join()
    assert registry.workers(cloud.ctx, "globex") == ()
    assert registry.workers(cloud.ctx, "initech") == ()
    for change in (registry.remove, registry.quarantine):
        with pytest.raises(NotFound, match="in this org"):
            change(cloud.ctx, "globex", worker.id)
    assert len(registry.workers(cloud.ctx, "acme")) == 1


def test_what_workers_measured_is_kept_once(cloud: Cloud) -> None:
    one, two = cloud.join("one"), cloud.join("two")
    cloud.beat(one, 1, READY)
    cloud.beat(two, 1, READY, replace(READY, fingerprint="gf1-\0"))
    with cloud.ctx.db.reading() as session:
        facts = session.exec(select(ModelFactRow)).all()
    assert [(one.model, one.quant, one.fingerprint) for one in facts] == [
        ("echo:small", "none", "gf1-1")
    ]


def test_the_view_is_at_most_half_a_second_old(cloud: Cloud) -> None:
    cloud.join("one")
    first = registry.view(cloud.ctx)
    cloud.clock.forward(0.5)
    with Statements() as statements:
        assert registry.view(cloud.ctx) is first
    assert statements.seen == []
    cloud.clock.forward(0.1)
    assert registry.view(cloud.ctx) is not first


def test_the_view_takes_two_statements_however_many_workers(cloud: Cloud) -> None:
    for number in range(5):
        _hold(cloud, cloud.join(f"gpu-{number}").id)
    with Statements() as statements:
        fleet = registry.view(cloud.ctx)
    assert len(fleet.workers) == 5
    assert all(worker.placements for worker in fleet.workers)
    assert len(statements.seen) == 2


@pytest.mark.parametrize(
    ("silent_s", "expected"),
    [(45, "online"), (46, "late"), (91, "offline"), (301, "lost")],
)
def test_silence_is_told_in_four_words(
    cloud: Cloud, silent_s: float, expected: str
) -> None:
    silent = cloud.join("silent")
    others = [cloud.join(f"other-{number}") for number in range(3)]
    cloud.clock.forward(silent_s)
    for other in others:
        cloud.beat(other, 1)
    report = registry.gather(cloud.ctx)
    changed = {it.worker.id: it.worker.liveness for it in report.transitions}
    assert changed == ({} if expected == "online" else {silent.id: expected})
    assert registry.gather(cloud.ctx).transitions == ()


def test_a_quiet_gathering_writes_nothing(cloud: Cloud) -> None:
    cloud.join()
    with Statements() as statements:
        registry.gather(cloud.ctx)
    assert statements.writes == []


def test_what_a_lost_worker_held_is_released(cloud: Cloud) -> None:
    lost = cloud.join("lost")
    others = [cloud.join(f"other-{number}") for number in range(2)]
    _hold(cloud, lost.id)
    _hold(cloud, others[0].id)
    cloud.clock.forward(301)
    for other in others:
        cloud.beat(other, 1)
    report = registry.gather(cloud.ctx)
    assert report.released == 1
    with cloud.ctx.db.reading() as session:
        assert store.placements.of_worker(session, lost.id) == ()
        assert store.placements.of_worker(session, others[0].id) != ()


def test_a_worker_that_comes_back_is_told(cloud: Cloud) -> None:
    worker = cloud.join()
    cloud.clock.forward(60)
    registry.gather(cloud.ctx)
    cloud.beat(worker, 1)
    (change,) = registry.gather(cloud.ctx).transitions
    assert (change.was, change.worker.liveness) == ("late", "online")


def test_mass_silence_moves_nothing(cloud: Cloud) -> None:
    workers = [cloud.join(f"gpu-{number}") for number in range(5)]
    for worker in workers:
        _hold(cloud, worker.id)
    cloud.clock.forward(301)
    for worker in workers[:2]:
        cloud.beat(worker, 1)
    report = registry.gather(cloud.ctx)
    assert report.released == 0
    plan = placement.place(cloud.ctx)
    assert plan.held is not None
    assert plan.moves == ()
    with cloud.ctx.db.reading() as session:
        assert len(store.placements.everything(session)) == 5


def _hold(cloud: Cloud, worker_id: str) -> None:
    record = PlacementRecord(
        worker_id=worker_id,
        model="echo:small",
        quant="none",
        slots=4,
        context=2048,
        reason="a test wants it there",
        since=NOON,
    )
    with cloud.ctx.db.session() as session:
        store.placements.write(session, record)
