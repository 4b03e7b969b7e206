"""What each side measured under each load, round by round."""

import os
from collections.abc import Iterable, Mapping, Sequence

from benchmarks.common.figures import Rounds
from benchmarks.common.sides import INFRA, Sample, Side

CPU = "cpu"
"""All processes; ``own`` is without broker and database, ``cpu/web`` one part."""

OWN = "own"


class Scores:
    """Rounds by side, load and metric, and what figures are made of."""

    def __init__(self, sides: Sequence[Side]) -> None:
        self._sides = {side.name: side for side in sides}
        self._rounds = Rounds()
        self._busy: list[float] = []

    def turn(self, number: int) -> list[Side]:
        """All sides in the order of this round: another one begins each time."""
        self._busy.append(os.getloadavg()[0])
        sides = list(self._sides.values())
        first = number % len(sides)
        return sides[first:] + sides[:first]

    def note(self, side: str, load: str, **metrics: float) -> None:
        """Keep what a side measured in this round."""
        for metric, value in metrics.items():
            self._rounds.note(f"{side}/{load}/{metric}", value)

    def note_cpu(self, side: str, load: str, cell: Sample, scale: float) -> None:
        """Keep the processor time of a cell, each second of it times ``scale``."""
        own = sum(used for part, used in cell.cpu_s.items() if part not in INFRA)
        self.note(side, load, cpu=sum(cell.cpu_s.values()) * scale, own=own * scale)
        for part, used in cell.cpu_s.items():
            self._rounds.note(f"{side}/{load}/{CPU}/{part}", used * scale)

    def median(self, side: str, load: str, metric: str) -> float:
        """The median of a side's rounds."""
        return self._rounds.median(f"{side}/{load}/{metric}")

    def ratio(self, other: str, load: str, metric: str) -> float:
        """The median of the per-round ratios of this tree to another side."""
        mine = f"genie/{load}/{metric}"
        return self._rounds.ratio(mine, f"{other}/{load}/{metric}")

    def spread(self, other: str, load: str, metric: str) -> list[float]:
        """The lowest and the highest of these ratios: how far rounds differ."""
        mine = f"genie/{load}/{metric}"
        ratios = self._rounds.ratios(mine, f"{other}/{load}/{metric}")
        return [short(min(ratios)), short(max(ratios))]

    def added(self, other: str, load: str, metric: str) -> float:
        """The median of the per-round differences of this tree to another side."""
        mine = f"genie/{load}/{metric}"
        return self._rounds.difference(mine, f"{other}/{load}/{metric}")

    def values(self, names: Iterable[str], load: str, metric: str) -> dict[str, float]:
        """The median of each of these sides, for a figure's details."""
        return {one: short(self.median(one, load, metric)) for one in names}

    def parts(self, side: str, load: str) -> dict[str, float]:
        """The processor time of a side's parts."""
        parts = self._sides[side].parts
        return {part: short(self.median(side, load, f"{CPU}/{part}")) for part in parts}

    def cpu(
        self, names: Iterable[str], loads: Sequence[str]
    ) -> dict[str, Mapping[str, object]]:
        """Processor time by side, load and part."""
        return {
            name: {load: self.parts(name, load) for load in loads} for name in names
        }

    def widened(self) -> dict[str, list[str]]:
        """What was raised by hand, by side."""
        sides = self._sides.values()
        return {side.name: list(side.widened) for side in sides if side.widened}

    def load_average(self) -> list[float]:
        """The lowest and the highest load average at the start of a round."""
        return [round(min(self._busy), 1), round(max(self._busy), 1)]

    def row(self, side: str, load: str, metrics: Sequence[str]) -> list[object]:
        """A line of the table: these metrics, then the processor time of the parts."""
        found = [self.median(side, load, metric) for metric in metrics]
        parts = ", ".join(f"{p} {used:g}" for p, used in self.parts(side, load).items())
        return [load, side, *found, parts]


def short(value: float) -> float:
    """Three digits say enough.

    >>> short(1234.5)
    1230.0
    """
    return float(f"{value:.3g}")
