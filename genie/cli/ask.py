"""``genie route``, ``ask`` and ``submit``: questions on the command line."""

import os
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast

import click
import msgspec

from genie.cli import hints
from genie.cli.output import (
    CommandSession,
    as_json,
    detaching,
    note,
    show_card,
    show_json,
)
from genie.sdk.chat import AskOptions

if TYPE_CHECKING:
    from genie.sdk.client import Client
    from genie.sdk.jobs import Result
    from genie.sdk.streams import Waiting

NO_CAPACITY = 3


@click.command()
@click.argument("prompt", required=False)
@click.option(
    "-p", "--persona", shell_complete=hints.persona, help="Kind of work, e.g. review."
)
@click.option("-m", "--model", shell_complete=hints.model, help="A model, or a tier.")
@as_json
@click.pass_context
def route(
    ctx: click.Context,
    prompt: str | None,
    persona: str | None,
    model: str | None,
    as_json: bool,
) -> None:
    """Show where a question would go now, and why; nothing runs.

    Text on standard input joins the prompt: its length matters too.

    The exit code is 3 when it would be refused.
    """
    session: CommandSession = ctx.obj
    question = "\n\n".join(part for part in (prompt, piped()) if part) or None
    found = session.connect().route(question, persona=persona, model=model)
    if as_json:
        show_json(found)
    else:
        card = [
            ("refused", found.refused and f"{found.refused}: {found.message}"),
            ("model", found.model),
            ("instead of", found.substituted),
            ("ready", found.ready),
            ("waits", found.waits),
            ("queue", found.queue),
            ("class", found.work_class),
            ("locality", found.locality),
            *(("because", reason) for reason in found.reasons),
            *(("skipped", f"{one.model}: {one.why}") for one in found.skipped),
        ]
        show_card(session, card)
    if found.refused:
        ctx.exit(NO_CAPACITY)


F = TypeVar("F", bound=Callable[..., object])

OPTIONS = (
    click.option(
        "-p",
        "--persona",
        shell_complete=hints.persona,
        help="Kind of work, e.g. review.",
    ),
    click.option(
        "-m", "--model", shell_complete=hints.model, help="A model, or a tier."
    ),
    click.option("-s", "--system", help="System message."),
    click.option("--max-tokens", type=click.IntRange(min=1), help="Longest answer."),
    click.option("--temperature", type=click.FloatRange(0, 2), help="0 to 2."),
    click.option("--top-p", type=click.FloatRange(0, 1), help="0 to 1."),
    click.option("--stop", multiple=True, help="End before this text; repeatable."),
    click.option("--seed", type=int, help="The same seed gives the same answer."),
    click.option("--label", help="A name to list jobs by, at most 200 characters."),
    click.option(
        "--timeout", type=click.FloatRange(min=0.1), help="Time limit in seconds."
    ),
)


class SchemaFile(click.Path):
    """Reads a JSON schema from a file."""

    def __init__(self) -> None:
        super().__init__(exists=True, dir_okay=False)

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:  # click.Path says str, and a command gets what this returns
        """The schema as a mapping."""
        path = str(super().convert(value, param, ctx))
        try:
            return msgspec.json.decode(Path(path).read_bytes(), type=dict[str, object])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self.fail(f"{path} is not a JSON schema: {error}", param, ctx)


schema = click.option(
    "--schema",
    type=SchemaFile(),
    metavar="FILE",
    help="A JSON schema that the answer follows.",
)


def asking(command: F) -> F:
    """Give a command the prompt and the options of `genie.sdk.chat.AskOptions`."""
    decorated = command
    for option in reversed(OPTIONS):
        decorated = option(decorated)
    return click.argument("prompt", required=False)(decorated)


@click.command()
@asking
@schema
@click.option("--stream/--no-stream", default=None, help="Print text as it is written.")
@as_json
@click.pass_obj
def ask(
    session: CommandSession,
    prompt: str | None,
    schema: dict[str, object] | None,
    stream: bool | None,
    as_json: bool,
    **options: Unpack[AskOptions],
) -> None:
    """Ask a question and print the answer.

    Text on standard input joins the prompt: `genie ask "Review this" < diff.txt`.
    On a terminal the answer appears as it is written.
    """
    question = joined(prompt)
    is_streamed = session.is_terminal() if stream is None else stream
    client = session.connect()
    try:
        if as_json or not is_streamed:
            result = client.ask(question, schema=schema, **given(options))
            show_result(session, result, as_json)
            return
        _sum_up(session, _streamed(client, question, schema, given(options)))
    except KeyboardInterrupt:
        note("\ngenie: stopped, and its job is cancelled; jobs of `genie submit` go on")
        raise click.Abort from None


