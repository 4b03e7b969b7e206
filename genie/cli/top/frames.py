"""One frame of ``genie top``: its tables, laid out for a size of terminal."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
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
from genie.cli.tables import GAP, TONES
from genie.cli.values import DisplayValue, cell, is_number, short, size, span, took
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
    """The queues by model and class, the deepest first."""
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
    """Running jobs first, then the newest."""
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


WIDE = 150
"""From this width on, queues and routes stand beside the rest."""

SIDE, MAIN, BETWEEN = 62, 103, 3
"""The least width of the right side, the most of the left, and the gap."""

NARROWEST = 6
HEAD_ROWS = 2
FEWEST_ROWS = 2
"""Rows that every part keeps while another has more."""

ALL = (workers, models, queues, jobs, routes)
LEFT = (workers, models, jobs)
RIGHT = (queues, routes)


def frame(
    fleet: FleetAnswer,
    *,
    url: str,
    width: int,
    height: int | None = None,
    hint: str = "",
    trouble: str = "",
) -> RenderableType:
    """The fleet in ``width`` columns; all of it without a ``height``.

    ``trouble`` replaces the figures, which are old then.
    """
    worry = Text(trouble, style="red", no_wrap=True, overflow="ellipsis")
    head = (_title(fleet, url, width, hint), worry if trouble else _figures(fleet))
    room = None if height is None else height - HEAD_ROWS
    if width >= WIDE:
        return Group(*head, _beside(fleet, width, room))
    listed = [part(fleet) for part in ALL]
    return Group(*head, _stacked(listed, width, room, _is_airy(listed, room)))


def shares(heights: Sequence[int], room: int) -> list[int]:
    """How many of ``room`` rows each part gets, given what each wants.

    The rest is shared in turn, so that a long part starves no other.

    >>> shares([3, 10, 2], 9)
    [3, 4, 2]
    >>> shares([3, 1], 9)
    [3, 1]
    """
    given = [min(FEWEST_ROWS, height) for height in heights]
    while sum(given) < min(room, sum(heights)):
        least = min(
            (n for n in range(len(given)) if given[n] < heights[n]),
            key=lambda n: given[n],
        )
        given[least] += 1
    return given


def _is_airy(listed: Sequence[TablePart], room: int | None) -> bool:
    """True when there is room for a blank line before each part."""
    return room is None or room >= sum(part.height + 1 for part in listed)


def _stacked(
    listed: Sequence[TablePart], width: int, room: int | None, spaced: bool
) -> RenderableType:
    heights = [part.height for part in listed]
    left = sum(heights) if room is None else room - spaced * len(listed)
    given = shares(heights, max(left, FEWEST_ROWS * len(listed)))
    lines: list[RenderableType] = []
    for part, rows in zip(listed, given, strict=True):
        if spaced:
            lines.append("")
        lines.append(_drawn(part, width, rows - 1))
    return Group(*lines)


def _beside(fleet: FleetAnswer, width: int, room: int | None) -> RenderableType:
    left = [part(fleet) for part in LEFT]
    right = [part(fleet) for part in RIGHT]
    spaced = _is_airy(left, room) and _is_airy(right, room)
    side = max(SIDE, width - MAIN)
    main = width - side - BETWEEN
    grid = Table.grid(padding=(0, BETWEEN, 0, 0))
    grid.add_column(width=main)
    grid.add_column(width=side)
    grid.add_row(
        _stacked(left, main, room, spaced), _stacked(right, side, room, spaced)
    )
    return grid


def _drawn(part: TablePart, width: int, rows: int) -> RenderableType:
    if not part.rows:
        heading = Text("  ".join(part.columns), style="bold", no_wrap=True)
        return Group(heading, Text(part.none, style="dim", overflow="ellipsis"))
    shown = part.rows if len(part.rows) <= rows else part.rows[: max(0, rows - 1)]
    kept = _kept(part, shown, width)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, room in kept.items():
        _add_column(table, part.columns[index], room, [row[index] for row in shown])
    for row in shown:
        table.add_row(*(_shown(row[index]) for index in kept))
    if len(shown) == len(part.rows):
        return table
    more = f"… {len(part.rows) - len(shown)} more"
    return Group(table, Text(more, style="dim"))


def _add_column(table: Table, name: str, width: int, column: Sequence[object]) -> None:
    values = [value for value in column if cell(_bare(value)) not in ("", NOTHING)]
    numeric = bool(values) and all(map(is_number, values))
    justify: Literal["left", "right"] = "right" if numeric else "left"
    table.add_column(
        name, justify=justify, width=width, no_wrap=True, overflow="ellipsis"
    )


def _kept(
    part: TablePart, rows: Sequence[Sequence[object]], width: int
) -> dict[int, int]:
    """The columns that fit, with their widths; all but the elastic one stay whole."""
    found: dict[int, int] = {}
    for left_out in range(len(part.spare) + 1):
        gone = part.spare[:left_out]
        names = enumerate(part.columns)
        told = [n for n, name in names if name not in gone and _is_told(rows, n)]
        found = {n: _width(part, n, rows) for n in told}
        if not _shorten(found, part, width, part.least):
            return found
    _shorten(found, part, width, NARROWEST)
    return found


def _shorten(found: dict[int, int], part: TablePart, width: int, least: int) -> int:
    """Shorten the elastic column so that all fit; returns the excess left."""
    over = max(0, sum(found.values()) + GAP * (len(found) - 1) - width)
    elastic = part.columns.index(part.elastic)
    less = min(over, max(0, found.get(elastic, 0) - least))
    if less:
        found[elastic] -= less
    return over - less


def _is_told(rows: Sequence[Sequence[object]], index: int) -> bool:
    return any(cell(_bare(row[index])) for row in rows)


def _width(part: TablePart, index: int, rows: Sequence[Sequence[object]]) -> int:
    texts = [part.columns[index], *(cell(_bare(row[index])) for row in rows)]
    return max(map(cell_len, texts))


def _bare(value: object) -> object:
    return value.plain if isinstance(value, Text) else value


def _shown(value: object) -> Text:
    if isinstance(value, Text):
        return value
    text = cell(value)
    return Text(text, style=TONES.get(text, ""))


def _title(fleet: FleetAnswer, url: str, width: int, hint: str) -> Text:
    gpus = sum(len(worker.gpus) for worker in fleet.workers)
    counts = f"{_count(len(fleet.workers), 'worker')} · {_count(gpus, 'GPU')}"
    title = Text(no_wrap=True, overflow="ellipsis")
    title.append("Genie Fleet", style="bold")
    title.append(f" · {fleet.org} · {url} · {counts}")
    room = width - cell_len(hint) - (GAP if hint else 0)
    title.truncate(room, overflow="ellipsis", pad=bool(hint))
    if hint:
        title.append(f"{'':{GAP}}{hint}", style="dim")
    return title


def _figures(fleet: FleetAnswer) -> Text:
    found = fleet.figures
    p95 = took(found.first_token_p95_s)
    pairs = (
        (f"{found.tokens_per_s:.0f}", "tokens/s", ""),
        (str(found.running), "running", "cyan" if found.running else ""),
        (str(found.waiting), "waiting", "yellow" if found.waiting else ""),
        (p95.person if p95 else NOTHING, "to first token", ""),
        (str(found.failed_1h), "failed in 1 h", "red" if found.failed_1h else ""),
    )
    line = Text(no_wrap=True, overflow="ellipsis")
    for number, (value, name, tone) in enumerate(pairs):
        line.append("   " if number else "")
        line.append(value, style=f"bold {tone}".strip())
        line.append(f" {name}")
    return line


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
