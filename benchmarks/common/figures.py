"""Rounds of A and B in turns, and the figures that come of them."""

import argparse
import json
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


def is_quick(about: str | None) -> bool:
    """Read the command line; true when ``--quick`` asks for less than 60 seconds."""
    return bool(_parser(about).parse_args().quick)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line of a comparison asks for."""

    quick: bool
    against: Path | None
    with_peers: bool
    rounds: int | None
    is_prioritized: bool


def options(about: str | None) -> Options:
    """Read the command line of a benchmark that can measure two checkouts."""
    parser = _parser(about)
    parser.add_argument(
        "--against",
        metavar="DIR",
        type=_checkout,
        help="another checkout with its own .venv, measured in turns with this one",
    )
    parser.add_argument("--without-peers", action="store_true", help="fleets alone")
    parser.add_argument("--rounds", metavar="N", type=int, help="so many rounds")
    parser.add_argument(
        "--prioritize",
        action="store_true",
        help="ahead of all other work on this machine; needs root",
    )
    said = parser.parse_args()
    return Options(
        quick=said.quick,
        against=said.against,
        with_peers=not said.without_peers,
        rounds=said.rounds,
        is_prioritized=said.prioritize,
    )


def _parser(about: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="fewer, shorter rounds")
    return parser


def _checkout(value: str) -> Path:
    found = Path(value).resolve()
    for needed in ("Procfile", ".venv/bin/python"):
        if not (found / needed).exists():
            raise argparse.ArgumentTypeError(f"{found} has no {needed}")
    return found


class Rounds:
    """What each side measured, round by round."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = defaultdict(list)

    def note(self, side: str, value: float) -> None:
        """Keep what ``side`` measured in the current round."""
        self._values[side].append(value)

    def median(self, side: str) -> float:
        """The median of a side's rounds."""
        return statistics.median(self._values[side])

    def ratio(self, a: str, b: str) -> float:
        """The median of the per-round ratios of ``a`` to ``b``."""
        return statistics.median(self.ratios(a, b))

    def ratios(self, a: str, b: str) -> list[float]:
        """The ratio of ``a`` to ``b`` in each round."""
        pairs = zip(self._values[a], self._values[b], strict=True)
        return [one / other for one, other in pairs]

    def difference(self, a: str, b: str) -> float:
        """The median of the per-round differences of ``a`` to ``b``."""
        pairs = zip(self._values[a], self._values[b], strict=True)
        return statistics.median(one - other for one, other in pairs)

    def medians(self, digits: int = 3) -> dict[str, float]:
        """Every side's median, for a figure's details."""
        return {side: round(self.median(side), digits) for side in self._values}

    def count(self) -> int:
        """How many rounds there were."""
        return max((len(values) for values in self._values.values()), default=0)

    def show(self, unit: str) -> None:
        """All rounds as a table on stderr."""
        sides = list(self._values)
        _print("".join(f"{side:>18}" for side in sides) + f"   {unit}")
        for row in zip(*self._values.values(), strict=True):
            _print("".join(f"{value:>18.3f}" for value in row))


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured number; ``goal`` is None when there is none."""

    metric: str
    value: float
    goal: float | None
    better: str
    details: dict[str, object]

    @property
    def is_met(self) -> bool | None:
        """Whether the goal was met; None without one."""
        if self.goal is None:
            return None
        if self.better == "higher":
            return self.value >= self.goal
        return self.value <= self.goal


@dataclass(slots=True)
class Board:
    """The figures of one benchmark, printed at its end."""

    bench: str
    figures: list[Figure] = field(default_factory=list)

    def lower(
        self, metric: str, value: float, goal: float | None, **details: object
    ) -> None:
        """A figure that should be small."""
        self._add(metric, value, goal, "lower", details)

    def higher(
        self, metric: str, value: float, goal: float | None, **details: object
    ) -> None:
        """A figure that should be large."""
        self._add(metric, value, goal, "higher", details)

    def report(self) -> int:
        """A table on stderr, a JSON line for each figure on stdout; exit status 0."""
        for figure in self.figures:
            _print(_row(figure))
            print(json.dumps(self._line(figure)), flush=True)
        return 0

    def _add(
        self,
        metric: str,
        value: float,
        goal: float | None,
        better: str,
        details: dict[str, object],
    ) -> None:
        self.figures.append(
            Figure(
                metric=metric, value=value, goal=goal, better=better, details=details
            )
        )

    def _line(self, figure: Figure) -> dict[str, object]:
        return {
            "bench": self.bench,
            "metric": figure.metric,
            "value": float(f"{figure.value:.3g}"),
            "goal": figure.goal,
            "better": figure.better,
            **figure.details,
        }


def show_table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Rows under their titles on stderr; the last column takes what it needs."""
    for row in (titles, *rows):
        *cells, last = map(_cell, row)
        _print("".join(f"{cell:>14}" for cell in cells) + f"   {last}")
    _print("")


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def p50(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


def p99(values: Sequence[float]) -> float:
    """The value that one in a hundred exceeds; of fewer, the largest."""
    return sorted(values)[max(0, math.ceil(0.99 * len(values)) - 1)]


def _row(figure: Figure) -> str:
    goal = "" if figure.goal is None else f"goal {_sign(figure)} {figure.goal:g}"
    verdict = {None: "", True: "met", False: "NOT MET"}[figure.is_met]
    return f"{figure.metric:<28}{figure.value:>10.3g}   {goal:<16}{verdict}"


def _sign(figure: Figure) -> str:
    return "≥" if figure.better == "higher" else "≤"


def _print(line: str) -> None:
    print(line, file=sys.stderr)
