"""A picture of p99 times: a panel a cell, a bar a policy, on a logarithmic scale."""

import math
from collections.abc import Mapping, Sequence
from html import escape

LEAST_S, MOST_S = 0.1, 1000.0
COLUMNS, WIDTH, ROW, HEAD = 3, 330, 18, 30
LABEL, BAR = 120, 150
OURS, OTHERS = "#0b6e4f", "#9aa5b1"


def svg(title: str, panels: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """The panels, each a name and seconds by policy, as an SVG document."""
    rows = max(len(bars) for _, bars in panels)
    height = HEAD + rows * ROW + 14
    lines = -(-len(panels) // COLUMNS)
    size = (COLUMNS * WIDTH, 30 + lines * height)
    drawn = [
        _panel(name, bars, number % COLUMNS * WIDTH, 30 + number // COLUMNS * height)
        for number, (name, bars) in enumerate(panels)
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}"'
            ' font-family="sans-serif" font-size="11">',
            f'<rect width="{size[0]}" height="{size[1]}" fill="#ffffff"/>',
            _text(10, 19, title, 'font-size="14" font-weight="bold"'),
            *drawn,
            "</svg>\n",
        ]
    )


def _panel(name: str, bars: Mapping[str, float], left: int, top: int) -> str:
    """A cell; the last bar is ours."""
    *_, last = bars
    parts = [_text(left + 10, top + 18, name, 'font-weight="bold"')]
    for number, (policy, seconds) in enumerate(bars.items()):
        y = top + HEAD + number * ROW
        length = max(1.0, BAR * share(seconds))
        colour = OURS if policy == last else OTHERS
        x = left + LABEL
        parts += [
            _text(x - 6, y + 9, policy, 'text-anchor="end"'),
            f'<rect x="{x}" y="{y}" width="{length:.1f}" height="11" fill="{colour}"/>',
            _text(x + length + 4, y + 9, f"{seconds:.3g} s"),
        ]
    return "\n".join(parts)


def share(seconds: float) -> float:
    """Where a time lies on the scale, from 0 to 1.

    >>> round(share(10.0), 3)
    0.5
    """
    whole = math.log(MOST_S / LEAST_S)
    return min(1.0, max(0.0, math.log(max(seconds, LEAST_S) / LEAST_S) / whole))


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" {more}>{escape(text)}</text>'
