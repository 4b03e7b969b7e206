"""The tables of ``genie top``, from a snapshot of the fleet."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.text import Text

from genie.api_types import (
    FleetAnswer,
    GpuAnswer,
    HostAnswer,
    JobLine,
    QueueAnswer,
    ReasonAnswer,
    WorkerAnswer,
    WorkerModel,
)
from genie.cli.values import DisplayValue, short, size, span, took
from genie.contracts.fleet import ModelState
from genie.contracts.inference import JobState, WorkClass

BAR = 10
NOTHING = "–"
ALMOST_FULL, BUSY = 0.9, 0.7
WORST_FIRST = ("lost", "offline", "quarantined", "late", "draining", "online")


@dataclass(frozen=True, slots=True, kw_only=True)
class TablePart:
    """A table of the frame. ``elastic`` is the column that may be shortened."""

    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    elastic: str
    least: int = 6
    """A shorter elastic column would be useless."""

    spare: tuple[str, ...] = ()
    none: str = ""

    @property
    def height(self) -> int:
        """The lines of the whole table, heading included."""
        return 1 + max(1, len(self.rows))


def workers(fleet: FleetAnswer) -> TablePart:
    """The machines, the worst state first."""
    found = sorted(fleet.workers, key=lambda w: (_badness(w.state), w.name))
    return TablePart(
        columns=("worker", "state", "memory", "load", "running", "heard"),
        rows=tuple(row for worker in found for row in _worker(fleet, worker)),
        elastic="worker",
        spare=("heard", "load", "running", "memory"),
        none="no workers; `genie worker token` makes a token to join with",
    )


def models(fleet: FleetAnswer) -> TablePart:
    """Every model on every worker, the busiest first."""
    held = [
        (worker, model)
        for worker in fleet.workers
        for model in worker.models
        if model.state is not ModelState.ABSENT
    ]
    held.sort(key=lambda pair: (-_busy(fleet, *pair), pair[1].model, pair[0].name))
    return TablePart(
        columns=("model", "on", "state", "slots", "waiting", "tokens/s", "error"),
        rows=tuple(_model(fleet, worker, model) for worker, model in held),
        elastic="on",
        spare=("error", "waiting", "on", "state"),
        none="no models loaded; the planner loads what is asked for",
    )


def queues(fleet: FleetAnswer) -> TablePart:
    """What waits for each model by class of work, the deepest first."""
    groups: dict[tuple[str, str], list[QueueAnswer]] = {}
    for queue in fleet.queues:
        groups.setdefault((queue.queue, queue.model or ""), []).append(queue)
    found = sorted(groups.values(), key=lambda group: -sum(q.waiting for q in group))
    return TablePart(
        columns=("queue", "model", *map(str, WorkClass), "oldest", "SLA"),
        rows=tuple(_queue(group) for group in found),
        elastic="queue",
        spare=("SLA", "queue", "job", "oldest"),
        none="no queues yet",
    )


def jobs(fleet: FleetAnswer) -> TablePart:
    """What runs, then the newest."""
    return TablePart(
        columns=("job", "status", "persona", "model", "worker", "age", "took"),
        rows=tuple(_job(job, fleet.now) for job in fleet.jobs),
        elastic="worker",
        spare=("took", "worker", "persona", "age", "model", "status"),
        none="no jobs in the last hour",
    )


def routes(fleet: FleetAnswer) -> TablePart:
    """Where the work of each persona goes."""
    return TablePart(
        columns=("persona", "goes to", "share", "TTFT p95", "because"),
        rows=tuple(_route(found) for found in fleet.routes),
        elastic="because",
        least=30,
        spare=("TTFT p95", "share", "because"),
        none="no personas",
    )


def percent(share: float) -> DisplayValue:
    """A share of 0 to 1, on the right in a table."""
    return DisplayValue(person=f"{share:.0%}", script=f"{share:g}", is_number=True)


def bar(share: float, width: int = BAR) -> Text:
    """A bar that shows how full something is; its colour warns."""
    full = round(min(1.0, max(0.0, share)) * width)
    tone = "red" if share >= ALMOST_FULL else "yellow" if share >= BUSY else "green"
    return Text.assemble(("█" * full, tone), ("░" * (width - full), "dim"))


def _busy(fleet: FleetAnswer, worker: WorkerAnswer, model: WorkerModel) -> int:
    """Requests in flight: the heartbeat may be 30 s old, the jobs are current."""
    counted = sum(
        job.status is JobState.RUNNING
        and (job.worker, job.model) == (worker.name, model.model)
        for job in fleet.jobs
    )
    return max(counted, model.in_flight)


def _worker(fleet: FleetAnswer, worker: WorkerAnswer) -> Iterable[tuple[object, ...]]:
    """A line per GPU, or for the host; only the first has the worker's name."""
    devices: list[GpuAnswer | HostAnswer | None] = [*worker.gpus] or [worker.host]
    running = sum(_busy(fleet, worker, model) for model in worker.models)
    heard = worker.last_heartbeat_s
    age = "never" if heard is None else short(heard)
    first = (worker.name, worker.state, running, age)
    for number, device in enumerate(devices):
        name, state, count, last = ("", "", None, None) if number else first
        yield (name, state, _memory(device), _load(device), count, last)


