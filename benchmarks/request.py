"""B1: whole requests over HTTP in the production shape, beside what people would write.

A chat through web, broker, brain and worker with the echo engine: the key is checked,
the row committed, the message durable, the outcome recorded. Beside it a Flask view
that waits for a Celery task, and LiteLLM's proxy with a mock answer. One client, half
load at random moments, and 64 clients, in turns. CPU of a request is that of all
processes with broker and database. ``--against DIR`` measures another checkout in the
same turns.
"""

import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(1, str(Path(__file__).parents[1] / "tests"))

from benchmarks.common import floor, peers, sides
from benchmarks.common.figures import Board, Options, options, show_table
from benchmarks.common.loader import Load, Loader
from benchmarks.common.scores import Scores, short
from benchmarks.common.sides import Bench, Sample, Servers, Side

CLIENTS = 64
GOALS = {
    "flask_celery": {"cpu": 0.6, "per_s": 2.0, "p50": 0.9},
    "litellm": {"cpu": 0.2, "per_s": 12.0},
}
AGAINST = {
    "per_s_64": 0.95,
    "cpu_1": 1.05,
    "cpu_half": 1.05,
    "cpu_64": 1.05,
    "p99_64": 1.25,
}
FAILING = 0.01
"""The share of answers that may fail: one 503 of a busy machine is no end of a run."""

PACES = {"chat": 0.0}
LOADS = ("64", "half", "1")


@dataclass(frozen=True, slots=True)
class Length:
    """How long a run is."""

    rounds: int
    seconds: float
    floor_calls: int
    idle_s: float


def main() -> int:
    """Measure, print, and say whether it could measure."""
    asked = options(__doc__)
    length = Length(4, 1.0, 200, 3.0) if asked.quick else Length(8, 4.5, 1000, 20.0)
    length = replace(length, rounds=asked.rounds or length.rounds)
    with sides.servers() as servers, sides.running(enters(asked, servers)) as found:
        run = Comparison(found, length, Bench(is_prioritized=asked.is_prioritized))
        least = floor.measure(servers, length.floor_calls)
        try:
            run.measure()
        finally:
            run.close()
        return run.report(asked, least)


def enters(asked: Options, servers: Servers) -> list[sides.Enter]:
    """Who is measured."""
    found: list[Callable[[], AbstractContextManager[Side]]] = [
        servers.fleet(tree, name, PACES)
        for name, tree in sides.trees(asked.against).items()
    ]
    if asked.with_peers:
        broker = partial(peers.flask_celery, servers.rabbit.url, servers.infra)
        found += [broker, peers.litellm]
    return found


