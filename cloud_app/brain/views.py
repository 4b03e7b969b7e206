"""Snapshots the brain decides from: frozen, built by the shell, never changed."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from genie.contracts.fleet import EngineFacts, ModelState, ModelStatus

HEARTBEAT_S = 30.0
"""Seconds between two heartbeats of a worker unless configured otherwise."""


class Liveness(StrEnum):
    """How long a worker has been silent, in four states."""

    ONLINE = "online"
    LATE = "late"
    OFFLINE = "offline"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementView:
    """One model a worker should hold, since when and why."""

    model: str
    quant: str
    slots: int
    context: int
    since: datetime
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """One worker now.

    ``age_s`` is the time since its last heartbeat. ``memory_bytes`` is what our
    models may use: the sum of its GPUs, or the host's memory, minus foreign use and
    reserve; what our own models hold is part of it.
    """

    id: str
    name: str
    queues: tuple[str, ...]
    liveness: Liveness
    age_s: float
    device: str
    memory_bytes: int
    engines: tuple[EngineFacts, ...] = ()
    disk_free_bytes: int = 0
    draining: bool = False
    quarantined: bool = False
    models: tuple[ModelStatus, ...] = ()
    placements: tuple[PlacementView, ...] = ()

    @property
    def is_open(self) -> bool:
        """True when it may get new work: heard of lately, not draining."""
        heard = self.liveness in (Liveness.ONLINE, Liveness.LATE)
        return heard and not self.draining and not self.quarantined

    def engine(self, name: str) -> EngineFacts | None:
        """The worker's report of its engine with that name; None when it has none."""
        return next((one for one in self.engines if one.name == name), None)

    def reported(self, model: str) -> ModelStatus | None:
        """What the worker last reported of ``model``; None when it reported nothing."""
        return next((m for m in self.models if m.model == model), None)

    def placement(self, model: str) -> PlacementView | None:
        """The placement of ``model`` on this worker; None when there is none."""
        return next((p for p in self.placements if p.model == model), None)

    def has_failed(self, model: str, now: datetime) -> bool:
        """True while ``model`` has failed here and the worker does not retry yet.

        Without a retry time it does not until it is told to.
        """
        seen = self.reported(model)
        if seen is None or seen.state is not ModelState.FAILED:
            return False
        return seen.retry_at is None or seen.retry_at > now


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetView:
    """All known workers at one moment, by the cloud's clock."""

    workers: tuple[WorkerView, ...]
    as_of: datetime
    heartbeat_s: float = HEARTBEAT_S


@dataclass(frozen=True, slots=True, kw_only=True)
class DemandView:
    """Demand for a model on a logical queue.

    ``standing``: keep ``replicas`` of it ready, each on a worker of its own.
    """

    queue: str
    model: str
    queued: int = 0
    running: int = 0
    arrivals_per_min: float = 0.0
    standing: bool = False
    replicas: int = 1
    oldest_s: float = 0.0

    @property
    def has_work(self) -> bool:
        """True when a request waits for this model or runs on it."""
        return self.queued + self.running > 0
