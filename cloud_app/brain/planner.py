"""Plans which worker holds which model: placements, moves and unplaced demand.

Memory is never overcommitted, no model that is wanted or
young moves, idle models stay until their memory is needed, and a snapshot with
its own plan applied yields no moves.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum

from cloud_app.brain import capacity, liveness
from cloud_app.brain.capacity import Fit, NoFit
from cloud_app.brain.views import (
    DemandView,
    FleetView,
    Liveness,
    PlacementView,
    WorkerView,
)
from genie.catalog import Catalog
from genie.contracts.fleet import ModelState
from genie.contracts.model import ModelSpec

QUEUED_PER_SLOT = 4
"""More waiting requests per slot than this ask for one more replica."""

MIN_RESIDENCY = timedelta(seconds=120)
"""Younger placements do not move: loading costs more than a short wait."""


class MoveKind(StrEnum):
    """The kinds of change. Release: the worker is lost and cannot be told."""

    LOAD = "load"
    UNLOAD = "unload"
    RELEASE = "release"


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One change to the current placements."""

    kind: MoveKind
    worker: str
    model: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnplacedDemand:
    """Demand that no worker can take now, and why."""

    model: str
    queue: str
    why: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementPlan:
    """What each worker should hold, by its id; ``held`` says why nothing may move."""

    desired: dict[str, tuple[PlacementView, ...]]
    moves: tuple[Move, ...] = ()
    unplaced: tuple[UnplacedDemand, ...] = ()
    held: str | None = None


class Demands:
    """The demand of a snapshot, one entry for each (queue, model)."""

    def __init__(self, demand: Iterable[DemandView]) -> None:
        merged: dict[tuple[str, str], DemandView] = {}
        for item in demand:
            key = (item.queue, item.model)
            merged[key] = _merge(merged[key], item) if key in merged else item
        ordered = sorted(merged.values(), key=_urgency)
        self.wanted = tuple(d for d in ordered if d.has_work or d.standing)
        """Demand for a replica: work first, then the longest wait, then the largest."""
        self.waiting = tuple(d for d in ordered if d.queued > 0)
        """Demand that may need more than one replica."""
        self.working = {d.model for d in self.wanted if d.has_work}
        """Models that a request waits for or runs on."""
        self.standing = {d.model for d in self.wanted if d.standing}
        """Models that a persona keeps ready."""
        self.arrivals_per_min = defaultdict[str, float](float)
        """Arrival rates of requests by model, on all queues."""
        for item in ordered:
            self.arrivals_per_min[item.model] += item.arrivals_per_min


def _merge(one: DemandView, other: DemandView) -> DemandView:
    return replace(
        one,
        queued=one.queued + other.queued,
        running=one.running + other.running,
        arrivals_per_min=one.arrivals_per_min + other.arrivals_per_min,
        standing=one.standing or other.standing,
        replicas=max(one.replicas, other.replicas),
        oldest_s=max(one.oldest_s, other.oldest_s),
    )


def _urgency(demand: DemandView) -> tuple[bool, float, int, float, str, str]:
    return (
        not demand.has_work,
        -demand.oldest_s,
        -demand.queued,
        -demand.arrivals_per_min,
        demand.queue,
        demand.model,
    )


class Pressure(IntEnum):
    """What a demand may displace: work may displace an idle standing model."""

    STANDING = 0
    WORK = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementOption:
    """A way to place a model on a worker, and the models it evicts."""

    fit: Fit
    victims: tuple[PlacementView, ...]


