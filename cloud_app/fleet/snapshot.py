"""Builds the brain's view of the fleet from the store's records (pure)."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime

from cloud_app.brain import capacity, liveness
from cloud_app.brain.views import FleetView, Liveness, PlacementView, WorkerView
from cloud_app.store.records import PlacementRecord, WorkerRecord
from genie import engines
from genie.catalog import Catalog
from genie.contracts.fleet import (
    EngineFacts,
    GpuStatus,
    Heartbeat,
    ModelState,
    ModelStatus,
)

GPU_RESERVE = 0.08
"""Share of a GPU left free for fragmentation and the driver's context."""

HOST_SHARE = 0.85
"""Share of a host's free memory that models may use; the rest is the machine's."""


def fleet_view(
    workers: Iterable[WorkerRecord],
    placements: Iterable[PlacementRecord],
    catalog: Catalog,
    now: datetime,
    heartbeat_s: float,
) -> FleetView:
    """All workers that ever reported, with their placements."""
    held: dict[str, list[PlacementView]] = defaultdict(list)
    for placement in placements:
        held[placement.worker_id].append(placement)
    views = (
        worker_view(
            worker, worker.status, tuple(held[worker.id]), catalog, now, heartbeat_s
        )
        for worker in workers
        if worker.status is not None
    )
    return FleetView(workers=tuple(views), as_of=now, heartbeat_s=heartbeat_s)


def worker_view(
    worker: WorkerRecord,
    status: Heartbeat,
    placements: tuple[PlacementView, ...],
    catalog: Catalog,
    now: datetime,
    heartbeat_s: float,
) -> WorkerView:
    """One worker by its last heartbeat; its age is never below 0."""
    age_s = max(0.0, (now - (worker.seen_at or worker.registered_at)).total_seconds())
    gpus = tuple(_gpu_bytes(gpu) for gpu in status.gpus)
    described = engines.described(worker.engines, worker.engine_facts)
    return WorkerView(
        id=worker.id,
        name=worker.name,
        queues=worker.queues,
        liveness=liveness.liveness(age_s, heartbeat_s),
        age_s=age_s,
        device="cuda" if gpus else "cpu",
        memory_bytes=sum(gpus) if gpus else host_bytes(status, catalog, described),
        engines=described,
        disk_free_bytes=status.host.disk_free_bytes,
        draining=status.draining,
        quarantined=worker.quarantined_at is not None,
        models=status.models,
        placements=placements,
    )


def kept_placements(
    worker: WorkerRecord, beat: Heartbeat, now: datetime
) -> tuple[PlacementRecord, ...]:
    """The placements a returned worker keeps until the next plan.

    Its placements were released; unloading now to load again soon would be waste.
    """
    if worker.noted != Liveness.LOST:
        return ()
    return tuple(
        PlacementRecord(
            worker_id=worker.id,
            model=model.model,
            quant=model.quant,
            slots=model.slots,
            context=model.context,
            reason="kept until the next plan",
            since=now,
        )
        for model in beat.models
        if model.state in (ModelState.LOADING, ModelState.READY)
    )


def host_bytes(
    status: Heartbeat, catalog: Catalog, described: Iterable[EngineFacts] = ()
) -> int:
    """Memory of a host without GPU that our models may use, theirs now included."""
    facts = {engine.name: engine for engine in described}
    ours = sum(_resident_bytes(model, catalog, facts) for model in status.models)
    free = status.host.memory_available_bytes + ours
    return int(min(free, status.host.memory_total_bytes) * HOST_SHARE)


def _gpu_bytes(gpu: GpuStatus) -> int:
    ours = max(0, gpu.memory_total_bytes - gpu.foreign_bytes)
    return int(ours * (1 - GPU_RESERVE))


def _resident_bytes(
    model: ModelStatus, catalog: Catalog, facts: dict[str, EngineFacts]
) -> int:
    """Bytes a model holds now, measured or computed; a part of them while loading."""
    spec, whole = catalog.models.get(model.model), model.peak_bytes
    if not whole and spec is not None:
        whole = capacity.computed_bytes(spec, model, facts.get(spec.engine))
    if model.state is ModelState.LOADING:
        return int(whole * min(1.0, model.progress or 0.0))
    return whole if model.state in (ModelState.READY, ModelState.UNLOADING) else 0