class Comparison:
    """All sides in turns."""

    def __init__(self, found: Sequence[Side], length: Length, bench: Bench) -> None:
        self._sides, self._length = list(found), length
        self._bench, self._scores = bench, Scores(found)
        self._idle: dict[str, object] = {}

    def measure(self) -> None:
        """Warm up, then the rounds."""
        for side in self._sides:
            self._load(side, lambda one: one.steady(clients=CLIENTS, seconds=1.5))
        self._idle = self._bench.idle(self._sides, self._length.idle_s)
        for number in range(self._length.rounds):
            sides_now = self._scores.turn(number)
            for load in LOADS:
                for side in sides_now:
                    self._note(side, load, self._cell(side, load, number))

    def close(self) -> None:
        """Close every connection."""
        self._bench.close()

    def report(self, asked: Options, least: floor.Floor) -> int:
        """Tables and JSON lines."""
        self._show(least)
        board = Board("request")
        details: dict[str, object] = {
            "rounds": self._length.rounds,
            "seconds": self._length.seconds,
            "widened": self._scores.widened(),
            "floor": least.details(),
            "is_prioritized": self._bench.is_prioritized,
            "load_average": self._scores.load_average(),
        }
        if asked.with_peers:
            for peer, goals in GOALS.items():
                self._against_peer(board, peer, goals, details)
        if asked.against:
            self._against_old(board, details)
        if not board.figures:
            self._alone(board, details)
        return board.report()

    def _cell(self, side: Side, load: str, number: int) -> Sample:
        seconds = self._length.seconds

        def work(loader: Loader) -> Awaitable[Load]:
            if load == "half":
                per_s = self._half(side)
                return loader.arriving(per_s=per_s, seconds=seconds, seed=number)
            return loader.steady(clients=int(load), seconds=seconds)

        return self._load(side, work)

    def _load(self, side: Side, work: Callable[[Loader], Awaitable[Load]]) -> Sample:
        return self._bench.load(
            side, side.whole, work, at_once=CLIENTS, failing=FAILING
        )

    def _half(self, side: Side) -> float:
        """Half of what a side carries; two fleets get the same, by the slower one."""
        alike = [one for one in self._sides if one.fleet] if side.fleet else [side]
        return min(self._scores.median(one.name, "64", "per_s") for one in alike) / 2

    def _note(self, side: Side, load: str, cell: Sample) -> None:
        p50, p99 = cell.load.ms()
        self._scores.note(side.name, load, per_s=cell.load.per_s, p50=p50, p99=p99)
        ms_each = 1000 / len(cell.load.answers)
        self._scores.note_cpu(side.name, load, cell, ms_each)

    def _against_peer(
        self,
        board: Board,
        peer: str,
        goals: dict[str, float],
        details: dict[str, object],
    ) -> None:
        scores, both = self._scores, ("genie", peer)
        board.lower(
            f"cpu_vs_{peer}",
            scores.ratio(peer, "64", "cpu"),
            goals["cpu"],
            by_load={load: short(scores.ratio(peer, load, "cpu")) for load in LOADS},
            spread=scores.spread(peer, "64", "cpu"),
            cpu_ms=scores.cpu(both, LOADS),
            idle_percent=self._idle_of(both),
            **details,
        )
        board.higher(
            f"per_s_vs_{peer}",
            scores.ratio(peer, "64", "per_s"),
            goals["per_s"],
            spread=scores.spread(peer, "64", "per_s"),
            per_s=scores.values(both, "64", "per_s"),
            **details,
        )
        board.lower(
            f"p50_vs_{peer}",
            scores.ratio(peer, "1", "p50"),
            goals.get("p50"),
            spread=scores.spread(peer, "1", "p50"),
            p99_ratio=short(scores.ratio(peer, "1", "p99")),
            p50_ms=scores.values(both, "1", "p50"),
            p99_ms=scores.values(both, "1", "p99"),
            **details,
        )

    def _against_old(self, board: Board, details: dict[str, object]) -> None:
        scores, both = self._scores, ("genie", "old")
        for load in reversed(LOADS):
            for metric in ("per_s", "cpu", "p50", "p99"):
                if metric == "per_s" and load == "half":
                    continue  # both were given the same
                name = f"{metric}_{load}"
                more: dict[str, object] = {
                    "spread": scores.spread("old", load, metric),
                    "values": scores.values(both, load, metric),
                }
                if metric == "cpu":
                    more["cpu_ms"] = scores.cpu(both, [load])
                    more["idle_percent"] = self._idle_of(both)
                tell = board.higher if metric == "per_s" else board.lower
                value = scores.ratio("old", load, metric)
                tell(f"vs_old_{name}", value, AGAINST.get(name), **more, **details)

    def _alone(self, board: Board, details: dict[str, object]) -> None:
        """Without anybody beside it: what a request costs."""
        for load in LOADS:
            value = self._scores.median("genie", load, "cpu")
            parts = self._scores.cpu(["genie"], [load])
            board.lower(f"cpu_ms_{load}", value, None, cpu_ms=parts, **details)

    def _idle_of(self, names: Iterable[str]) -> dict[str, object]:
        return {name: self._idle[name] for name in names}

    def _show(self, least: floor.Floor) -> None:
        rows = [
            self._scores.row(side.name, load, ("per_s", "p50", "p99", "cpu"))
            for load in LOADS
            for side in self._sides
        ]
        titles = ("load", "side", "per s", "p50 ms", "p99 ms", "CPU ms", "of it")
        show_table(titles, rows)
        show_table(("floor", "value"), list(least.details().items()))


if __name__ == "__main__":
    raise SystemExit(main())
