"""``genie models`` and ``genie personas``: what can be asked, what lies on the disk."""

import sys
from typing import TYPE_CHECKING

import click

from genie.cli.output import (
    Session,
    as_json,
    note,
    quiet,
    show_json,
    show_table,
    size,
)

if TYPE_CHECKING:
    from pathlib import Path

    from genie.contracts.model import ModelSpec

COLUMNS = ("model", "ready on", "parameters", "context", "license", "personas")


@click.group(invoke_without_command=True)
@as_json
@click.pass_context
def models(ctx: click.Context, as_json: bool) -> None:
    """List the catalog's models and where they are ready; look after this disk."""
    if ctx.invoked_subcommand is not None:
        return
    session: Session = ctx.obj
    found = session.connect().models()
    if as_json:
        show_json(found)
        return
    rows = [
        (
            model.id,
            holders(model.genie.workers),
            count(model.genie.parameters),
            model.genie.context,
            model.genie.license,
            model.genie.personas,
        )
        for model in found
    ]
    show_table(session, COLUMNS, rows)


@models.command()
@click.argument("model")
@click.option("--catalog", type=click.Path(exists=True), help="Another catalog file.")
def pull(model: str, catalog: str | None) -> None:
    """Fetch a model's files onto this machine, verified.

    A worker does this by itself when it is told to load a model; pulling before
    saves that wait.
    """
    from genie.errors import JobFailed
    from workers.files import Models, PullFailed

    quiet()
    spec = spec_of(model, catalog)
    with click.progressbar(length=100, label=spec.id, file=sys.stderr) as bar:
        try:
            done = Models(folder()).ensure(
                spec, lambda share: bar.update(int(share * 100) - bar.pos)
            )
        except PullFailed as error:
            fault = error.fault
            raise JobFailed(fault.message, code=fault.code) from error
    click.echo(done.path or f"{spec.id} has no weights")


@models.command()
@as_json
@click.pass_obj
def ls(session: Session, as_json: bool) -> None:
    """List the models on this machine's disk."""
    from workers.files import Models

    stored = Models(folder()).ls()
    if as_json:
        show_json(
            [
                {
                    "id": one.id,
                    "size_bytes": one.size_bytes,
                    "source": one.source,
                    "path": str(one.path),
                }
                for one in stored
            ]
        )
        return
    rows = [(one.id, size(one.size_bytes), one.source, one.path) for one in stored]
    show_table(session, ("model", "size", "source", "path"), rows)


@models.command()
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
def rm(models: tuple[str, ...]) -> None:
    """Delete models from this machine's disk; a worker that needs one pulls it anew."""
    from genie.errors import NotFound
    from workers.files import Models

    store = Models(folder())
    for model in models:
        freed = store.rm(model)
        if not freed:
            raise NotFound(
                f"{model} is not on this machine; `genie models ls` lists what is"
            )
        note(f"{model}: {size(freed)} freed")


@click.command()
@as_json
@click.pass_obj
def personas(session: Session, as_json: bool) -> None:
    """List the kinds of work and their ladders of models, smallest first."""
    found = session.connect().personas()
    if as_json:
        show_json(found)
        return
    rows = [(one.id, one.tier, one.floor, one.ladder) for one in found]
    show_table(session, ("persona", "tier", "floor", "ladder"), rows)


def spec_of(model: str, catalog: str | None) -> "ModelSpec":
    """The model of this id in a catalog file; raises `UnknownModel`."""
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


def folder() -> "Path":
    """Where pulled models live; the same as for this user's workers."""
    from genie import env

    return env.models()


def holders(workers: int) -> str:
    """On how many workers a model is ready.

    >>> holders(1), holders(3), holders(0)
    ('1 worker', '3 workers', '-')
    """
    if workers == 0:
        return "-"
    return f"{workers} worker" if workers == 1 else f"{workers} workers"


def count(number: int | None) -> str:
    """Parameters as people say them.

    >>> count(134_515_008), count(14_768_307_200), count(None)
    ('135M', '14.8B', '')
    """
    if number is None:
        return ""
    if number >= 1_000_000_000:
        return f"{number / 1e9:.1f}B"
    return f"{number / 1e6:.0f}M"
