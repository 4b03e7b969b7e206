"""Plans which worker holds which model: placements, moves and unplaced demand.

Memory is never overcommitted, no model that is wanted or
young moves, idle models stay until their memory is needed, and a snapshot with
its own plan applied yields no moves.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from cloud_app.brain import capacity, liveness
from cloud_app.brain.packing import Demands, PlacementOption, Pressure, WorkerPacking
from cloud_app.brain.views import (
    DemandView,
    FleetView,
    Liveness,
    PlacementView,
    WorkerView,
)
from genie.catalog import Catalog
from genie.contracts.model import ModelSpec

QUEUED_PER_SLOT = 4
"""More waiting requests per slot than this ask for one more replica."""


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
    """Demand that no worker can take now, and the machine that could."""

    model: str
    queue: str
    why: tuple[str, ...]
    would_fit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementPlan:
    """What each worker should hold, by its id; ``held`` says why nothing may move."""

    desired: dict[str, tuple[PlacementView, ...]]
    moves: tuple[Move, ...] = ()
    unplaced: tuple[UnplacedDemand, ...] = ()
    held: str | None = None


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
            ledger.remove(placement)
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
            ledger.remove(placement)
            ledger.add(replace(placement, slots=said, reason=why))
            self._note(MoveKind.LOAD, ledger, placement.model, why)

    def _first_replicas(self, demand: DemandView) -> None:
        """One working replica for waiting work, and all replicas of standing demand."""
        while (held := self._counted(demand)) < demand.replicas:
            is_first = held == 0 and demand.has_work
            pressure = Pressure.WORK if is_first else Pressure.STANDING
            refused = self._place(demand, pressure, _why(demand))
            if refused:
                self._unplaced.append(self._no_place(demand, refused))
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
            ledger.remove(victim)
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
        ledger.add(placement)
        self._note(MoveKind.LOAD, ledger, spec.id, why)

    def _note(
        self, kind: MoveKind, ledger: WorkerPacking, model: str, reason: str
    ) -> None:
        worker = ledger.worker.id
        self._moves.append(Move(kind=kind, worker=worker, model=model, reason=reason))

    def _no_place(self, demand: DemandView, refused: tuple[str, ...]) -> UnplacedDemand:
        spec = self._catalog.models.get(demand.model)
        return UnplacedDemand(
            model=demand.model,
            queue=demand.queue,
            why=tuple(dict.fromkeys(refused)),
            would_fit=capacity.would_fit(spec) if spec else "a catalog that has it",
        )


def _why(demand: DemandView) -> str:
    if demand.has_work:
        return f"{demand.queued} wait and {demand.running} run on {demand.queue}"
    return f"kept ready for {demand.queue}"