def _memory(device: GpuAnswer | HostAnswer | None) -> Text:
    if device is None or not device.memory_total_bytes:
        return Text(NOTHING)
    total = device.memory_total_bytes
    if isinstance(device, GpuAnswer):
        used, name = device.memory_used_bytes, f"gpu{device.index}"
    else:
        used, name = total - device.memory_available_bytes, "host"
    figures = f" {size(used).removesuffix(' GiB')}/{size(total)}"
    return Text(f"{name} ") + bar(used / total) + Text(figures)


def _load(device: GpuAnswer | HostAnswer | None) -> str:
    if device is None:
        return ""
    if isinstance(device, HostAnswer):
        return f"{device.cpu_count} CPUs"
    shown = (
        (device.utilization_percent, "%"),
        (device.temperature_c, "°C"),
        (device.power_w, "W"),
    )
    return " ".join(f"{value:.0f}{unit}" for value, unit in shown if value is not None)


def _model(
    fleet: FleetAnswer, worker: WorkerAnswer, model: WorkerModel
) -> tuple[object, ...]:
    state = model.state.value
    if model.progress is not None and model.state is not ModelState.READY:
        state = f"{state} {model.progress:.0%}"
    if model.stage is not None:
        state = f"{state}, {model.stage}"
    ready = model.state is ModelState.READY
    slots: object = NOTHING
    if ready and model.slots:
        busy = _busy(fleet, worker, model)
        slots = bar(busy / model.slots, 4) + Text(f" {busy}/{model.slots}")
    return (
        model.model,
        worker.name,
        state,
        slots,
        model.waiting if ready else None,
        model.tokens_per_s if ready else None,
        Text(model.error or "", style="red"),
    )


def _job(job: JobLine, now: float) -> tuple[object, ...]:
    end = job.finished_at
    if end is None and job.status is JobState.RUNNING:
        end = now
    return (
        job.id,
        job.status.value,
        job.persona or NOTHING,
        job.model,
        job.worker,
        short(max(0.0, now - job.created_at)),
        None if end is None else took(max(0.0, end - job.created_at)),
    )


def _route(found: ReasonAnswer) -> tuple[object, ...]:
    return (
        ", ".join(found.personas) or "by name",
        found.model or Text("nowhere now", style="red"),
        NOTHING if found.share is None else percent(found.share),
        took(found.first_token_p95_s) or NOTHING,
        found.why,
    )


def _queue(group: Sequence[QueueAnswer]) -> tuple[object, ...]:
    waiting = {queue.work_class: queue.waiting for queue in group}
    ages = [queue.oldest_s for queue in group if queue.oldest_s is not None]
    promised = [queue.sla_s for queue in group if queue.sla_s is not None]
    sla_s = min(promised, default=None)
    return (
        group[0].queue,
        group[0].model,
        *(waiting.get(name, 0) for name in WorkClass),
        _oldest(max(ages, default=None), sla_s),
        None if sla_s is None else short(sla_s),
    )


def _oldest(oldest_s: float | None, sla_s: float | None) -> object:
    if oldest_s is None:
        return NOTHING
    late = sla_s is not None and oldest_s > sla_s
    return Text(span(oldest_s), style="red") if late else short(oldest_s)


def _badness(state: str) -> int:
    known = dict(zip(WORST_FIRST, range(len(WORST_FIRST)), strict=True))
    return known.get(state, 0)