class WorkerPacking:
    """The placements of one worker while a plan changes them."""

    def __init__(
        self, worker: WorkerView, catalog: Catalog, demands: Demands, now: datetime
    ) -> None:
        self.worker = worker
        self.placements = list(worker.placements)
        self._catalog = catalog
        self._demands = demands
        self._now = now

    @property
    def free_bytes(self) -> int:
        """Free memory; negative when other processes took what placements need."""
        return self.worker.memory_bytes - sum(map(self._bytes, self.placements))

    def find(self, model: str) -> PlacementView | None:
        """The placement of ``model`` on this worker, if any."""
        return next((p for p in self.placements if p.model == model), None)

    def supplies(self, model: str) -> bool:
        """True when the plan can rely on the placement of ``model`` here.

        An offline worker keeps its placements until it is lost.
        """
        worker = self.worker
        emptied = worker.draining or worker.quarantined
        failed = worker.has_failed(model, self._now)
        return not emptied and not failed and self.find(model) is not None

    def option(self, spec: ModelSpec, pressure: Pressure) -> PlacementOption | str:
        """The placement of ``spec`` here with the fewest evictions, or why none."""
        refusal = self._closed(spec)
        if refusal is not None:
            return refusal
        whole = capacity.fit(spec, self.worker)
        if isinstance(whole, NoFit):
            return "; ".join(whole.reasons)
        victims = self._victims(pressure)
        # A short context only where no eviction would give the whole one.
        for min_context in (whole.context, 0):
            for count in range(len(victims) + 1):
                gone = tuple(victims[:count])
                found = self._fit(spec, gone, min_context)
                if found is not None:
                    return PlacementOption(
                        fit=found, victims=self._spared(spec, gone, found)
                    )
        has = f"{capacity.gigabytes(max(0, self.free_bytes))} free"
        return f"{self.worker.name} has {has}, the rest is in use by wanted models"

    def rank(self, spec: ModelSpec, option: PlacementOption) -> tuple[float, ...]:
        """Smaller is better: fewest moves first, then speed, then spread over hosts."""
        return (
            len(option.victims),
            self.worker.liveness is not Liveness.ONLINE,
            self._distance(spec),
            self.worker.device != "cuda",
            -option.fit.slots * option.fit.context,
            len(self.placements),
            -self.free_bytes,
        )

    def _closed(self, spec: ModelSpec) -> str | None:
        """Why nothing, or not this model, may be placed here."""
        worker = self.worker
        if worker.draining or worker.quarantined:
            return (
                f"{worker.name} is {'draining' if worker.draining else 'quarantined'}"
            )
        if not worker.is_open:
            return f"{worker.name} is {worker.liveness.value}"
        if worker.has_failed(spec.id, self._now):
            return _failure(worker, spec.id)
        if self.find(spec.id) is not None:
            return f"{worker.name} holds it already"
        return None

    def _victims(self, pressure: Pressure) -> list[PlacementView]:
        """Models that may be evicted, the least used first."""
        free = [p for p in self.placements if self._may_leave(p, pressure)]
        return sorted(free, key=self._missed)

    def _may_leave(self, placement: PlacementView, pressure: Pressure) -> bool:
        model = placement.model
        if self.worker.has_failed(model, self._now):
            return True
        seen = self.worker.reported(model)
        busy = seen is not None and seen.in_flight > 0
        young = self._now - placement.since < MIN_RESIDENCY
        if busy or young or model in self._demands.working:
            return False
        return pressure is Pressure.WORK or model not in self._demands.standing

    def _missed(self, placement: PlacementView) -> tuple[bool, bool, float, float, str]:
        model = placement.model
        return (
            not self.worker.has_failed(model, self._now),
            model in self._demands.standing,
            self._demands.arrivals_per_min[model],
            placement.since.timestamp(),
            model,
        )

    def _fit(
        self, spec: ModelSpec, gone: tuple[PlacementView, ...], min_context: int
    ) -> Fit | None:
        free = self.free_bytes + sum(map(self._bytes, gone))
        found = capacity.fit(
            spec, self.worker, free_bytes=free, min_context=min_context
        )
        return found if isinstance(found, Fit) else None

    def _spared(
        self, spec: ModelSpec, gone: tuple[PlacementView, ...], found: Fit
    ) -> tuple[PlacementView, ...]:
        """Only the evictions this fit needs; a small one may be unnecessary."""
        for victim in gone:
            fewer = tuple(other for other in gone if other is not victim)
            if self._fit(spec, fewer, found.context) == found:
                gone = fewer
        return gone

    def _distance(self, spec: ModelSpec) -> int:
        """The distance of the model from ready here: in memory, on disk, elsewhere."""
        seen = self.worker.reported(spec.id)
        if seen is None:
            return 2
        near = {ModelState.READY: 0, ModelState.LOADING: 0, ModelState.ON_DISK: 1}
        return near.get(seen.state, 2)

    def _bytes(self, placement: PlacementView) -> int:
        spec = self._catalog.models.get(placement.model)
        if spec is None:
            seen = self.worker.reported(placement.model)
            return seen.peak_bytes if seen is not None else 0
        return capacity.held_bytes(spec, self.worker, placement)


def _failure(worker: WorkerView, model: str) -> str:
    seen = worker.reported(model)
    said = f": {seen.error}" if seen is not None and seen.error else ""
    return f"{model} failed on {worker.name}{said}"


def plan(
    fleet: FleetView, demand: Iterable[DemandView], catalog: Catalog, now: datetime
) -> PlacementPlan:
    """The desired placements of every worker. New ones begin at ``now``."""
    if liveness.is_mass_silence(fleet):
        why = "mass silence: more than half of the fleet fell silent at once"
        return PlacementPlan(
            desired={w.id: w.placements for w in _sorted(fleet)}, held=why
        )
    return _PlanBuilder(fleet, Demands(demand), catalog, now).run()


def _sorted(fleet: FleetView) -> list[WorkerView]:
    return sorted(fleet.workers, key=lambda worker: worker.id)


