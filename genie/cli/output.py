"""What commands share: the client they talk through and how they print."""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import click
import msgspec

if TYPE_CHECKING:
    from genie.client import Client

F = TypeVar("F", bound=Callable[..., object])

CLI_RETRY_S = 2.0
"""A person at a terminal wants to hear soon that nobody is there."""


def connect() -> "Client":
    """A client by the settings of this process."""
    from genie.client import Client

    return Client(retry_s=CLI_RETRY_S)


def is_terminal() -> bool:
    """True when a person looks at what we print."""
    return sys.stdout.isatty()


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One run of the command; tests bring a client and a terminal of their own."""

    connect: Callable[[], "Client"] = connect
    is_terminal: Callable[[], bool] = field(default=is_terminal)


def as_json(command: F) -> F:
    """Give a command that reads something the option ``--json``."""
    option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    return option(command)


def show_json(value: object) -> None:
    """Print any answer as indented JSON."""
    data = msgspec.json.encode(value)
    click.echo(msgspec.json.format(data, indent=2).decode())


def show_table(
    session: Session, columns: Sequence[str], rows: Iterable[Sequence[object]]
) -> None:
    """A table with headings on a terminal, else tab-separated lines without.

    A person sees no empty columns; a script gets every column, always.
    """
    cells = [[cell(value) for value in row] for row in rows]
    if not session.is_terminal():
        for line in cells:
            click.echo("\t".join(_flat(text) for text in line))
        return
    _rich_table(columns, cells)


def show_card(session: Session, pairs: Sequence[tuple[str, object]]) -> None:
    """Names and values, one a line; names without a value are left out."""
    kept = [(name, cell(value)) for name, value in pairs if cell(value)]
    width = max((len(name) for name, _ in kept), default=0)
    for name, text in kept:
        gap = "\t" if not session.is_terminal() else " " * (width - len(name) + 2)
        click.echo(f"{name}{gap}{_flat(text)}")


def cell(value: object) -> str:
    """A value as people read it.

    >>> [cell(value) for value in (None, True, 0.25, ("a", "b"), 1500.0)]
    ['', 'yes', '0.25', 'a, b', '1500']
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
    if isinstance(value, (tuple, list)):
        return ", ".join(cell(item) for item in value)
    return str(value)


def moment(seconds: float | None) -> str:
    """Seconds since 1970 as local time, to the second."""
    from datetime import UTC, datetime

    if seconds is None:
        return ""
    return (
        datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    )


def size(count: float | None) -> str:
    """Bytes in the unit people use for memory.

    >>> size(24 * 1024**3), size(None)
    ('24.0 GiB', '')
    """
    return "" if count is None else f"{count / 1024**3:.1f} GiB"


def quiet() -> None:
    """Keep the logs of worker and cloud code out of a command's output."""
    from genie import logs

    logs.configure(level="ERROR")


def note(message: str) -> None:
    """Something worth knowing that is not the answer: on stderr."""
    click.echo(message, err=True)


def _rich_table(columns: Sequence[str], cells: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    shown = [n for n in range(len(columns)) if any(line[n] for line in cells)]
    for index in shown:
        name, longest = columns[index], max(len(line[index]) for line in cells)
        # ids are never cut: their column keeps its width and the others fold
        least = longest if name in ("id", "job", "key") else None
        table.add_column(name, overflow="fold", min_width=least)
    for line in cells:
        table.add_row(*(line[index] for index in shown))
    Console(file=sys.stdout, markup=False, highlight=False).print(table)


def _flat(text: str) -> str:
    return " ".join(text.split())
