"""``genie models`` and ``genie personas``: the catalog, and models on this disk."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from genie.cli import hints
from genie.cli.output import (
    CommandSession,
    as_json,
    note,
    quiet,
    show_done,
    show_json,
    show_list,
    show_table,
)
from genie.cli.values import figure, size

if TYPE_CHECKING:
    from pathlib import Path

    from genie.api_types import ModelAnswer, PersonaAnswer
    from genie.contracts.model import ModelSpec
    from genie.memory import FitEstimate, MemoryPool
    from workers.files.files import StoredModel

FIT_COLUMNS = (
    *("place", "quant", "context", "slots", "weights", "kv cache", "overhead"),
    *("total", "free"),
)
NO_MODEL = "no models: this key may use none of the catalog's"
NONE_HERE = "no models on this machine's disk; `genie models pull MODEL` fetches one"
COLUMNS: dict[str, Callable[["ModelAnswer"], object]] = {
    "model": lambda model: model.id,
    "ready on": lambda model: holders(model.genie.workers),
    "parameters": lambda model: figure(count(model.genie.parameters)),
    "context": lambda model: model.genie.context,
    "license": lambda model: model.genie.license,
    "personas": lambda model: model.genie.personas,
}
PERSONA_COLUMNS: dict[str, Callable[["PersonaAnswer"], object]] = {
    "persona": lambda one: one.id,
    "tier": lambda one: one.tier,
    "floor": lambda one: one.floor,
    "ladder": lambda one: one.ladder,
}
DISK_COLUMNS: dict[str, Callable[["StoredModel"], object]] = {
    "model": lambda one: one.id,
    "size": lambda one: figure(size(one.size_bytes)),
    "source": lambda one: one.source,
    "path": lambda one: one.path,
}


@click.group(invoke_without_command=True)
@as_json
@click.pass_context
def models(ctx: click.Context, as_json: bool) -> None:
    """List the catalog's models and where they are ready; manage this disk."""
    if ctx.invoked_subcommand is not None:
        return
    session: CommandSession = ctx.obj
    found = session.connect().models()
    spare = ("license", "personas")
    show_list(session, as_json, found, COLUMNS, spare=spare, none=NO_MODEL)


@models.command()
@click.argument("model", shell_complete=hints.shipped)
@click.option("--catalog", type=click.Path(exists=True), help="Another catalog file.")
@as_json
@click.pass_obj
def pull(
    session: CommandSession, model: str, catalog: str | None, as_json: bool
) -> None:
    """Download and verify a model's files.

    A worker does this by itself when it must load a model; pulling earlier
    saves that wait.
    """
    from genie.errors import JobFailed
    from workers.files.files import ModelStore
    from workers.files.manifest import PullFailed

    quiet()
    spec = spec_of(model, catalog)
    with click.progressbar(length=100, label=spec.id, file=sys.stderr) as bar:
        try:
            done = ModelStore(folder()).ensure(
                spec,
                lambda share: bar.update(int(share * 100) - bar.pos),
                # Below the progress bar, which has begun its line.
                lambda: note(f"\n{spec.id} is being pulled already; waiting for it"),
            )
        except PullFailed as error:
            fault = error.fault
            raise JobFailed(fault.message, code=fault.code) from error
    path = str(done.path) if done.path else None
    found = {"id": spec.id, "path": path}
    show_done(session, as_json, found, (path or f"{spec.id} has no weights",))


@models.command()
@as_json
@click.pass_obj
def ls(session: CommandSession, as_json: bool) -> None:
    """List the models on this machine's disk."""
    from workers.files.files import ModelStore

    stored = ModelStore(folder()).ls()
    data = [
        {
            "id": one.id,
            "size_bytes": one.size_bytes,
            "source": one.source,
            "path": str(one.path),
        }
        for one in stored
    ]
    show_list(session, as_json, stored, DISK_COLUMNS, data=data, none=NONE_HERE)


@models.command()
@click.argument("model", shell_complete=hints.shipped)
@click.option("--catalog", type=click.Path(exists=True), help="Another catalog file.")
@click.option("--context", type=click.IntRange(min=2), help="Tokens of one request.")
@click.option("--fleet", is_flag=True, help="The fleet's workers, not this machine.")
@as_json
@click.pass_obj
def fit(
    session: CommandSession,
    model: str,
    catalog: str | None,
    context: int | None,
    fleet: bool,
    as_json: bool,
) -> None:
    """Show how many concurrent requests of a model fit where.

    Memory is weights + KV cache + overhead. A slot is room for one request; its
    context holds prompt and answer.
    """
    from genie import memory

    quiet()
    spec = spec_of(model, catalog)
    places = workers_of(session) if fleet else places_here()
    found = list(memory.fits(spec, places, context=context))
    if as_json:
        show_json([fit_json(one) for one in found])
        return
    rows = [
        (
            one.place.name,
            one.quant,
            one.context,
            one.slots or "-",
            figure(size(one.need.weights)),
            figure(size(one.need.kv_cache)),
            figure(size(one.need.overhead)),
            figure(size(one.need.total)),
            figure(size(one.place.free_bytes)),
        )
        for one in found
    ]
    show_table(session, FIT_COLUMNS, rows)
    if not found:
        kinds = sorted({kind for quant in spec.quants for kind in quant.devices})
        where = "in the fleet" if fleet else "here"
        note(f"{spec.id} runs on {' or '.join(kinds)} only, and none is {where}")