class _PlanBuilder:
    """One run over one snapshot: it fills the packings and collects the moves."""

    def __init__(
        self, fleet: FleetView, demands: Demands, catalog: Catalog, now: datetime
    ) -> None:
        self._demands = demands
        self._catalog = catalog
        self._now = now
        self._moves: list[Move] = []
        self._unplaced: list[UnplacedDemand] = []
        self._ledgers = [
            WorkerPacking(w, catalog, demands, now) for w in _sorted(fleet)
        ]

    def run(self) -> PlacementPlan:
        for ledger in self._ledgers:
            self._release(ledger)
            self._resize(ledger)
        for demand in self._demands.wanted:
            self._first_replicas(demand)
        for demand in self._demands.waiting:
            self._more_replicas(demand)
        return PlacementPlan(
            desired={led.worker.id: tuple(led.placements) for led in self._ledgers},
            moves=tuple(self._moves),
            unplaced=tuple(self._unplaced),
        )

    def _release(self, ledger: WorkerPacking) -> None:
        """Release what lost workers held and what the catalog no longer has."""
        worker = ledger.worker
        lost = worker.liveness is Liveness.LOST
        kind = MoveKind.RELEASE if lost else MoveKind.UNLOAD
        silent = f"{worker.name} is lost, silent for {worker.age_s:.0f} s"
        for placement in tuple(ledger.placements):
            spec = self._catalog.models.get(placement.model)
            if not lost and spec is not None and spec.enabled:
                continue
            ledger.placements.remove(placement)
            why = silent if lost else f"{placement.model} left the catalog"
            self._note(kind, ledger, placement.model, why)

    def _resize(self, ledger: WorkerPacking) -> None:
        """Give what is placed the slots that its source says today."""
        for placement in tuple(ledger.placements):
            spec = self._catalog.models.get(placement.model)
            said = capacity.slots_said(spec, ledger.worker) if spec else None
            if said is None or said == placement.slots:
                continue
            why = f"its source says {said} slots"
            ledger.placements.remove(placement)
            ledger.placements.append(replace(placement, slots=said, reason=why))
            self._note(MoveKind.LOAD, ledger, placement.model, why)

    def _first_replicas(self, demand: DemandView) -> None:
        """One working replica for waiting work, and all replicas of standing demand."""
        while (held := self._counted(demand)) < demand.replicas:
            is_first = held == 0 and demand.has_work
            pressure = Pressure.WORK if is_first else Pressure.STANDING
            refused = self._place(demand, pressure, _why(demand))
            if refused:
                unplaced = UnplacedDemand(
                    model=demand.model,
                    queue=demand.queue,
                    why=tuple(dict.fromkeys(refused)),
                )
                self._unplaced.append(unplaced)
                return

    def _counted(self, demand: DemandView) -> int:
        """Replicas that count: for waiting work, those of offline workers do not."""
        holders = self._holders(demand)
        silent = (Liveness.OFFLINE, Liveness.LOST)
        is_heard = any(led.worker.liveness not in silent for led in holders)
        return len(holders) if is_heard or demand.queued == 0 else 0

    def _more_replicas(self, demand: DemandView) -> None:
        while holders := self._holders(demand):
            slots = sum(p.slots for led in holders if (p := led.find(demand.model)))
            if demand.queued <= QUEUED_PER_SLOT * slots:
                return
            why = f"{demand.queued} wait on {demand.queue} for {slots} slots"
            if self._place(demand, Pressure.STANDING, why):
                return

    def _holders(self, demand: DemandView) -> list[WorkerPacking]:
        """Workers of the queue whose replica counts: not failed, not draining."""
        return [
            ledger
            for ledger in self._ledgers
            if demand.queue in ledger.worker.queues and ledger.supplies(demand.model)
        ]

    def _place(
        self, demand: DemandView, pressure: Pressure, why: str
    ) -> tuple[str, ...]:
        """Place one replica; returns why not, nothing when it was placed."""
        spec = self._catalog.models.get(demand.model)
        if spec is None or not spec.enabled:
            return (f"{demand.model} is not in the catalog",)
        here = [led for led in self._ledgers if demand.queue in led.worker.queues]
        asked = [(ledger, ledger.option(spec, pressure)) for ledger in here]
        options = [(led, o) for led, o in asked if isinstance(o, PlacementOption)]
        if not options:
            refused = [o for _, o in asked if isinstance(o, str)]
            return tuple(refused) or (f"no worker serves the queue {demand.queue}",)
        ledger, option = min(options, key=lambda pair: pair[0].rank(spec, pair[1]))
        self._apply(ledger, spec, option, why)
        return ()

    def _apply(
        self, ledger: WorkerPacking, spec: ModelSpec, option: PlacementOption, why: str
    ) -> None:
        for victim in option.victims:
            ledger.placements.remove(victim)
            reason = f"idle, and {spec.id} needs its memory"
            self._note(MoveKind.UNLOAD, ledger, victim.model, reason)
        placement = PlacementView(
            model=spec.id,
            quant=option.fit.quant.name,
            slots=option.fit.slots,
            context=option.fit.context,
            since=self._now,
            reason=why,
        )
        ledger.placements.append(placement)
        self._note(MoveKind.LOAD, ledger, spec.id, why)

    def _note(
        self, kind: MoveKind, ledger: WorkerPacking, model: str, reason: str
    ) -> None:
        worker = ledger.worker.id
        self._moves.append(Move(kind=kind, worker=worker, model=model, reason=reason))


def _why(demand: DemandView) -> str:
    if demand.has_work:
        return f"{demand.queued} wait and {demand.running} run on {demand.queue}"
    return f"kept ready for {demand.queue}"
