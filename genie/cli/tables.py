"""Tables that fit their terminal: those that commands print, and `genie top`'s."""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from genie.cli.values import cell, is_number

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

GAP = 2
NARROWEST = 6
NOTHING = "–"
"""Stands where a value is not known."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ListTable:
    """A table: of ``spare`` columns are left out one by one while it is too wide.

    ``elastic`` is a column that may be cut, down to ``least`` characters; a table
    without one cuts no word and becomes several lines a row instead.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    spare: Sequence[str] = ()
    elastic: str = ""
    least: int = NARROWEST
    none: str = ""


def draw(table: ListTable) -> None:
    """Print a table without its empty columns, or its rows as cards."""
    found = fit(table, table.rows, terminal_width())
    if found is None:
        _draw_cards(table)
        return
    # one column more than needed: a table as wide as its terminal is not wrapped
    total = max(terminal_width(), sum(found.values()) + GAP * len(found))
    print_lines(build(table, table.rows, found), total)


def fit(
    table: ListTable, rows: Sequence[Sequence[object]], available: int
) -> dict[int, int] | None:
    """The columns that fit for these rows, with their widths; None when none do."""
    cells = [[cell(value) for value in row] for row in rows]
    texts: dict[int, list[str]] = {}
    for left_out in range(len(table.spare) + 1):
        gone = table.spare[:left_out]
        texts = {
            n: [name, *(line[n] for line in cells)]
            for n, name in enumerate(table.columns)
            if name not in gone and any(line[n] for line in cells)
        }
        if table.elastic:
            found, is_whole = _shortened(table, texts, available, table.least)
            if is_whole:
                return found
        elif (listed := widths([*texts.values()], available)) is not None:
            return dict(zip(texts, listed, strict=True))
    if table.elastic:
        return _shortened(table, texts, available, NARROWEST)[0]
    return None


def build(
    table: ListTable, rows: Sequence[Sequence[object]], found: dict[int, int]
) -> "Table":
    """These rows as rich draws them, in columns of the widths ``found``."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for n, width in found.items():
        column = drawn.add_column
        column(table.columns[n], width=width, **_manner(table, [r[n] for r in rows]))
    for row in rows:
        drawn.add_row(
            *(
                value
                if isinstance(value := row[n], Text)
                else Text(cell(value), style=TONES.get(cell(value), ""))
                for n in found
            )
        )
    return drawn


def print_lines(drawn: "RenderableType", width: int) -> None:
    """Print what rich draws in ``width`` columns, without blanks at the ends."""
    from rich.console import Console

    console = Console(file=sys.stdout, markup=False, highlight=False, width=width)
    with console.capture() as text:
        console.print(drawn)
    for line in text.get().splitlines():
        click.echo(line.rstrip())


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


def _shortened(
    table: ListTable, texts: dict[int, list[str]], available: int, least: int
) -> tuple[dict[int, int], bool]:
    """The widths with the elastic column shortened, and whether they fit then."""
    found = {n: max(map(_wide, column)) for n, column in texts.items()}
    over = max(0, sum(found.values()) + GAP * (len(found) - 1) - available)
    elastic = table.columns.index(table.elastic)
    less = min(over, max(0, found.get(elastic, 0) - least))
    if less:
        found[elastic] -= less
    return found, less == over


def _manner(table: ListTable, column: Sequence[object]) -> dict[str, Any]:
    """How rich draws a column: numbers on the right, cut if the table cuts."""
    told = [value for value in column if cell(value) not in ("", NOTHING)]
    is_numeric = bool(told) and all(map(is_number, told))
    return {
        "justify": "right" if is_numeric else "left",
        "no_wrap": bool(table.elastic),
        "overflow": "ellipsis" if table.elastic else "fold",
    }


def _draw_cards(table: ListTable) -> None:
    cells = [[cell(value) for value in row] for row in table.rows]
    shown = [n for n in range(len(table.columns)) if any(line[n] for line in cells)]
    longest = max(len(table.columns[n]) for n in shown)
    for number, line in enumerate(cells):
        if number:
            click.echo()
        for n in shown:
            if line[n]:
                click.echo(f"{table.columns[n]:<{longest + GAP}}{line[n]}")
