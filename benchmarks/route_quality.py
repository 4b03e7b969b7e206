"""B6: who should take a request: workers that ask for it, or a router that guesses.

The product's own credit policy under a simulator's clock, on recorded traffic, against
routers that know less, as much, and more than anyone can. Four A40, four A100 and four
H100 workers of eight slots; load is a share of what they were measured to end.
``--quick`` plays fewer requests once at one load; else each cell is played three times.
"""

import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.common.figures import Board, is_quick
from benchmarks.simulator import arrivals, plot, runs, step_times
from benchmarks.simulator.arrivals import Arrival
from benchmarks.simulator.policies import BASELINES, Credits
from benchmarks.simulator.runs import Result
from benchmarks.simulator.step_times import StepTimes
from benchmarks.simulator.worker import Room
from cloud_app.brain.capacity import CONTEXT, SLOTS
from workers.engine.torch import CUDA_BUDGET

VS_STALE, VS_BEST, VS_BEST_WORST = 1 / 20, 1.0, 1.3
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "route_quality.svg"
LOADS = (0.5, 0.7, 0.85)
EACH_GPU = 4
ROOM = Room(slots=SLOTS["cuda"], budget=CUDA_BUDGET)
OURS, STALE, RIVALS = "credits", "stale least-loaded", ("counter", "clairvoyant")
POLICIES = {**BASELINES, OURS: Credits}


@dataclass(slots=True, kw_only=True)
class Cell:
    """One trace at one load: every policy's result in every round."""

    trace: str
    load: float
    rounds: list[dict[str, Result]] = field(default_factory=list)

    def vs(self, rivals: Sequence[str]) -> float:
        """Our p99 of the first token to the best rival's, the median of rounds."""
        return statistics.median(
            one[OURS].ttft_p99_s / min(one[rival].ttft_p99_s for rival in rivals)
            for one in self.rounds
        )

    def p99s(self) -> dict[str, float]:
        """Every policy's p99 of the first token in seconds, the median of rounds."""
        return {
            name: statistics.median(one[name].ttft_p99_s for one in self.rounds)
            for name in POLICIES
        }

    def show(self) -> None:
        """A row a policy on stderr, medians of the rounds in seconds."""
        for name in POLICIES:
            every = [one[name] for one in self.rounds]
            p50 = statistics.median(one.ttft_p50_s for one in every)
            p99 = statistics.median(one.ttft_p99_s for one in every)
            e2e = statistics.median(one.e2e_p99_s for one in every)
            say(
                f"{self.trace:<14}{self.load:<6}{name:<20}{p50:>9.3f}{p99:>9.3f}{e2e:>9.2f}"
            )


def main() -> int:
    """Measure, print, and say whether it could measure."""
    quick = is_quick(__doc__)
    loads, count, rounds = ((0.7,), 4000, 1) if quick else (LOADS, 6000, 3)
    traces = arrivals.folder()
    gpus = step_times.load(traces)
    say(
        f"{'trace':<14}{'load':<6}{'policy':<20}{'TTFT p50':>9}{'p99':>9}{'e2e p99':>9}"
    )
    cells = [
        cell
        for trace in arrivals.TRACES
        for cell in play(trace, loads, recorded(trace, traces), gpus, count, rounds)
    ]
    if not quick:
        draw(cells)
    return report(cells, "recorded" if traces else "drawn")


def recorded(trace: str, traces: Path | None) -> list[Arrival]:
    """All of a trace that the fleet's context admits."""
    found = arrivals.load(trace, traces, count=20_000, seed=1)
    return arrivals.fitting(found, CONTEXT["cuda"])


def play(
    trace: str,
    loads: Sequence[float],
    asked: list[Arrival],
    gpus: dict[str, StepTimes],
    count: int,
    rounds: int,
) -> list[Cell]:
    """Each load and every policy on one trace."""
    fleet = [gpu for gpu in gpus.values() for _ in range(EACH_GPU)]
    most = sum(EACH_GPU * runs.capacity(gpu, ROOM, asked) for gpu in gpus.values())
    cells = [Cell(trace=trace, load=load) for load in loads]
    for cell in cells:
        for seed in range(rounds):
            heard = arrivals.layered(asked, cell.load * most, count, seed)
            cell.rounds.append(
                {
                    name: runs.run(fleet, ROOM, heard, make, seed)
                    for name, make in POLICIES.items()
                }
            )
        cell.show()
    return cells


def draw(cells: Sequence[Cell]) -> None:
    """Write the picture of all cells."""
    title = "p99 time to first token, in simulated seconds (log scale)"
    panels = [(f"{cell.trace} at load {cell.load}", cell.p99s()) for cell in cells]
    PICTURE.write_text(plot.svg(title, panels), encoding="utf-8")


def report(cells: Sequence[Cell], source: str) -> int:
    """The figures: each cell against guessing, all cells against the best rivals."""
    board = Board("route_quality")
    for cell in cells:
        where = {"trace": cell.trace, "load": cell.load, "traces": source}
        board.lower("ttft_p99_vs_stale", cell.vs([STALE]), VS_STALE, **where)
    for cell in cells:
        where = {"trace": cell.trace, "load": cell.load, "traces": source}
        board.lower("ttft_p99_vs_best", cell.vs(RIVALS), VS_BEST_WORST, **where)
    ratios = [cell.vs(RIVALS) for cell in cells]
    board.lower("ttft_p99_vs_best_mean", geometric(ratios), VS_BEST, cells=len(cells))
    board.lower("ttft_p99_vs_best_worst", max(ratios), VS_BEST_WORST, cells=len(cells))
    return board.report()


def geometric(ratios: Sequence[float]) -> float:
    """The geometric mean.

    >>> geometric([0.5, 2.0])
    1.0
    """
    return math.exp(statistics.fmean(math.log(one) for one in ratios))


def say(line: str) -> None:
    """A line of the table."""
    print(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
