"""The Fleet page: one look at the machines, the work, and why it goes where it goes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from textwrap import shorten

from flask import make_response, render_template, request
from werkzeug.wrappers import Response

from cloud_app.brain.views import DemandView
from cloud_app.context import Context
from cloud_app.fleet import placement
from cloud_app.orgs import auth
from cloud_app.settings import ALONE
from cloud_app.store import reports
from cloud_app.store.records import KeyRecord
from cloud_app.web import figures
from cloud_app.web.figures import FigureTile
from cloud_app.web.fleet import routing_reasons, sla_s, workers_now
from cloud_app.web.orgs import join_command
from cloud_app.web.pages import admin, sessions
from cloud_app.web.request import context
from genie import topology
from genie.api_types import ReasonAnswer, WorkerAnswer, WorkerModel
from genie.contracts.fleet import ModelState
from genie.errors import Conflict

GIB = 1024**3
ALMOST_FULL = 0.9
BAR_WIDTH = 40
ERROR_SHOWN = 90

STATE_WORDS = {
    ModelState.FETCHING: "fetching",
    ModelState.LOADING: "loading",
    ModelState.UNLOADING: "unloading",
    ModelState.FAILED: "failed",
    ModelState.ON_DISK: "on disk",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBar:
    """One GPU's memory, or the host's when there is no GPU."""

    name: str
    used: str
    total: str
    width: int
    tone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLine:
    """One model on a worker; ``note`` is its state unless it is ready."""

    id: str
    note: str
    tone: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLine:
    """One logical queue now, and what its users were promised."""

    name: str
    waiting: int
    oldest: str
    sla: str
    is_late: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPage:
    """Everything of the page that changes by itself."""

    summary: str
    tiles: tuple[FigureTile, ...]
    workers: tuple[WorkerAnswer, ...]
    reasons: tuple[ReasonAnswer, ...]
    queues: tuple[QueueLine, ...]


admin.pages.add_app_template_filter(figures.seconds)


@admin.page("/admin/", "Fleet", "fleet.html")
def fleet(key: KeyRecord) -> admin.Values:
    """The whole page; ``live`` draws again what changes by itself."""
    return _values(key)


@admin.pages.get("/admin/live")
def live() -> str:
    """Only what changes by itself."""
    page = fleet_page(context(), sessions.current_key(context()))
    return render_template("live.html", page=page)


@admin.pages.post("/admin/join-tokens")
def add_worker() -> Response:
    """Make a join token and show, once, the command that uses it."""
    sessions.check_form(context().settings)
    key = sessions.current_key(context())
    if not context().settings.takes_machines:
        raise Conflict(ALONE, code="embedded_fleet")
    token = auth.create_join_token(context(), key.org.slug)
    command = join_command(context().settings, request.host_url, token)
    if request.headers.get("HX-Request"):
        csrf = sessions.csrf_token()
        return make_response(render_template("join.html", command=command, csrf=csrf))
    return make_response(admin.draw("fleet.html", key, _values(key, command)))


def _values(key: KeyRecord, command: str | None = None) -> admin.Values:
    alone = None if context().settings.takes_machines else ALONE
    page = fleet_page(context(), key)
    return {"page": page, "command": command, "alone": alone}


def fleet_page(ctx: Context, key: KeyRecord) -> FleetPage:
    """The fleet as this key's org may see it."""
    now = ctx.now()
    jobs = reports.since(ctx.db, key.org, now - figures.HOUR)
    counts = reports.counts(ctx.db, key.org, now - figures.HOUR)
    workers = workers_now(ctx, key)
    return FleetPage(
        summary=_summary(workers),
        tiles=figures.tiles(jobs, counts, now),
        workers=workers,
        reasons=routing_reasons(ctx, key, figures.shares(jobs, now)),
        queues=_queues(ctx, key, workers),
    )


def _summary(workers: Sequence[WorkerAnswer]) -> str:
    gpus = sum(len(worker.gpus) for worker in workers)
    return f"{_count(len(workers), 'worker')} · {_count(gpus, 'GPU')}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@admin.pages.app_template_filter()
def memory_bars(worker: WorkerAnswer) -> tuple[MemoryBar, ...]:
    """Memory of every GPU, or the host's when the machine has none."""
    if worker.gpus or worker.host is None:
        return tuple(
            _bar(str(gpu.index), gpu.memory_used_bytes, gpu.memory_total_bytes)
            for gpu in worker.gpus
        )
    total = worker.host.memory_total_bytes
    return (_bar("CPU", max(0, total - worker.host.memory_available_bytes), total),)


def _bar(name: str, used: int, total: int) -> MemoryBar:
    share = min(1.0, used / total) if total else 0.0
    return MemoryBar(
        name=name,
        used=f"{used / GIB:.0f}",
        total=f"{total / GIB:.0f}G",
        width=round(share * BAR_WIDTH),
        tone="warn" if share >= ALMOST_FULL else "good",
    )


@admin.pages.app_template_filter()
def model_lines(worker: WorkerAnswer) -> tuple[ModelLine, ...]:
    """What a worker has, or is about to have."""
    return tuple(_line(m) for m in worker.models if m.state is not ModelState.ABSENT)


def _line(model: WorkerModel) -> ModelLine:
    note = STATE_WORDS.get(model.state, "")
    if model.progress is not None and model.state is not ModelState.READY:
        note = f"{note} {model.progress:.0%}"
    if model.stage is not None:
        note = f"{note}, {model.stage}"
    tone = "bad" if model.state is ModelState.FAILED else "quiet"
    error = shorten(model.error or "", ERROR_SHOWN, placeholder=" …")
    return ModelLine(id=model.model, note=note, tone=tone, error=error)


def _queues(
    ctx: Context, key: KeyRecord, workers: Iterable[WorkerAnswer]
) -> tuple[QueueLine, ...]:
    own = topology.org_queue(key.org.slug)
    names = {topology.SHARED} | {q for w in workers for q in w.queues if q == own}
    demand = [d for d in placement.demand(ctx) if d.queue in names | {own}]
    names |= {d.queue for d in demand}
    promised = sla_s(ctx)
    return tuple(_queue(name, demand, promised) for name in sorted(names))


def _queue(name: str, demand: Iterable[DemandView], promised_s: float) -> QueueLine:
    mine = [d for d in demand if d.queue == name]
    waiting = sum(d.queued for d in mine)
    oldest_s = max((d.oldest_s for d in mine), default=0.0)
    return QueueLine(
        name=name,
        waiting=waiting,
        oldest=figures.seconds(oldest_s if waiting else None),
        sla=f"{promised_s:.0f} s",
        is_late=waiting > 0 and oldest_s > promised_s,
    )
