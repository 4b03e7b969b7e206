"""``genie top``: the fleet as it works, on one screen, until a person leaves."""

import os
import select
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
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
from genie.cli import tables
from genie.cli.fleet import NO_QUEUE, NO_WORKER, model_state
from genie.cli.jobs import COLUMNS as JOB_COLUMNS
from genie.cli.output import CommandSession, as_json, show_json
from genie.cli.tables import GAP, NOTHING, ListTable
from genie.cli.values import DisplayValue, short, size, span, took
from genie.contracts.fleet import ModelState
from genie.contracts.inference import JobState, WorkClass
from genie.errors import GenieError, Unavailable

if TYPE_CHECKING:
    from genie.sdk.client import Client

BAR = 10
ALMOST_FULL, BUSY = 0.9, 0.7
WORST_FIRST = ("lost", "offline", "quarantined", "late", "draining", "online")


def workers(fleet: FleetAnswer) -> ListTable:
    """The machines, the worst state first."""
    found = sorted(fleet.workers, key=lambda w: (_badness(w.state), w.name))
    return ListTable(
        columns=("worker", "state", "memory", "load", "running", "heard"),
        rows=tuple(row for worker in found for row in _worker(fleet, worker)),
        elastic="worker",
        spare=("heard", "load", "running", "memory"),
        none=NO_WORKER,
    )


def models(fleet: FleetAnswer) -> ListTable:
    """Every model on every worker, the busiest first."""
    held = [
        (worker, model)
        for worker in fleet.workers
        for model in worker.models
        if model.state is not ModelState.ABSENT
    ]
    held.sort(key=lambda pair: (-_busy(fleet, *pair), pair[1].model, pair[0].name))
    return ListTable(
        columns=("model", "on", "state", "slots", "waiting", "tokens/s", "error"),
        rows=tuple(_model(fleet, worker, model) for worker, model in held),
        elastic="on",
        spare=("error", "waiting", "on", "state"),
        none="no models loaded; the planner loads what is asked for",
    )


def queues(fleet: FleetAnswer) -> ListTable:
    """The queues by model and class, the deepest first."""
    groups: dict[tuple[str, str], list[QueueAnswer]] = {}
    for queue in fleet.queues:
        groups.setdefault((queue.queue, queue.model or ""), []).append(queue)
    found = sorted(groups.values(), key=lambda group: -sum(q.waiting for q in group))
    return ListTable(
        columns=("queue", "model", *map(str, WorkClass), "oldest", "SLA"),
        rows=tuple(_queue(group) for group in found),
        elastic="queue",
        spare=("SLA", "queue", "job", "oldest"),
        none=NO_QUEUE,
    )


def jobs(fleet: FleetAnswer) -> ListTable:
    """Running jobs first, then the newest."""
    return ListTable(
        columns=(*JOB_COLUMNS,),
        rows=tuple(_job(job, fleet.now) for job in fleet.jobs),
        elastic="worker",
        spare=("took", "worker", "persona", "age", "model", "status"),
        none="no jobs in the last hour",
    )


