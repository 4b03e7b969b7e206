"""How much memory our models may use, from what a worker reports."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from cloud_app.brain.views import WorkerView
from cloud_app.fleet import snapshot
from cloud_app.store.records import OrgRecord, WorkerRecord
from fixtures.clouds import GIB, NOON, gpu, heartbeat, host
from genie import catalog
from genie.contracts.fleet import Heartbeat, ModelState, ModelStatus

ECHO = catalog.load(catalog.ECHO)
SHIPPED = catalog.load()


def test_gpus_count_without_foreign_use_and_a_reserve() -> None:
    view = _view(replace(_beat(), gpus=(gpu(0), gpu(1, foreign_gib=30))))
    assert view.device == "cuda"
    assert view.memory_bytes == int(80 * GIB * 0.92) + int(50 * GIB * 0.92)


def test_a_gpu_full_of_foreign_work_holds_nothing() -> None:
    assert _view(replace(_beat(), gpus=(gpu(foreign_gib=90),))).memory_bytes == 0


def test_a_host_without_gpu_serves_from_free_memory() -> None:
    view = _view(_beat())
    assert view.device == "cpu"
    assert view.memory_bytes == int(16 * GIB * 0.85)


def test_what_our_own_models_hold_is_ours_to_use() -> None:
    ready = _model(ModelState.READY, peak_bytes=4 * GIB)
    assert _view(_beat(ready)).memory_bytes == int(20 * GIB * 0.85)


def test_a_model_never_measured_counts_by_arithmetic() -> None:
    ready = _model(ModelState.READY, slots=4, context=2048)
    ready = replace(ready, model="smollm2:135m", quant="f32")
    assert _view(_beat(ready)).memory_bytes > _view(_beat()).memory_bytes
    unknown = replace(ready, model="gone:1b")
    assert _view(_beat(unknown)).memory_bytes == _view(_beat()).memory_bytes


def test_a_loading_model_holds_the_part_it_has_loaded() -> None:
    half = _model(ModelState.LOADING, peak_bytes=4 * GIB, progress=0.5)
    assert _view(_beat(half)).memory_bytes == int(18 * GIB * 0.85)
    unsaid = _model(ModelState.LOADING, peak_bytes=4 * GIB)
    assert _view(_beat(unsaid)).memory_bytes == int(16 * GIB * 0.85)


@pytest.mark.parametrize("state", ["absent", "fetching", "on_disk", "failed"])
def test_a_model_that_is_not_loaded_holds_nothing(state: str) -> None:
    status = _model(ModelState(state), peak_bytes=4 * GIB)
    assert _view(_beat(status)).memory_bytes == int(16 * GIB * 0.85)


@given(free=st.floats(0, 64), held=st.lists(st.integers(0, 200), max_size=4))
def test_no_host_offers_more_than_it_has(free: float, held: list[int]) -> None:
    models = [_model(ModelState.READY, peak_bytes=size * GIB) for size in held]
    beat = replace(_beat(*models), host=host(free_gib=free, total_gib=64))
    assert 0 <= snapshot.host_bytes(beat, SHIPPED) <= 64 * GIB * 0.85


def test_a_failure_and_its_retry_time_are_part_of_the_view() -> None:
    failed = _model(ModelState.FAILED, error="out of memory", retry_at=NOON)
    (model,) = _view(_beat(failed)).models
    assert (model.error, model.retry_at) == ("out of memory", NOON)


def test_a_clock_set_back_makes_nobody_late() -> None:
    record = _record(_beat())
    early = NOON.replace(hour=11)
    view = snapshot.worker_view(record, _beat(), (), ECHO, early, 30.0)
    assert view.age_s == 0


def test_a_worker_that_never_reported_is_not_in_the_view() -> None:
    record = _record(None)
    assert snapshot.fleet_view([record], [], ECHO, NOON, 30.0).workers == ()


def _model(
    state: ModelState,
    *,
    peak_bytes: int = 0,
    slots: int = 0,
    context: int = 0,
    **said: object,
) -> ModelStatus:
    status = ModelStatus(
        model="echo:small",
        quant="none",
        state=state,
        peak_bytes=peak_bytes,
        slots=slots,
        context=context,
    )
    return replace(status, **said)


def _beat(*models: ModelStatus) -> Heartbeat:
    return heartbeat("boot", 1, *models)


def _view(beat: Heartbeat) -> WorkerView:
    return snapshot.worker_view(_record(beat), beat, (), SHIPPED, NOON, 30.0)


def _record(beat: Heartbeat | None) -> WorkerRecord:
    return WorkerRecord(
        id="w1",
        name="gpu-1",
        org=OrgRecord(id="o1", slug="acme", name="Acme"),
        queues=("genie",),
        hostname="gpu-1.example",
        boot_id="boot",
        version="0.1.0",
        engines=("echo",),
        engine_facts=(),
        labels={},
        registered_at=NOON,
        seen_at=NOON,
        seq=1,
        status=beat,
        noted="online",
        quarantined_at=None,
        removed_at=None,
    )
