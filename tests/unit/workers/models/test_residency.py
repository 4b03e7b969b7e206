"""What is loaded follows what is desired, with engines and files played by twins."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fixtures.engines import EchoEngine
from genie.contracts.fleet import (
    DesiredModel,
    HostStatus,
    LoadStage,
    ModelState,
    ModelStatus,
)
from genie.contracts.inference import Fault
from genie.contracts.model import ModelFile, ModelSpec, Quant
from workers.engine.errors import load_failed
from workers.engine.protocol import EngineHooks, Load, LoadedEngine
from workers.files.files import LocalModel
from workers.files.manifest import pull_failed
from workers.models import residency
from workers.models.residency import MachineAccess, Residency
from workers.settings import WorkerSettings

GIB = 1024**3
START = datetime(2026, 1, 1, tzinfo=UTC)
BOUND_S = 10.0
FILES = (ModelFile(name="model.safetensors", sha256="ab" * 32, size_bytes=1),)
STATES, STAGES = ModelState, LoadStage


def room(**changes: Any) -> WorkerSettings:
    given = {"threads": 1, "memory_reserve_share": 0.0, "drain_s": 5.0, **changes}
    return WorkerSettings(url="http://cloud", **given)


@dataclass
class Stage:
    """A residency on a machine of twins; every state change is recorded."""

    memory_free: int = 64 * GIB
    fails: list[Exception] = field(default_factory=list)
    room: WorkerSettings = field(default_factory=room)
    idle: bool = True
    spared: int = 0

    def __post_init__(self) -> None:
        self.now = START
        self.started: list[Load] = []
        self.fetched: list[str] = []
        self.engines: dict[str, EchoEngine] = {}
        self.seen: list[tuple[str, ModelState]] = []
        self.stages: list[tuple[ModelState, LoadStage]] = []
        self.waited: list[str] = []
        self._news = threading.Condition()
        machine = MachineAccess(
            fetch=self._fetch,
            start=self._start,
            read=self._read,
            spared=lambda: self.spared,
            give_back=self._give_back,
            now=lambda: self.now,
        )
        self.residency = Residency(
            machine, self.room, on_change=self._change, wait_idle=self._wait_idle
        )

    def __enter__(self) -> "Stage":
        self.residency.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.residency.stop()

    def status(self, model: str = "m") -> ModelStatus | None:
        found = (it for it in self.residency.statuses() if it.model == model)
        return next(found, None)

    def wait(self, state: ModelState | None, model: str = "m") -> ModelStatus | None:
        def there() -> bool:
            status = self.status(model)
            return (status and status.state) == state

        self.wait_for(there)
        return self.status(model)

    def wait_for(self, there: Callable[[], bool]) -> None:
        with self._news:
            assert self._news.wait_for(there, BOUND_S), self.residency.statuses()

    def pass_time(self, seconds: float, *models: DesiredModel) -> None:
        """Move the clock and wake the residency with the same desired set."""
        self.now += timedelta(seconds=seconds)
        self.residency.desire(models)

    def wait_starts(self, count: int) -> None:
        self.wait_for(lambda: len(self.started) >= count)

    @property
    def failures(self) -> list[tuple[str, ModelState]]:
        return [it for it in self.seen if it[1] is STATES.FAILED]

    def _give_back(self) -> bool:
        spared, self.spared = self.spared, 0
        self.memory_free += spared
        return spared > 0

    def _fetch(self, spec: ModelSpec, progress: Callable[[float], None]) -> LocalModel:
        self.fetched.append(spec.id)
        progress(0.5)
        if spec.source == "path:/corrupt":
            raise pull_failed("corrupt", "the sha256 is wrong; pull it again")
        return LocalModel(path=Path("/models") / spec.id, files=FILES)

    def _start(self, load: Load, hooks: EngineHooks) -> LoadedEngine:
        self.started.append(load)
        for share, stage in ((0.0, STAGES.VERIFYING), (0.01, STAGES.READING)):
            hooks.on_progress(share, stage)
        if self.fails:
            raise self.fails.pop(0)
        engine = EchoEngine(slots=load.slots, crash_on="poison", on_exit=hooks.on_exit)
        self.engines[load.spec.id] = engine
        return LoadedEngine(
            engine=engine, fingerprint=f"gf1-{load.spec.id}", peak_bytes=GIB
        )

    def _read(self) -> tuple[HostStatus, tuple[()]]:
        host = HostStatus(
            cpu_count=1,
            memory_total_bytes=64 * GIB,
            memory_available_bytes=self.memory_free,
            disk_free_bytes=0,
        )
        return host, ()

    def _wait_idle(self, model: str, _seconds: float) -> bool:
        self.waited.append(model)
        return self.idle

    def _change(self) -> None:
        with self._news:
            for status in self.residency.statuses():
                if (status.model, status.state) not in self.seen[-1:]:
                    self.seen.append((status.model, status.state))
                if status.stage is not None:
                    self.stages.append((status.state, status.stage))
            self._news.notify_all()


def desired(model: str = "m", **changes: Any) -> DesiredModel:
    spec = ModelSpec(
        id=model,
        family="echo",
        parameters=1,
        license="Apache-2.0",
        source=changes.pop("source", f"path:/{model}"),
        context_max=4096,
        layers=1,
        kv_heads=1,
        head_dim=1,
        quants=(Quant(name="f32", dtype="float32", weight_bytes=2 * GIB),),
    )
    base = DesiredModel(spec=spec, quant="f32", slots=4, context=1024, reason="test")
    return msgspec.structs.replace(base, **changes)


def test_a_desired_model_is_fetched_loaded_and_ready_with_what_was_measured() -> None:
    with Stage() as stage:
        stage.residency.desire([desired()])
        status = stage.wait(STATES.READY)
        assert status is not None
        assert (status.fingerprint, status.peak_bytes) == ("gf1-m", GIB)
        assert (status.files, status.slots, status.context) == (FILES, 4, 1024)
        assert list(stage.residency.ready()) == ["m"]
    order = [state for _, state in stage.seen]
    assert order[:4] == [
        STATES.FETCHING,
        STATES.ON_DISK,
        STATES.LOADING,
        STATES.READY,
    ]
    # However little the share has grown, and gone again when it is ready.
    assert stage.stages == [
        (STATES.LOADING, STAGES.VERIFYING),
        (STATES.LOADING, STAGES.READING),
    ]
    assert stage.started[0].device == "cpu"


def test_nothing_happens_before_the_cloud_has_spoken() -> None:
    with Stage() as stage:
        assert stage.residency.statuses() == ()
    assert stage.fetched == []


def test_the_same_set_again_changes_nothing() -> None:
    with Stage() as stage:
        stage.residency.desire([desired()])
        stage.wait(STATES.READY)
        stage.residency.desire([desired(reason="another"), desired("n")])
        stage.wait(STATES.READY, "n")
    assert [it.spec.id for it in stage.started] == ["m", "n"]


def test_a_model_no_longer_desired_drains_unloads_and_stays_on_disk() -> None:
    with Stage() as stage:
        stage.residency.desire([desired(), desired("n")])
        stage.wait(STATES.READY, "n")
        stage.residency.desire([desired("n")])
        status = stage.wait(STATES.ON_DISK)
        assert status is not None
        assert status.files == FILES
        assert list(stage.residency.ready()) == ["n"]
    assert stage.waited == ["m"]
    assert ("m", STATES.UNLOADING) in stage.seen


def test_a_model_that_never_gets_idle_is_unloaded_all_the_same() -> None:
    with Stage(idle=False) as stage:
        stage.residency.desire([desired()])
        stage.wait(STATES.READY)
        stage.residency.desire([])
        stage.wait(STATES.ON_DISK)


@pytest.mark.parametrize("change", [{"slots": 2}, {"context": 512}])
def test_another_shape_of_a_model_is_loaded_anew(change: dict[str, Any]) -> None:
    with Stage() as stage:
        stage.residency.desire([desired()])
        stage.wait(STATES.READY)
        stage.residency.desire([desired(**change)])
        stage.wait_starts(2)
        stage.wait(STATES.READY)
    first, second = stage.started
    assert second == msgspec.structs.replace(first, **change)


def test_the_workers_own_slot_limit_holds_whatever_the_cloud_wishes() -> None:
    with Stage(room=room(slots_max=2)) as stage:
        stage.residency.desire([desired()])
        stage.wait(STATES.READY)
        stage.residency.desire([desired(), desired("n")])
        stage.wait(STATES.READY, "n")
    assert [it.slots for it in stage.started] == [2, 2]


def test_a_model_too_big_is_refused_before_loading_with_both_figures() -> None:
    with Stage(memory_free=GIB) as stage:
        stage.residency.desire([desired()])
        status = stage.wait(STATES.FAILED)
        assert status is not None
        assert status.error is not None
        assert "needs 2.5" in status.error
        assert "1.00 GiB free" in status.error
        assert status.retry_at == START + timedelta(seconds=30)
    assert stage.started == []


def test_memory_held_for_speed_is_given_back_before_a_model_is_too_big() -> None:
    with Stage(memory_free=2 * GIB, spared=GIB) as stage:
        stage.residency.desire([desired()])
        stage.wait(STATES.READY)
        assert stage.spared == 0


def test_memory_held_for_speed_counts_against_the_operators_limit() -> None:
    with Stage(room=room(memory_limit_bytes=3 * GIB), spared=GIB) as stage:
        stage.residency.desire([desired()])
        stage.wait(STATES.READY)
        assert stage.spared == 0


def test_a_failed_load_is_tried_again_after_its_wait_and_given_up_after_three() -> None:
    errors: list[Exception] = [load_failed("oom", "out of memory")] * 3
    with Stage(fails=errors) as stage:
        for count, seconds in enumerate((0, 30, 60), start=1):
            stage.pass_time(seconds, desired())
            stage.wait_for(lambda n=count: len(stage.failures) == n)  # type: ignore[misc]  # bound now
        status = stage.status()
        assert status is not None
        assert (status.error, status.retry_at) == ("out of memory", None)
        stage.pass_time(86_400, desired())
        stage.pass_time(0)
        stage.wait(None)
        assert len(stage.started) == 3
        stage.pass_time(0, desired())
        stage.wait(STATES.READY)


def test_corrupt_files_fail_with_the_reason_and_nothing_is_loaded() -> None:
    with Stage() as stage:
        stage.residency.desire([desired(source="path:/corrupt")])
        status = stage.wait(STATES.FAILED)
        assert status is not None
        assert status.error == "the sha256 is wrong; pull it again"
    assert stage.started == []


@pytest.mark.parametrize("error", [OSError("disk full"), KeyError("disk full")])
def test_an_error_of_the_system_fails_the_model_not_the_thread(
    error: Exception,
) -> None:
    with Stage(fails=[error]) as stage:
        stage.residency.desire([desired()])
        status = stage.wait(STATES.FAILED)
        assert status is not None
        assert "disk full" in (status.error or "")
        stage.pass_time(30, desired())
        stage.wait(STATES.READY)


def test_an_engine_that_cannot_be_closed_does_not_end_the_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stuck() -> None:
        raise RuntimeError("it cannot be closed")

    monkeypatch.setattr(residency, "STEP_AGAIN_S", 0.05)
    with Stage() as stage:
        stage.residency.desire([desired("a")])
        stage.wait(STATES.READY, "a")
        monkeypatch.setattr(stage.engines["a"], "close", stuck)
        stage.residency.desire([desired("b")])
        stage.wait(STATES.READY, "b")
        stage.wait(STATES.ON_DISK, "a")


def test_a_quant_the_model_does_not_have_is_final() -> None:
    with Stage() as stage:
        stage.residency.desire([desired(quant="int3")])
        status = stage.wait(STATES.FAILED)
        assert status is not None
        assert "no quant int3" in (status.error or "")
        assert status.retry_at is None


def test_another_fingerprint_than_desired_fails_naming_both() -> None:
    with Stage() as stage:
        stage.residency.desire([desired(fingerprint="gf1-other")])
        status = stage.wait(STATES.FAILED)
        assert status is not None
        assert "gf1-m" in (status.error or "")
        assert "gf1-other" in (status.error or "")
        assert stage.residency.ready() == {}


def test_an_engine_that_dies_is_restarted_at_once_without_another_fetch() -> None:
    with Stage() as stage:
        stage.residency.desire([desired()])
        stage.wait(STATES.READY)
        kill(stage)
        stage.wait_starts(2)
        stage.wait(STATES.READY)
        kill(stage)
        status = stage.wait(STATES.FAILED)
        assert status is not None
        assert status.retry_at == START + timedelta(seconds=30)
    assert stage.fetched == ["m"]


def test_an_engine_that_dies_at_work_is_restarted_at_once_twice_then_rests() -> None:
    with Stage() as stage:
        stage.residency.desire([desired()])
        for count in (1, 2, 3):
            stage.wait_starts(count)
            stage.wait(STATES.READY)
            stage.residency.served("m")
            kill(stage)
        status = stage.wait(STATES.FAILED)
        assert status is not None
        assert status.retry_at == START + timedelta(seconds=30)
    assert len(stage.started) == 3


def test_stopping_closes_every_engine() -> None:
    with Stage() as stage:
        stage.residency.desire([desired(), desired("n")])
        stage.wait(STATES.READY, "n")
    assert stage.residency.ready() == {}
    assert not any(engine._thread.is_alive() for engine in stage.engines.values())


def kill(stage: Stage) -> None:
    """Make the engine of ``m`` die as a crash would."""
    fault = Fault(code="engine_died", message="killed by signal 9", retryable=True)
    stage.engines["m"]._on_exit(fault)