def routes(fleet: FleetAnswer) -> ListTable:
    """Where the work of each persona goes."""
    return ListTable(
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
    ready = model.state is ModelState.READY
    slots: object = NOTHING
    if ready and model.slots:
        busy = _busy(fleet, worker, model)
        slots = bar(busy / model.slots, 4) + Text(f" {busy}/{model.slots}")
    return (
        model.model,
        worker.name,
        model_state(model),
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


def _height(part: ListTable) -> int:
    return 1 + max(1, len(part.rows))  # the heading, and a row or a word


def _is_airy(listed: Sequence[ListTable], room: int | None) -> bool:
    """True when there is room for a blank line before each part."""
    return room is None or room >= sum(_height(part) + 1 for part in listed)


def _stacked(
    listed: Sequence[ListTable], width: int, room: int | None, spaced: bool
) -> RenderableType:
    heights = [_height(part) for part in listed]
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


def _drawn(part: ListTable, width: int, rows: int) -> RenderableType:
    if not part.rows:
        heading = Text("  ".join(part.columns), style="bold", no_wrap=True)
        return Group(heading, Text(part.none, style="dim", overflow="ellipsis"))
    shown = part.rows if len(part.rows) <= rows else part.rows[: max(0, rows - 1)]
    table = tables.build(part, shown, tables.fit(part, shown, width) or {})
    if len(shown) == len(part.rows):
        return table
    more = f"… {len(part.rows) - len(shown)} more"
    return Group(table, Text(more, style="dim"))


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


TICK_S = 0.1
"""How soon a key or a resized terminal is noticed."""

LEAVE = frozenset("qQ\x03\x04")
"""q, Ctrl-C and Ctrl-D."""


class FleetWatcher:
    """Reads the fleet in a thread of its own, so that keys never wait for it."""

    def __init__(self, client: "Client", *, jobs: int, every_s: float) -> None:
        self.fleet: FleetAnswer | None = None
        self.seen_at = time.monotonic()
        self.away: Unavailable | None = None
        self.fatal: GenieError | None = None
        self._client, self._jobs, self._every_s = client, jobs, every_s
        self._stop = threading.Event()

    def start(self, first: FleetAnswer) -> None:
        """Start from a first snapshot."""
        self.fleet = first
        # a daemon: quitting must not wait for an answer that hangs
        threading.Thread(target=self._run, name="genie-top", daemon=True).start()

    def stop(self) -> None:
        """Stop reading."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s) and self.fatal is None:
            self._look()

    def _look(self) -> None:
        try:
            self.fleet = self._client.fleet(jobs=self._jobs)
        except Unavailable as error:  # it may come back; the last snapshot stays
            self.away = error
        except GenieError as error:
            self.fatal = error
        else:
            self.seen_at, self.away = time.monotonic(), None


class AlternateScreen:
    """The alternate screen of a terminal; restores the terminal at its end."""

    def __init__(self, client: "Client", *, jobs: int, every_s: float) -> None:
        self._url = client.url
        self._watch = FleetWatcher(client, jobs=jobs, every_s=every_s)
        self._console = Console(file=sys.stdout, highlight=False)

    def run(self, first: FleetAnswer) -> None:
        """Draw until the person quits; raises the cloud's final refusals."""
        self._watch.start(first)
        # the terminal is restored when we are told to end, too
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        live = Live(console=self._console, screen=True, auto_refresh=False)
        try:
            with keys() as pressed, live:
                self._draw_until(pressed, live)
        except KeyboardInterrupt:
            pass  # how people quit such a screen
        finally:
            self._watch.stop()
        if self._watch.fatal is not None:
            raise self._watch.fatal

    def _draw_until(self, pressed: "KeyboardInput", live: Live) -> None:
        shown: object = None
        while self._watch.fatal is None:
            old = self._age() if self._watch.away else ""
            now = (self._watch.fleet, self._console.size, old)
            if now != shown:
                live.update(self._frame(pressed.hint), refresh=True)
                shown = now
            if LEAVE.intersection(pressed.wait(TICK_S)):
                return

    def _frame(self, hint: str) -> RenderableType:
        fleet, (width, height) = self._watch.fleet, self._console.size
        if fleet is None:
            return Text("looking …")
        away = self._watch.away
        trouble = "" if away is None else f"as of {self._age()} ago: {away.message}"
        return frame(
            fleet,
            url=self._url,
            width=width,
            height=height,
            hint=hint,
            trouble=trouble,
        )

    def _age(self) -> str:
        return span(time.monotonic() - self._watch.seen_at)


class KeyboardInput:
    """Reads keys without Enter; none where there is no keyboard."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self.hint = "Ctrl-C leaves" if descriptor is None else "q leaves"

    def wait(self, seconds: float) -> str:
        """The keys typed within ``seconds``; returns as soon as there is one."""
        if self._descriptor is None:
            time.sleep(seconds)
            return ""
        ready, _, _ = select.select([self._descriptor], [], [], seconds)
        if not ready:
            return ""
        # an empty read: the terminal is gone, and nobody looks any more
        return os.read(self._descriptor, 64).decode(errors="replace") or "q"


@contextmanager
def keys() -> Iterator[KeyboardInput]:
    """The keyboard, key by key; restored at the end."""
    if not sys.stdin or not sys.stdin.isatty():
        yield KeyboardInput(None)
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield KeyboardInput(descriptor)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


PLAIN_WIDTH = 120
"""The width of a frame in a pipe."""

EVERY_S = click.FloatRange(0.5, 60)
JOBS = 40
"""Jobs to read: as many as the tallest terminals show."""


@click.command()
@click.option("--once", is_flag=True, help="Print one frame and exit.")
@click.option(
    "--every",
    "every_s",
    type=EVERY_S,
    default=2.0,
    show_default=True,
    help="Seconds between refreshes.",
)
@as_json
@click.pass_obj
def top(session: CommandSession, once: bool, every_s: float, as_json: bool) -> None:
    """Watch the fleet work: machines, models, queues, jobs and where work goes.

    q or Ctrl-C quits. In a pipe, and with --once, one whole frame is printed; --json
    prints the snapshot behind it. Needs an admin key.
    """
    client = session.connect()
    first = client.fleet(jobs=JOBS)
    if as_json:
        show_json(first)
    elif once or not session.is_terminal():
        width = tables.terminal_width(PLAIN_WIDTH)
        tables.print_lines(frame(first, url=client.url, width=width), width)
    else:
        AlternateScreen(client, jobs=JOBS, every_s=every_s).run(first)