@click.command()
@asking
@schema
@click.option("--wait", is_flag=True, help="Wait for the answer and print it.")
@as_json
@click.pass_obj
def submit(
    session: CommandSession,
    prompt: str | None,
    schema: dict[str, object] | None,
    wait: bool,
    as_json: bool,
    **options: Unpack[AskOptions],
) -> None:
    """Submit a question as a job.

    Prints the job's id; `genie jobs wait ID` waits for its answer. With --wait Ctrl-C
    stops the waiting, not the job.
    """
    job = session.connect().submit(joined(prompt), schema=schema, **given(options))
    if not wait:
        show_json(job.details) if as_json else click.echo(job.id)
        return
    with detaching(f"job {job.id}", f"genie jobs wait {job.id}"):
        show_result(session, job.result(), as_json)


def show_result(session: CommandSession, result: "Result", as_json: bool) -> None:
    """Print an answer, and on a terminal who computed it."""
    if as_json:
        show_json(result)
        return
    click.echo(result.text)
    _sum_up(session, result)


def joined(prompt: str | None) -> str:
    """The prompt and standard input, with a blank line between them."""
    parts = [part for part in (prompt, piped()) if part]
    if not parts:
        raise click.UsageError("give a prompt, or text on standard input")
    return "\n\n".join(parts)


def piped() -> str:
    """Standard input, unless it is a terminal."""
    # a process started with its standard input closed has None
    if not sys.stdin or sys.stdin.isatty():
        return ""
    try:
        return sys.stdin.buffer.read().decode().strip()
    except UnicodeDecodeError as error:
        raise click.UsageError("standard input is not UTF-8 text") from error


def given(options: AskOptions) -> AskOptions:
    """The options given on the command line."""
    kept = {name: value for name, value in options.items() if value not in (None, ())}
    return cast(AskOptions, kept)


def _streamed(
    client: "Client",
    question: str,
    schema: dict[str, object] | None,
    options: AskOptions,
) -> "Result":
    line = WaitLine(is_shown=sys.stderr.isatty())
    with client.stream(question, schema=schema, on_wait=line.tell, **options) as answer:
        with closing(line):
            first = next(answer, "")
        click.echo(first, nl=False)
        for piece in answer:
            click.echo(piece, nl=False)
            sys.stdout.flush()
    click.echo()
    return answer.result


class WaitLine:
    """Shows the place in the queue on one line until the answer begins."""

    def __init__(self, *, is_shown: bool) -> None:
        self._is_shown = is_shown
        self._is_dirty = False

    def tell(self, waiting: "Waiting") -> None:
        """Show a new place in the queue."""
        if not self._is_shown:
            return
        told = [] if waiting.position is None else [f"position {waiting.position}"]
        if waiting.eta_s is not None:
            told.append(f"about {waiting.eta_s:.0f} s")
        place = f" ({', '.join(told)})" if told else ""
        click.echo(f"\rwaiting for a worker{place}\x1b[K", nl=False, err=True)
        self._is_dirty = True

    def close(self) -> None:
        """Remove the line."""
        if self._is_dirty:
            click.echo("\r\x1b[K", nl=False, err=True)


def _sum_up(session: CommandSession, result: "Result") -> None:
    if result.substituted:
        note(
            f"genie: {result.model} answered instead of {result.substituted}, which "
            "no machine of the fleet can run; `genie route` says why"
        )
    if not session.is_terminal():
        return
    speed = f" · {result.tokens_per_s:.1f} tokens/s" if result.tokens_per_s else ""
    where = f" on {result.worker}" if result.worker else ""
    place = f" ({result.locality.value})" if result.locality else ""
    tokens = result.usage.completion_tokens
    note(f"— {result.model}{where}{place} · {tokens} tokens{speed}")
