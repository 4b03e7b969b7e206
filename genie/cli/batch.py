"""``genie batch``: submit, list, show, wait, results and cancel."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from genie.cli import hints
from genie.cli.output import (
    CommandSession,
    ListGroup,
    as_json,
    detaching,
    show_card,
    show_done,
    show_json,
    show_list,
)
from genie.cli.values import age, when
from genie.contracts.batch import BatchState
from genie.errors import JobFailed

if TYPE_CHECKING:
    from genie.sdk.batches import Batch, BatchOptions, BatchRequests, BatchResult

COLUMNS: dict[str, Callable[["Batch"], object]] = {
    "batch": lambda batch: batch.id,
    "status": lambda batch: batch.status.value,
    "done": lambda batch: batch.counts.completed,
    "failed": lambda batch: batch.counts.failed,
    "total": lambda batch: batch.counts.total,
    "model": lambda batch: batch.details.model,
    "age": lambda batch: age(batch.details.created_at),
}
PAGE = click.IntRange(1, 100)
NONE = "no batches; `genie batch submit FILE` makes one"


@click.group(cls=ListGroup)
def batch() -> None:
    """Run many requests from one file; without a verb, list batches."""


@batch.command()
@click.argument("path", metavar="FILE", type=click.Path(exists=True, dir_okay=False))
@click.option("--prompts", is_flag=True, help="Each line of FILE is a prompt.")
@click.option(
    "-p",
    "--persona",
    shell_complete=hints.persona,
    help="Kind of work of the prompts, e.g. review.",
)
@click.option(
    "-m",
    "--model",
    shell_complete=hints.model,
    help="A model, or a tier, for the prompts.",
)
@click.option("--max-tokens", type=click.IntRange(min=1), help="Longest answer.")
@click.option(
    "--window",
    default="24h",
    show_default=True,
    help="Time to complete: up to 24h, such as 30m.",
)
@click.option("--endpoint", help="Endpoint of the lines; chat completions by default.")
@as_json
@click.pass_obj
def submit(
    session: CommandSession,
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
    requests: BatchRequests = _prompts(Path(path)) if prompts else path
    made = session.connect().batch(requests, **options)
    show_json(made.details) if as_json else click.echo(made.id)


@batch.command("list")
@click.option(
    "--limit",
    type=PAGE,
    default=20,
    show_default=True,
    help="How many to list, at most.",
)
@click.option(
    "--after",
    metavar="BATCH",
    shell_complete=hints.batch,
    help="List batches after this one.",
)
@as_json
@click.pass_obj
def list_batches(
    session: CommandSession, as_json: bool, limit: int, after: str | None
) -> None:
    """List your org's batches, newest first."""
    found = session.connect().batches.list(limit=limit, after=after)
    data, spare = [one.details for one in found], ("model", "age")
    show_list(session, as_json, found, COLUMNS, data=data, spare=spare, none=NONE)


@batch.command()
@click.argument("batch_id", metavar="BATCH", shell_complete=hints.batch)
@as_json
@click.pass_obj
def show(session: CommandSession, batch_id: str, as_json: bool) -> None:
    """Show a batch: its progress, and mistakes in its input."""
    found = session.connect().batches.get(batch_id)
    if as_json:
        show_json(found.details)
        return
    show_card(session, _card(found))


@batch.command()
@click.argument("batch_id", metavar="BATCH", shell_complete=hints.batch)
@click.option("--timeout", type=click.FloatRange(min=0), help="Time limit in seconds.")
@as_json
@click.pass_obj
def wait(
    session: CommandSession, batch_id: str, timeout: float | None, as_json: bool
) -> None:
    """Wait until a batch has ended.

    The exit code is 1 unless it completed. Ctrl-C stops the waiting, not the batch.
    """
    found = session.connect().batches.get(batch_id)
    with detaching(batch_id, f"genie batch wait {batch_id}"):
        found.wait(timeout)
    show_done(session, as_json, found.details, (found.id, found.status.value))
    if found.status is not BatchState.COMPLETED:
        raise JobFailed(
            f"{found.id} is {found.status.value}; `genie batch show {found.id}` "
            "says why"
        )


@batch.command()
@click.argument("batch_id", metavar="BATCH", shell_complete=hints.batch)
@as_json
@click.pass_obj
def results(session: CommandSession, batch_id: str, as_json: bool) -> None:
    """Wait for a batch and print its answers.

    One line each: custom_id, and the answer or the error. Ctrl-C stops the waiting,
    not the batch.
    """
    found = session.connect().batches.get(batch_id)
    with detaching(batch_id, f"genie batch results {batch_id}"):
        for one in found.results():
            said = one.result.text if one.result else f"error: {one.error}"
            row = (one.custom_id, " ".join(said.split()))
            show_done(session, as_json, _plain(one), row)


@batch.command()
@click.argument(
    "batch_ids", metavar="BATCH...", shell_complete=hints.batch, nargs=-1, required=True
)
@as_json
@click.pass_obj
def cancel(session: CommandSession, batch_ids: tuple[str, ...], as_json: bool) -> None:
    """Cancel batches; existing answers are kept."""
    client = session.connect()
    for batch_id in batch_ids:
        found = client.batches.get(batch_id).cancel()
        show_done(session, as_json, found.details, (found.id, found.status.value))


def _prompts(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{path} is not UTF-8 text: {error.reason}") from error
    return [line for line in lines if line.strip()]


def _plain(one: "BatchResult") -> dict[str, object]:
    error = one.error
    return {
        "custom_id": one.custom_id,
        "text": one.result.text if one.result else None,
        "error": error and {"code": error.error_code, "message": error.message},
    }


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
        ("created", when(details.created_at)),
        ("expires", when(details.expires_at)),
        ("input", details.input_file_id),
        ("output", details.output_file_id),
        ("errors", details.error_file_id),
        ("mistakes", [f"line {one.line}: {one.message}" for one in mistakes[:10]]),
        ("metadata", [f"{k}={v}" for k, v in (details.metadata or {}).items()]),
    ]
