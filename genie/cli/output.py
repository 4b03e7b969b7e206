"""Output of commands: tables, JSON, notes; and groups that list without a verb."""

import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import click
import msgspec
from click.shell_completion import CompletionItem

from genie.cli import tables
from genie.cli.values import cell, plain
from genie.contracts import codec
from genie.errors import JobTimeout

if TYPE_CHECKING:
    from genie.sdk.client import Client


class ListGroup(click.Group):
    """A group that runs its command ``list`` when no verb is given.

    `genie jobs --state failed` is `genie jobs list --state failed`.
    """

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """The usage after the name: the verb is optional."""
        return ["[OPTIONS]", "[COMMAND]", "[ARGS]..."]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """The arguments, with ``list`` put first where no verb stands."""
        # a shell that completes the first word wants the verbs too
        is_first_word = ctx.resilient_parsing and not args
        if _names_no_verb(args) and not is_first_word:
            args = ["list", *args]
        return super().parse_args(ctx, args)

    def shell_complete(
        self, ctx: click.Context, incomplete: str
    ) -> list[CompletionItem]:
        """Verbs, and the options of ``list``."""
        found = super().shell_complete(ctx, incomplete)
        listing = self.get_command(ctx, "list")
        if listing is None or not incomplete.startswith("-"):
            return found
        sub = click.Context(listing, parent=ctx, info_name="list")
        known = {item.value for item in found}
        options = listing.shell_complete(sub, incomplete)
        return [*found, *(item for item in options if item.value not in known)]


def _names_no_verb(args: list[str]) -> bool:
    return not args or (args[0].startswith("-") and args[0] != "--help")


F = TypeVar("F", bound=Callable[..., object])
T = TypeVar("T")

CLI_RETRY_S = 2.0
"""At a terminal an unreachable cloud should be reported soon."""

NARROWEST_VALUE = 20
"""With fewer characters beside a name, its value is not wrapped."""


def connect() -> "Client":
    """A client made from this process's settings."""
    from genie.sdk.client import Client

    return Client(retry_s=CLI_RETRY_S)


def is_terminal() -> bool:
    """True when our output goes to a terminal."""
    return sys.stdout.isatty()


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSession:
    """One run of the command; tests bring their own client and terminal."""

    connect: Callable[[], "Client"] = connect
    is_terminal: Callable[[], bool] = field(default=is_terminal)


def as_json(command: F) -> F:
    """Give a command the option ``--json``."""
    option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    return option(command)


def show_json(value: object) -> None:
    """Print any answer as indented JSON."""
    data = msgspec.json.encode(codec.shown(value))
    click.echo(msgspec.json.format(data, indent=2).decode())


def show_table(
    session: CommandSession,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    spare: Sequence[str] = (),
    none: str = "",
) -> None:
    """A table with headings on a terminal, otherwise tab-separated lines without.

    People see no empty columns, on a narrow terminal none of ``spare`` either, and
    ``none`` when there is nothing; scripts always get every column.
    """
    found = list(rows)
    if not session.is_terminal():
        for line in found:
            click.echo("\t".join(map(plain, line)))
    elif found:
        tables.draw(tables.ListTable(columns=columns, rows=found, spare=spare))
    elif none:
        note(none)


def show_list(
    session: CommandSession,
    as_json: bool,
    found: Sequence[T],
    columns: Mapping[str, Callable[[T], object]],
    *,
    data: object = None,
    spare: Sequence[str] = (),
    none: str = "",
) -> None:
    """A list: ``data`` as JSON, or a table of ``columns``, which say their values."""
    if as_json:
        show_json(found if data is None else data)
        return
    rows = [[value(one) for value in columns.values()] for one in found]
    show_table(session, [*columns], rows, spare=spare, none=none)


def show_card(session: CommandSession, pairs: Sequence[tuple[str, object]]) -> None:
    """Names and values, one per line; names without a value are left out."""
    kept = [(name, value) for name, value in pairs if cell(value)]
    if not session.is_terminal():
        for name, value in kept:
            click.echo(f"{name}\t{plain(value)}")
        return
    indent = max((len(name) for name, _ in kept), default=0) + tables.GAP
    for name, value in kept:
        for line in _beside(name, value, indent):
            click.echo(line)


def show_done(
    session: CommandSession, as_json: bool, answer: object, cells: Sequence[object]
) -> None:
    """Print one of many results in one line, as soon as it is there."""
    if as_json:
        click.echo(msgspec.json.encode(answer).decode())
    elif session.is_terminal():
        click.echo("  ".join(cell(value) for value in cells if cell(value)))
    else:
        click.echo("\t".join(map(plain, cells)))


@contextmanager
def detaching(what: str, follow: str) -> Iterator[None]:
    """On Ctrl-C or a timeout, leave ``what`` alone and say how to follow it."""
    try:
        yield
    except KeyboardInterrupt:
        note(f"\ngenie: {what} goes on; `{follow}` follows it")
        raise click.Abort from None
    except JobTimeout as error:
        if error.error_code != "wait_timeout":
            raise
        raise JobTimeout(
            f"{what} has not ended yet and goes on; `{follow}` waits again",
            code=error.error_code,
        ) from error


def quiet() -> None:
    """Keep logs of worker and cloud code out of a command's output."""
    from genie import logs

    logs.configure(level="ERROR")


def note(message: str) -> None:
    """Print a message on stderr."""
    click.echo(wrapped(message), err=True)


def wrapped(message: str) -> str:
    """A message wrapped between words on a terminal, never inside a command."""
    if not sys.stderr.isatty():
        return message
    return "\n".join(
        "\n".join(_wrap(line, tables.terminal_width())) or line
        for line in message.split("\n")
    )


def _wrap(line: str, width: int) -> list[str]:
    # text between backquotes is to be copied, so it stays in one line
    parts = line.split("`")
    parts[1::2] = [part.replace(" ", "\0") for part in parts[1::2]]
    found = textwrap.wrap(
        "`".join(parts), width, break_long_words=False, break_on_hyphens=False
    )
    return [piece.replace("\0", " ") for piece in found]


def _beside(name: str, value: object, indent: int) -> Iterator[str]:
    """A name and its value as lines; further lines are indented to the value."""
    items = value if isinstance(value, (tuple, list)) else (value,)
    room = tables.terminal_width() - indent
    for item in items:
        text = " ".join(cell(item).split())
        narrow = room < NARROWEST_VALUE
        for line in [text] if narrow else _wrap(text, room):
            yield f"{name:<{indent}}{line}"
            name = ""
