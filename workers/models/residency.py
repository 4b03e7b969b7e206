"""Loads and unloads models until those here are those the cloud desires.

One step at a time, in a thread of its own. Level-triggered: whatever was missed, the
next desired set says everything again. Nothing unloads that is still desired,
nothing loads that does not fit.
"""

import threading
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import msgspec

from genie import logs
from genie.contracts.fleet import (
    DesiredModel,
    EngineFacts,
    GpuStatus,
    HostStatus,
    LoadStage,
    ModelState,
    ModelStatus,
)
from genie.contracts.inference import Fault
from genie.contracts.model import ModelSpec, Quant
from genie.errors import GenieError
from genie.memory import MemoryNeed, need
from workers.engine import registry
from workers.engine.errors import EngineError, LoadFailed
from workers.engine.protocol import (
    EngineHooks,
    EngineStats,
    Gather,
    Load,
    LoadedEngine,
)
from workers.files.files import LocalModel
from workers.files.manifest import OnPullProgress, PullFailed
from workers.models import memory
from workers.models.backoff import FailureHistory
from workers.settings import WorkerSettings

log = logs.logger("residency")

PROGRESS_STEP = 0.05
"""Progress is reported in steps of a twentieth: a heartbeat is not a progress bar."""

STEP_AGAIN_S = 1.0
STOP_WAIT_S = 5.0
"""How long a stop waits for a load under way; its child ends with this process."""


StartEngine = Callable[[Load, EngineHooks], LoadedEngine]
"""Loads a model into an engine of its own and waits until it serves; raises
LoadFailed. `workers.engine.parent.starter.start` is one."""

FetchModel = Callable[[ModelSpec, OnPullProgress], LocalModel]
"""Makes sure a model's files are on disk; raises PullFailed."""


@dataclass(slots=True, kw_only=True)
class ResidentModel:
    """A model this worker was told to hold, from the first fetch to the unload."""

    desired: DesiredModel
    state: ModelState = ModelState.ABSENT
    progress: float | None = None
    stage: LoadStage | None = None
    pulled: LocalModel | None = None
    loaded: LoadedEngine | None = None
    failures: FailureHistory = field(default_factory=FailureHistory)
    death: Fault | None = None
    served: int = 0
    """Requests it has finished here, by this engine or one before."""

    @property
    def model(self) -> str:
        """The model's id."""
        return self.desired.spec.id

    def status(self) -> ModelStatus:
        """What the heartbeat says of this model."""
        loaded = self.loaded
        stats = loaded.engine.stats() if loaded else EngineStats()
        has_failed = self.state is ModelState.FAILED
        return ModelStatus(
            model=self.model,
            quant=self.desired.quant,
            state=self.state,
            fingerprint=loaded.fingerprint if loaded else None,
            progress=self.progress,
            stage=self.stage,
            slots=self.desired.slots,
            context=self.desired.context,
            in_flight=stats.active + stats.waiting,
            waiting=stats.waiting,
            tokens_per_s=stats.tokens_per_s,
            peak_bytes=max(loaded.peak_bytes, stats.peak_bytes) if loaded else 0,
            files=self.pulled.files if self.pulled else (),
            error=self.failures.reason if has_failed else None,
            retry_at=self.failures.retry_at if has_failed else None,
        )

    def suits(self, desired: DesiredModel) -> bool:
        """True when what is loaded is what is wanted now.

        Digests recorded since, or another reason, are no reason to load again.
        """
        mine = self.desired
        same = (mine.quant, mine.slots, mine.context, mine.spec.source) == (
            desired.quant,
            desired.slots,
            desired.context,
            desired.spec.source,
        )
        if self.loaded is None:
            return same and mine.fingerprint == desired.fingerprint
        return same and desired.fingerprint in (None, self.loaded.fingerprint)


def quant_of(desired: DesiredModel) -> Quant | None:
    """The quant the cloud chose, if the model has it."""
    quants = (item for item in desired.spec.quants if item.name == desired.quant)
    return next(quants, None)


