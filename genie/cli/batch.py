"""``genie batch``: submit, list, show, wait, results and cancel."""

from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from genie.cli.output import Session, as_json, moment, note, show_card, show_json
from genie.cli.output import show_table as table
from genie.contracts.batch import BatchState
from genie.errors import JobFailed

if TYPE_CHECKING:
    from genie.batches import Batch, BatchOptions, BatchResult, Requests

COLUMNS = ("batch", "status", "done", "failed", "total", "model", "created")


@click.group(invoke_without_command=True)
@click.pass_context
def batch(ctx: click.Context) -> None:
    """Run many requests from one file; without a verb, list batches."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_batches)


@batch.command()
@click.argument("path", metavar="FILE", type=click.Path(exists=True, dir_okay=False))
@click.option("--prompts", is_flag=True, help="Each line of FILE is a prompt.")
@click.option("-p", "--persona", help="Kind of work of the prompts, e.g. review.")
@click.option("-m", "--model", help="This very model, or a tier, for the prompts.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Longest answer.")
@click.option("--window", default="24h", show_default=True, help="24h or less: 30m.")
@click.option("--endpoint", help="What the lines are for; chat completions if not set.")
@as_json
@click.pass_obj
def submit(
    session: Session,
    path: str,
    prompts: bool,
    as_json: bool,
    **options: Unpack["BatchOptions"],
) -> None:
    """Submit the requests in FILE and print the batch's id.

    Each line is {"custom_id": …, "method": "POST", "url": "/v1/chat/completions",
    "body": {…}}; with --prompts each line is the text of one question.
    """
    of_prompts = (options.get(name) for name in ("persona", "model", "max_tokens"))
    if not prompts and any(of_prompts):
        raise click.UsageError(
            "persona, model and max-tokens are for --prompts; a file says them in "
            "each line's body"
        )
    requests: Requests = _prompts(Path(path)) if prompts else path
    made = session.connect().batch(requests, **options)
    show_json(made.details) if as_json else click.echo(made.id)


@batch.command("list")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True)
@click.option("--after", metavar="BATCH", help="Go on after this batch.")
@as_json
@click.pass_obj
def list_batches(
    session: Session, as_json: bool, limit: int = 20, after: str | None = None
) -> None:
    """List your org's batches, newest first."""
    found = session.connect().batches.list(limit=limit, after=after)
    if as_json:
        show_json([one.details for one in found])
        return
    table(session, COLUMNS, [_row(one) for one in found])


@batch.command()
@click.argument("batch_id", metavar="BATCH")
@as_json
@click.pass_obj
def show(session: Session, batch_id: str, as_json: bool) -> None:
    """Show one batch: how far it is, and what was wrong with its input."""
    found = session.connect().batches.get(batch_id)
    if as_json:
        show_json(found.details)
        return
    show_card(session, _card(found))


@batch.command()
@click.argument("batch_id", metavar="BATCH")
@click.option("--timeout", type=click.FloatRange(min=0), help="Seconds, at most.")
@click.pass_obj
def wait(session: Session, batch_id: str, timeout: float | None) -> None:
    """Wait for the end of a batch; exit code 1 unless it completed."""
    found = session.connect().batches.get(batch_id)
    try:
        found.wait(timeout)
    except KeyboardInterrupt:
        note(f"genie: {batch_id} goes on; `genie batch wait {batch_id}` follows it")
        raise
    click.echo(f"{found.id}\t{found.status.value}")
    if found.status is not BatchState.COMPLETED:
        raise JobFailed(f"{found.id} is {found.status.value}; `genie batch show` it")


@batch.command()
@click.argument("batch_id", metavar="BATCH")
@as_json
@click.pass_obj
def results(session: Session, batch_id: str, as_json: bool) -> None:
    """Wait for a batch and print each custom_id with its answer or error."""
    for one in session.connect().batches.get(batch_id).results():
        if as_json:
            show_json(_plain(one))
            continue
        said = one.result.text if one.result else f"error: {one.error}"
        click.echo(f"{one.custom_id}\t{' '.join(said.split())}")


@batch.command()
@click.argument("batch_ids", metavar="BATCH...", nargs=-1, required=True)
@click.pass_obj
def cancel(session: Session, batch_ids: tuple[str, ...]) -> None:
    """Cancel batches; the answers they have are kept."""
    client = session.connect()
    for batch_id in batch_ids:
        found = client.batches.get(batch_id).cancel()
        click.echo(f"{found.id}\t{found.status.value}")


def _prompts(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip()]


def _plain(one: "BatchResult") -> dict[str, object]:
    error = one.error
    return {
        "custom_id": one.custom_id,
        "text": one.result.text if one.result else None,
        "error": error and {"code": error.error_code, "message": error.message},
    }


def _row(found: "Batch") -> tuple[object, ...]:
    details, counts = found.details, found.counts
    return (
        found.id,
        found.status.value,
        str(counts.completed),
        str(counts.failed),
        str(counts.total),
        details.model,
        moment(details.created_at),
    )


def _card(found: "Batch") -> list[tuple[str, object]]:
    details, counts = found.details, found.counts
    mistakes = details.errors.data if details.errors else ()
    return [
        ("batch", found.id),
        ("status", found.status.value),
        ("endpoint", details.endpoint),
        ("model", details.model),
        ("done", f"{counts.completed} of {counts.total}"),
        ("failed", str(counts.failed) if counts.failed else None),
        ("window", details.completion_window),
        ("created", moment(details.created_at)),
        ("expires", moment(details.expires_at)),
        ("input", details.input_file_id),
        ("output", details.output_file_id),
        ("errors", details.error_file_id),
        ("mistakes", [f"line {one.line}: {one.message}" for one in mistakes[:10]]),
        ("labels", [f"{k}={v}" for k, v in (details.metadata or {}).items()]),
    ]
