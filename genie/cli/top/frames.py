"""Lays out a frame of ``genie top`` for a size of terminal."""

from collections.abc import Sequence
from typing import Literal

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from genie.api_types import FleetAnswer
from genie.cli.tables import GAP, TONES
from genie.cli.top import tables
from genie.cli.top.tables import NOTHING, TablePart
from genie.cli.values import cell, is_number, took

WIDE = 150
"""From this width on, queues and routes stand beside the rest."""

SIDE, MAIN, BETWEEN = 62, 103, 3
"""The least width of the right side, the most of the left, and the gap."""

NARROWEST = 6
HEAD_ROWS = 2
FEWEST_ROWS = 2
"""Rows that every part keeps while another has more."""

ALL = (tables.workers, tables.models, tables.queues, tables.jobs, tables.routes)
LEFT = (tables.workers, tables.models, tables.jobs)
RIGHT = (tables.queues, tables.routes)


def frame(
    fleet: FleetAnswer,
    *,
    url: str,
    width: int,
    height: int | None = None,
    hint: str = "",
    trouble: str = "",
) -> RenderableType:
    """The fleet in ``width`` columns; all of it without a ``height``.

    ``trouble`` replaces the figures, which are old then.
    """
    worry = Text(trouble, style="red", no_wrap=True, overflow="ellipsis")
    head = (_title(fleet, url, width, hint), worry if trouble else _figures(fleet))
    room = None if height is None else height - HEAD_ROWS
    if width >= WIDE:
        return Group(*head, _beside(fleet, width, room))
    listed = [part(fleet) for part in ALL]
    return Group(*head, _stacked(listed, width, room, _is_airy(listed, room)))


def shares(heights: Sequence[int], room: int) -> list[int]:
    """How many of ``room`` rows each part gets, given what each wants.

    The rest is shared in turn, so that a long part starves no other.

    >>> shares([3, 10, 2], 9)
    [3, 4, 2]
    >>> shares([3, 1], 9)
    [3, 1]
    """
    given = [min(FEWEST_ROWS, height) for height in heights]
    while sum(given) < min(room, sum(heights)):
        least = min(
            (n for n in range(len(given)) if given[n] < heights[n]),
            key=lambda n: given[n],
        )
        given[least] += 1
    return given


def _is_airy(listed: Sequence[TablePart], room: int | None) -> bool:
    """True when there is room for a blank line before each part."""
    return room is None or room >= sum(part.height + 1 for part in listed)


def _stacked(
    listed: Sequence[TablePart], width: int, room: int | None, spaced: bool
) -> RenderableType:
    heights = [part.height for part in listed]
    left = sum(heights) if room is None else room - spaced * len(listed)
    given = shares(heights, max(left, FEWEST_ROWS * len(listed)))
    lines: list[RenderableType] = []
    for part, rows in zip(listed, given, strict=True):
        if spaced:
            lines.append("")
        lines.append(_drawn(part, width, rows - 1))
    return Group(*lines)


def _beside(fleet: FleetAnswer, width: int, room: int | None) -> RenderableType:
    left = [part(fleet) for part in LEFT]
    right = [part(fleet) for part in RIGHT]
    spaced = _is_airy(left, room) and _is_airy(right, room)
    side = max(SIDE, width - MAIN)
    main = width - side - BETWEEN
    grid = Table.grid(padding=(0, BETWEEN, 0, 0))
    grid.add_column(width=main)
    grid.add_column(width=side)
    grid.add_row(
        _stacked(left, main, room, spaced), _stacked(right, side, room, spaced)
    )
    return grid


