"""Tables that fit their terminal and never cut a word."""

import shutil
import sys
from collections.abc import Sequence

import click

from genie.cli.values import cell, is_number

GAP = 2
UNBROKEN = 14
"""A text up to this length stays in one line even if it has spaces."""

TONES = {
    "completed": "green",
    "online": "green",
    "ok": "green",
    "running": "cyan",
    "in_progress": "cyan",
    "queued": "yellow",
    "late": "yellow",
    "draining": "yellow",
    "paused": "yellow",
    "warn": "yellow",
    "failed": "red",
    "timeout": "red",
    "expired": "red",
    "offline": "red",
    "lost": "red",
    "quarantined": "red",
    "fail": "red",
}
"""Words of state and their colours."""


def draw(
    columns: Sequence[str], rows: Sequence[Sequence[object]], spare: Sequence[str] = ()
) -> None:
    """Print a table without its empty columns.

    If it is too wide, columns of ``spare`` are left out one by one; if
    that is not enough, each row becomes several lines.
    """
    cells = [[cell(value) for value in row] for row in rows]
    shown = [n for n in range(len(columns)) if any(line[n] for line in cells)]
    found = fit(columns, cells, shown, spare, terminal_width())
    if found is None:
        _draw_cards(columns, cells, shown)
        return
    numeric = {n for n in shown if all(is_number(r[n]) for r in rows if cell(r[n]))}
    _draw_table(columns, cells, found, numeric)


def fit(
    columns: Sequence[str],
    cells: Sequence[Sequence[str]],
    shown: Sequence[int],
    spare: Sequence[str],
    available: int,
) -> dict[int, int] | None:
    """The columns that fit, with their widths; None when none do."""
    for left_out in range(len(spare) + 1):
        kept = [n for n in shown if columns[n] not in spare[:left_out]]
        texts = [[columns[n], *(line[n] for line in cells)] for n in kept]
        found = widths(texts, available)
        if found is not None:
            return dict(zip(kept, found, strict=True))
    return None


def widths(texts: Sequence[Sequence[str]], available: int) -> list[int] | None:
    """The width of each column for its texts; None when words would be cut.

    >>> widths([["id", "01a"], ["why", "because it is the smallest"]], 40)
    [3, 26]
    >>> widths([["id", "01a"], ["why", "because it is the smallest"]], 20)
    [3, 15]
    >>> widths([["id", "01a"], ["why", "because it is the smallest"]], 8) is None
    True
    """
    found = [max(map(_wide, column), default=0) for column in texts]
    least = [max(map(_least, column), default=0) for column in texts]
    room = available - GAP * max(0, len(texts) - 1)
    if sum(least) > room:
        return None
    while sum(found) > room:
        widest = max(
            (n for n in range(len(found)) if found[n] > least[n]),
            key=lambda n: found[n],
        )
        found[widest] -= 1
    return found


def terminal_width(elsewhere: int = 80) -> int:
    """Columns of the terminal; COLUMNS overrides it."""
    return shutil.get_terminal_size((elsewhere, 24)).columns


def _wide(text: str) -> int:
    """Columns a text takes; some characters take two."""
    from rich.cells import cell_len  # not for a command that draws no table

    return cell_len(text)


def _least(text: str) -> int:
    if _wide(text) <= UNBROKEN:
        return _wide(text)
    return max(map(_wide, text.split()), default=0)


def _draw_table(
    columns: Sequence[str],
    cells: Sequence[Sequence[str]],
    found: dict[int, int],
    numeric: set[int],
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, width in found.items():
        justify = "right" if index in numeric else "left"
        table.add_column(columns[index], width=width, justify=justify)  # type: ignore[arg-type]  # a Literal to mypy only when written out
    for line in cells:
        table.add_row(*(Text(line[n], style=TONES.get(line[n], "")) for n in found))
    # one column more than needed: a table as wide as its terminal is not wrapped
    total = max(terminal_width(), sum(found.values()) + GAP * len(found))
    console = Console(file=sys.stdout, markup=False, highlight=False, width=total)
    with console.capture() as drawn:
        console.print(table)
    for line in drawn.get().splitlines():
        click.echo(line.rstrip())


def _draw_cards(
    columns: Sequence[str], cells: Sequence[Sequence[str]], shown: Sequence[int]
) -> None:
    longest = max(len(columns[n]) for n in shown)
    for number, line in enumerate(cells):
        if number:
            click.echo()
        for index in shown:
            if line[index]:
                click.echo(f"{columns[index]:<{longest + GAP}}{line[index]}")