def needed(
    desired: DesiredModel, quant: Quant, facts: EngineFacts, peak_bytes: int | None
) -> MemoryNeed:
    """Memory to load it: the estimate, or what it was measured to take here before."""
    estimate = need(
        desired.spec, quant, slots=desired.slots, context=desired.context, engine=facts
    )
    if peak_bytes is None:
        return estimate
    rest = peak_bytes - estimate.weights - estimate.kv_cache
    return replace(estimate, overhead=max(0, rest))


def due(residents: Iterable[ResidentModel], now: datetime) -> ResidentModel | None:
    """The first model that should be loaded now: new, or failed and allowed again."""
    idle = (ModelState.ABSENT, ModelState.FAILED)
    waiting = (item for item in residents if item.state in idle)
    return next((item for item in waiting if item.failures.allows(now)), None)


def next_retry(residents: Iterable[ResidentModel]) -> datetime | None:
    """When the next failed model may be tried again."""
    failed = (item for item in residents if item.state is ModelState.FAILED)
    times = (item.failures.retry_at for item in failed)
    return min((at for at in times if at is not None), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineAccess:
    """How residency touches the world: files, engines, figures, the clock."""

    fetch: FetchModel
    start: StartEngine
    read: Callable[[], tuple[HostStatus, tuple[GpuStatus, ...]]]
    spared: Callable[[], int] = lambda: 0
    """Bytes held only to start the next model sooner."""

    give_back: Callable[[], bool] = lambda: False
    """Let go of these bytes; False if there were none."""

    gather: Gather = nullcontext
    """Entered around all that an engine says in one step."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    """The wall clock, in UTC."""


class Residency:
    """Loads and unloads models until what is here is what the cloud desires.

    ``on_change`` runs, in any thread, whenever a model's state has changed;
    ``wait_idle(model, seconds)`` returns when a model has no request left.
    """

    def __init__(
        self,
        machine: MachineAccess,
        settings: WorkerSettings,
        *,
        on_change: Callable[[], None],
        wait_idle: Callable[[str, float], bool],
    ) -> None:
        self._machine, self._settings = machine, settings
        self._on_change, self._wait_idle = on_change, wait_idle
        self._wake = threading.Condition(threading.RLock())
        self._wanted: dict[str, DesiredModel] | None = None
        self._residents: dict[str, ResidentModel] = {}
        self._on_disk: dict[str, ModelStatus] = {}
        self._peaks: dict[tuple[str, str, int, int], int] = {}
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="residency", daemon=True)

    def start(self) -> None:
        """Start the thread; nothing happens before the first `desire`."""
        self._thread.start()

    def stop(self) -> None:
        """Close every engine and give the memory back; what runs is failed."""
        with self._wake:
            self._is_stopping = True
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join(STOP_WAIT_S)
        for item in tuple(self._residents.values()):
            self._close(item)

    def desire(self, models: Iterable[DesiredModel]) -> None:
        """The full set of models that should be here; returns at once."""
        wanted = {item.spec.id: self._capped(item) for item in models}
        with self._wake:
            self._wanted = wanted
            self._wake.notify_all()

    def statuses(self) -> tuple[ModelStatus, ...]:
        """Every model here or on disk, for the heartbeat."""
        with self._wake:
            residents, on_disk = list(self._residents.values()), dict(self._on_disk)
        # Outside the lock: an engine's figures have a lock of their own.
        here = {item.model: item.status() for item in residents}
        return tuple((on_disk | here).values())

    def ready(self) -> dict[str, LoadedEngine]:
        """The models that can take a request now."""
        with self._wake:
            return {
                item.model: item.loaded
                for item in self._residents.values()
                if item.state is ModelState.READY and item.loaded is not None
            }

    def served(self, model: str) -> None:
        """One request of ``model`` was finished: its engine has proven itself."""
        with self._wake:
            if item := self._residents.get(model):
                item.served += 1

    def _capped(self, desired: DesiredModel) -> DesiredModel:
        """No more slots than this worker allows."""
        slots = min(desired.slots, self._settings.slots_max or desired.slots)
        return msgspec.structs.replace(desired, slots=slots)

    def _run(self) -> None:
        while not self._is_stopping:
            step = self._next()
            if step is not None:
                self._take(step)

    def _take(self, step: Callable[[], None]) -> None:
        # Border: if this thread dies nothing is ever loaded or unloaded here again,
        # while heartbeats go on and tell of a healthy worker.
        try:
            step()
        except Exception as error:
            log.error("step_failed", error=type(error).__name__, exc_info=True)
            with self._wake:
                self._wake.wait(STEP_AGAIN_S)

    def _next(self) -> Callable[[], None] | None:
        """The next step: close what died, then unload, then load; None after a wait."""
        with self._wake:
            self._adopt()
            residents = self._residents.values()
            for item in residents:
                if item.death is not None:
                    return lambda: self._close_dead(item)
            for item in residents:
                if self._is_unwanted(item):
                    return lambda: self._unload(item)
            if (found := due(residents, self._machine.now())) is not None:
                return lambda: self._load(found)
            self._wake.wait(self._pause())
        return None

    def _pause(self) -> float | None:
        if self._is_stopping:
            return 0.0
        at = next_retry(self._residents.values())
        if at is None:
            return None
        return max(0.01, (at - self._machine.now()).total_seconds())

    def _adopt(self) -> None:
        for model, desired in (self._wanted or {}).items():
            item = self._residents.get(model)
            if item is None:
                self._residents[model] = ResidentModel(desired=desired)
            elif item.suits(desired):
                item.desired = desired

    def _is_unwanted(self, item: ResidentModel) -> bool:
        if self._wanted is None:
            return False
        match = self._wanted.get(item.model)
        return match is None or not item.suits(match)

    def _unload(self, item: ResidentModel) -> None:
        if item.loaded is not None:
            self._set(item, ModelState.UNLOADING)
            if not self._wait_idle(item.model, self._settings.drain_s):
                log.warning("unload_cut_short", model=item.model)
            self._close(item)
            log.info("unloaded", model=item.model)
        with self._wake:
            del self._residents[item.model]
            if item.pulled is not None:
                self._on_disk[item.model] = ModelStatus(
                    model=item.model,
                    quant=item.desired.quant,
                    state=ModelState.ON_DISK,
                    files=item.pulled.files,
                )
        self._on_change()

    def _close(self, item: ResidentModel) -> None:
        with self._wake:
            loaded, item.loaded = item.loaded, None
        if loaded is not None:
            loaded.engine.close()

    def _close_dead(self, item: ResidentModel) -> None:
        item.death = None
        self._close(item)

    def _load(self, item: ResidentModel) -> None:
        try:
            if item.pulled is None:
                self._set(item, ModelState.FETCHING)
                item.pulled = self._machine.fetch(
                    item.desired.spec, lambda share: self._progress(item, share)
                )
                self._set(item, ModelState.ON_DISK)
            self._start(item)
        except (LoadFailed, PullFailed) as error:
            item.pulled = None  # the next try looks at the files again
            self._note(item, error.fault.code, error.fault.message)
        except Exception as error:
            # Border: a surprise in one model's load must not leave it loading for ever.
            if not isinstance(error, EngineError | GenieError | OSError):
                log.error("load_surprise", model=item.model, exc_info=True)
            kind = type(error).__name__
            reason = f"{item.model} could not be loaded: {kind}: {error}"
            self._note(item, "load_failed", reason)

    def _start(self, item: ResidentModel) -> None:
        desired, quant = item.desired, quant_of(item.desired)
        if quant is None:
            reason = f"{item.model} has no quant {desired.quant}; mend the catalog"
            self._note(item, "unknown_quant", reason, is_final=True)
            return
        key = (item.model, quant.name, desired.slots, desired.context)
        facts = registry.engine_named(desired.spec.engine).facts
        need = needed(desired, quant, facts, self._peaks.get(key))
        place = self._place(desired, quant, facts, need)
        if isinstance(place, memory.MemoryRefusal) and self._machine.give_back():
            place = self._place(desired, quant, facts, need)
        if isinstance(place, memory.MemoryRefusal):
            self._note(item, "too_big", place.reason)
            return
        self._set(item, ModelState.LOADING)
        path = item.pulled.path if item.pulled else None
        load = Load(
            spec=desired.spec,
            quant=quant,
            path=None if path is None else str(path),
            slots=desired.slots,
            context=desired.context,
            device=place,
            threads=self._settings.threads,
        )
        hooks = EngineHooks(
            on_exit=lambda fault: self._died(item, fault),
            on_progress=lambda share, stage: self._progress(item, share, stage),
            gather=self._machine.gather,
        )
        loaded = self._machine.start(load, hooks)
        self._peaks[key] = loaded.peak_bytes
        self._make_ready(item, loaded)

    def _make_ready(self, item: ResidentModel, loaded: LoadedEngine) -> None:
        wanted = item.desired.fingerprint
        with self._wake:
            item.loaded = loaded
        if wanted is not None and wanted != loaded.fingerprint:
            self._set(item, ModelState.UNLOADING)
            self._close(item)
            reason = (
                f"{item.model} was measured as {loaded.fingerprint} and {wanted} is "
                "desired; pull the catalog's version of it or update this worker"
            )
            self._note(item, "fingerprint_mismatch", reason, is_final=True)
            return
        with self._wake:
            if item.death is not None:  # it died before we looked: `_next` closes it
                return
            item.state, item.progress, item.stage = ModelState.READY, None, None
        self._on_change()
        log.info("ready", model=item.model, fingerprint=loaded.fingerprint)

    def _place(
        self,
        desired: DesiredModel,
        quant: Quant,
        facts: EngineFacts,
        need: MemoryNeed,
    ) -> str | memory.MemoryRefusal:
        places = memory.devices(*self._machine.read())
        return memory.place(
            desired, quant, need, places, self._limits(), kinds=facts.devices
        )

    def _limits(self) -> memory.MemoryLimits:
        held = sum(status.peak_bytes for status in self.statuses())
        held += self._machine.spared()
        return memory.MemoryLimits(
            reserve_share=self._settings.memory_reserve_share,
            limit_bytes=self._settings.memory_limit_bytes,
            held_bytes=held,
        )

    def _died(self, item: ResidentModel, fault: Fault) -> None:
        """An engine ended by itself; called from the engine's thread."""
        log.error("engine_died", model=item.model, code=fault.code)
        with self._wake:
            if item.state is ModelState.UNLOADING or self._is_stopping:
                return
            note = item.failures.note_death
            if item.served:
                note = item.failures.note_death_at_work
            note(fault.message, self._machine.now())
            item.death, item.state = fault, ModelState.FAILED
            self._wake.notify_all()
        self._on_change()

    def _note(
        self, item: ResidentModel, code: str, reason: str, *, is_final: bool = False
    ) -> None:
        item.failures.note(reason, self._machine.now(), is_final=is_final)
        self._set(item, ModelState.FAILED)
        retry_at = item.failures.retry_at
        log.warning("model_failed", model=item.model, code=code, retry_at=str(retry_at))

    def _set(self, item: ResidentModel, state: ModelState) -> None:
        with self._wake:
            item.state, item.progress, item.stage = state, None, None
        self._on_change()

    def _progress(
        self, item: ResidentModel, share: float, stage: LoadStage | None = None
    ) -> None:
        is_small = share - (item.progress or 0.0) < PROGRESS_STEP and share < 1.0
        if is_small and stage is item.stage:
            return
        item.progress, item.stage = share, stage
        self._on_change()