@models.command()
@click.argument(
    "models", metavar="MODEL...", shell_complete=hints.shipped, nargs=-1, required=True
)
@as_json
@click.pass_obj
def rm(session: CommandSession, models: tuple[str, ...], as_json: bool) -> None:
    """Delete models from this machine's disk.

    A worker that needs one downloads it again.
    """
    from genie.errors import NotFound
    from workers.files.files import ModelStore

    store = ModelStore(folder())
    for model in models:
        freed = store.rm(model)
        if not freed:
            raise NotFound(
                f"{model} is not on this machine; `genie models ls` lists what is here"
            )
        done = {"id": model, "freed_bytes": freed}
        show_done(session, as_json, done, (model, f"{size(freed)} freed"))


@click.command()
@as_json
@click.pass_obj
def personas(session: CommandSession, as_json: bool) -> None:
    """List the personas and their ladders of models, smallest first."""
    found = session.connect().personas()
    none = "no personas in the cloud's catalog"
    show_list(session, as_json, found, PERSONA_COLUMNS, none=none)


def spec_of(model: str, catalog: str | None) -> "ModelSpec":
    """The model with this id in a catalog file; raises `UnknownModel`."""
    from pathlib import Path

    from genie import catalog as catalogs
    from genie.errors import UnknownModel

    loaded = catalogs.load(Path(catalog) if catalog else catalogs.SHIPPED)
    if model in loaded.models:
        return loaded.models[model]
    near = ", ".join(
        name for name in loaded.suggestions(model) if name in loaded.models
    )
    raise UnknownModel(
        f"there is no model {model!r} in the catalog; "
        + (f"did you mean {near}?" if near else "`genie models` lists what there is")
    )


def places_here() -> "list[MemoryPool]":
    """This machine's GPUs or memory, without the reserve a worker keeps."""
    from genie import env
    from workers.hardware import GpuReader, host_status
    from workers.models import memory
    from workers.settings import MEMORY_RESERVE_SHARE

    limits = memory.MemoryLimits(reserve_share=MEMORY_RESERVE_SHARE)
    found = memory.devices(host_status(folder()), GpuReader(env.visible_gpus()).read())
    return [place(one.name, memory.usable(one, limits)) for one in found]


def workers_of(session: CommandSession) -> "list[MemoryPool]":
    """The free memory of the fleet's workers, as last reported."""
    places = []
    for worker in session.connect().workers():
        for gpu in worker.gpus:
            free = max(0, gpu.memory_total_bytes - gpu.memory_used_bytes)
            places.append(place(f"{worker.name} cuda:{gpu.index}", free))
        if worker.host is not None:
            free = worker.host.memory_available_bytes
            places.append(place(f"{worker.name} cpu", free))
    return places


def place(name: str, free_bytes: int) -> "MemoryPool":
    """A memory pool with its name, which ends with the device's."""
    from genie.memory import MemoryPool

    kind = name.rpartition(" ")[2].partition(":")[0]
    return MemoryPool(name=name, kind=kind, free_bytes=free_bytes)


def fit_json(found: "FitEstimate") -> dict[str, object]:
    """One way to load a model, as data; sizes are in bytes."""
    return {
        "place": found.place.name,
        "quant": found.quant,
        "context": found.context,
        "slots": found.slots,
        "weights_bytes": found.need.weights,
        "kv_bytes": found.need.kv_cache,
        "overhead_bytes": found.need.overhead,
        "total_bytes": found.need.total,
        "free_bytes": found.place.free_bytes,
    }


def folder() -> "Path":
    """The folder of pulled models; the same as for this user's workers."""
    from genie import env

    return env.models()


def holders(workers: int) -> str:
    """The number of workers on which a model is ready, in words.

    >>> holders(1), holders(3), holders(0)
    ('1 worker', '3 workers', '-')
    """
    if workers == 0:
        return "-"
    return f"{workers} worker" if workers == 1 else f"{workers} workers"


def count(number: int | None) -> str:
    """A number of parameters as people write it.

    >>> count(134_515_008), count(14_768_307_200), count(None)
    ('135M', '14.8B', '')
    """
    if number is None:
        return ""
    if number >= 1_000_000_000:
        return f"{number / 1e9:.1f}B"
    return f"{number / 1e6:.0f}M"