def _drawn(part: TablePart, width: int, rows: int) -> RenderableType:
    if not part.rows:
        heading = Text("  ".join(part.columns), style="bold", no_wrap=True)
        return Group(heading, Text(part.none, style="dim", overflow="ellipsis"))
    shown = part.rows if len(part.rows) <= rows else part.rows[: max(0, rows - 1)]
    kept = _kept(part, shown, width)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, room in kept.items():
        _add_column(table, part.columns[index], room, [row[index] for row in shown])
    for row in shown:
        table.add_row(*(_shown(row[index]) for index in kept))
    if len(shown) == len(part.rows):
        return table
    more = f"… {len(part.rows) - len(shown)} more"
    return Group(table, Text(more, style="dim"))


def _add_column(table: Table, name: str, width: int, column: Sequence[object]) -> None:
    values = [value for value in column if cell(_bare(value)) not in ("", NOTHING)]
    numeric = bool(values) and all(map(is_number, values))
    justify: Literal["left", "right"] = "right" if numeric else "left"
    table.add_column(
        name, justify=justify, width=width, no_wrap=True, overflow="ellipsis"
    )


def _kept(
    part: TablePart, rows: Sequence[Sequence[object]], width: int
) -> dict[int, int]:
    """The columns that fit, with their widths; all but the elastic one stay whole."""
    found: dict[int, int] = {}
    for left_out in range(len(part.spare) + 1):
        gone = part.spare[:left_out]
        names = enumerate(part.columns)
        told = [n for n, name in names if name not in gone and _is_told(rows, n)]
        found = {n: _width(part, n, rows) for n in told}
        if not _shorten(found, part, width, part.least):
            return found
    _shorten(found, part, width, NARROWEST)
    return found


def _shorten(found: dict[int, int], part: TablePart, width: int, least: int) -> int:
    """Shorten the elastic column so that all fit; returns the excess left."""
    over = max(0, sum(found.values()) + GAP * (len(found) - 1) - width)
    elastic = part.columns.index(part.elastic)
    less = min(over, max(0, found.get(elastic, 0) - least))
    if less:
        found[elastic] -= less
    return over - less


def _is_told(rows: Sequence[Sequence[object]], index: int) -> bool:
    return any(cell(_bare(row[index])) for row in rows)


def _width(part: TablePart, index: int, rows: Sequence[Sequence[object]]) -> int:
    texts = [part.columns[index], *(cell(_bare(row[index])) for row in rows)]
    return max(map(cell_len, texts))


def _bare(value: object) -> object:
    return value.plain if isinstance(value, Text) else value


def _shown(value: object) -> Text:
    if isinstance(value, Text):
        return value
    text = cell(value)
    return Text(text, style=TONES.get(text, ""))


def _title(fleet: FleetAnswer, url: str, width: int, hint: str) -> Text:
    gpus = sum(len(worker.gpus) for worker in fleet.workers)
    counts = f"{_count(len(fleet.workers), 'worker')} · {_count(gpus, 'GPU')}"
    title = Text(no_wrap=True, overflow="ellipsis")
    title.append("Genie Fleet", style="bold")
    title.append(f" · {fleet.org} · {url} · {counts}")
    room = width - cell_len(hint) - (GAP if hint else 0)
    title.truncate(room, overflow="ellipsis", pad=bool(hint))
    if hint:
        title.append(f"{'':{GAP}}{hint}", style="dim")
    return title


def _figures(fleet: FleetAnswer) -> Text:
    found = fleet.figures
    p95 = took(found.first_token_p95_s)
    pairs = (
        (f"{found.tokens_per_s:.0f}", "tokens/s", ""),
        (str(found.running), "running", "cyan" if found.running else ""),
        (str(found.waiting), "waiting", "yellow" if found.waiting else ""),
        (p95.person if p95 else NOTHING, "to first token", ""),
        (str(found.failed_1h), "failed in 1 h", "red" if found.failed_1h else ""),
    )
    line = Text(no_wrap=True, overflow="ellipsis")
    for number, (value, name, tone) in enumerate(pairs):
        line.append("   " if number else "")
        line.append(value, style=f"bold {tone}".strip())
        line.append(f" {name}")
    return line


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
