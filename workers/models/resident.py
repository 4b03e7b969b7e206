"""One model on this worker: what is wanted of it, what it is now, what it takes."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Protocol

import msgspec

from genie.contracts.fleet import (
    DesiredModel,
    EngineFacts,
    LoadStage,
    ModelState,
    ModelStatus,
)
from genie.contracts.inference import Fault
from genie.contracts.model import ModelFile, ModelSpec, Quant
from genie.memory import MemoryNeed, need
from workers.engine.protocol import Engine, EngineHooks, EngineStats, Load
from workers.models.backoff import FailureHistory


class ModelOnDisk(Protocol):
    """A model on disk; ``path`` is None for an engine without weights."""

    @property
    def path(self) -> Path | None:
        """The folder or file to load from."""

    @property
    def files(self) -> tuple[ModelFile, ...]:
        """Every file with its measured digest."""


class ServingModel(Protocol):
    """A model that serves; what a `StartEngine` returns."""

    @property
    def engine(self) -> Engine:
        """Where requests go."""

    @property
    def fingerprint(self) -> str:
        """The measured identity of what was loaded."""

    @property
    def peak_bytes(self) -> int:
        """Memory it took to load."""


StartEngine = Callable[[Load, EngineHooks], ServingModel]
"""Loads a model into an engine of its own and waits until it serves; raises
LoadFailed. `workers.engine.parent.starter.start` is one."""

OnPullProgress = Callable[[float], None]
FetchModel = Callable[[ModelSpec, OnPullProgress], ModelOnDisk]
"""Makes sure a model's files are on disk; raises LoadFailed."""


@dataclass(slots=True, kw_only=True)
class ResidentModel:
    """A model this worker was told to hold, from the first fetch to the unload."""

    desired: DesiredModel
    state: ModelState = ModelState.ABSENT
    progress: float | None = None
    stage: LoadStage | None = None
    pulled: ModelOnDisk | None = None
    loaded: ServingModel | None = None
    failures: FailureHistory = field(default_factory=FailureHistory)
    death: Fault | None = None
    served: int = 0
    """Requests it has finished here, by this engine or one before."""

    @property
    def model(self) -> str:
        """The model's id."""
        return self.desired.spec.id

    @property
    def stats(self) -> EngineStats:
        """The engine's figures; all zero without one."""
        return self.loaded.engine.stats() if self.loaded else EngineStats()

    def status(self) -> ModelStatus:
        """What the heartbeat says of this model."""
        stats, loaded = self.stats, self.loaded
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


def cap_slots(
    desired: Iterable[DesiredModel], slots_max: int | None
) -> list[DesiredModel]:
    """The desired models with no more slots than this worker allows."""
    if slots_max is None:
        return list(desired)
    return [
        msgspec.structs.replace(item, slots=min(item.slots, slots_max))
        for item in desired
    ]


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
