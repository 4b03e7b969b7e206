"""B3: streams of a paced echo engine, beside the same tokens from one uvicorn process.

64 streams at once at 10 ms a token, 64 at random moments, 512 at once, and 1,000 at
100 ms (not with ``--quick``), in turns. The first token of 64 at once is compared with
what it costs to take so many requests in, one after the other. CPU of a token is that
of all processes; ``own`` is without broker and database. ``--against DIR`` measures
another checkout in the same turns.
"""

import asyncio
import random
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(1, str(Path(__file__).parents[1] / "tests"))

from benchmarks.common import peers, sides
from benchmarks.common.figures import Board, Options, options, show_table
from benchmarks.common.loader import Load, Loader, Target
from benchmarks.common.processes import Snapshot, pss_mb
from benchmarks.common.scores import Scores, short
from benchmarks.common.sides import INFRA, Bench, Sample, Side

CHAT_MS = 10.0
SLOW_MS = 100.0
FEW, MANY, SLOW = 64, 512, 1000
TOK_S_64, TOK_S_512, OWN_CPU, FIRST, STREAM_MB = 0.97, 0.9, 1.3, 0.8, 0.5
RANDOM_P50_MS, RANDOM_P99_MS = 4.0, 20.0
AGAINST = {
    "tok_s_64": 0.95,
    "cpu_64": 1.15,
    "first_p50_64": 1.25,
    "first_p99_64": 1.25,
}
METRICS = ("tok_s", "first_p50", "first_p99", "cpu", "own")


@dataclass(frozen=True, slots=True)
class Length:
    """How long a run is: rounds, tokens of a stream, streams a client reads in a row.

    ``many`` are the rounds of 512 streams, ``slow`` the tokens of 1,000 slow ones: with
    0 they are left out.
    """

    rounds: int
    tokens: int
    each: int
    many: int
    slow: int

    @property
    def loads(self) -> tuple[str, ...]:
        """What is measured."""
        return ("64", "random", "512", *(["1000"] if self.slow else []))


def main() -> int:
    """Measure, print, and say whether it could measure."""
    asked = options(__doc__)
    length = Length(4, 128, 1, 1, 0) if asked.quick else Length(8, 128, 2, 3, 250)
    length = replace(length, rounds=asked.rounds or length.rounds)
    paces = {"chat": CHAT_MS} | ({"slow": SLOW_MS} if length.slow else {})
    with sides.servers() as servers:
        found: list[Callable[[], AbstractContextManager[Side]]] = [
            servers.fleet(tree, name, paces)
            for name, tree in sides.trees(asked.against).items()
        ]
        if asked.with_peers:
            found.append(partial(peers.uvicorn, paces))
        with sides.running(found) as entered:
            run = Comparison(
                entered, length, Bench(is_prioritized=asked.is_prioritized)
            )
            try:
                run.measure()
            finally:
                run.close()
            return run.report(asked)


class Comparison:
    """All sides in turns."""

    def __init__(self, found: Sequence[Side], length: Length, bench: Bench) -> None:
        self._sides, self._length = list(found), length
        self._bench, self._scores = bench, Scores(found)
        self._widened: dict[str, dict[str, list[str]]] = {}
        """What was raised by hand for each load."""

    def measure(self) -> None:
        """The rounds of each load, the small ones first."""
        length = self._length
        self._ready(FEW)
        for number in range(length.rounds):
            for side in self._scores.turn(number):
                self._few(side, number)
        self._widened["64"] = self._widened["random"] = self._scores.widened()
        self._ready(MANY)
        for number in range(length.many):
            for side in self._scores.turn(number):
                self._note(side, "512", self._streams(side, MANY, length.tokens))
        self._widened["512"] = self._scores.widened()
        for side in self._sides if length.slow else ():
            self._slow(side)
        self._widened["1000"] = self._scores.widened()

    def close(self) -> None:
        """Close every connection."""
        self._bench.close()

    def report(self, asked: Options) -> int:
        """Tables and JSON lines."""
        self._show()
        board = Board("stream")
        if asked.with_peers:
            self._against_uvicorn(board)
        if asked.against:
            self._against_old(board)
        if not board.figures:
            self._alone(board)
        if self._length.slow:
            self._memory(board)
        return board.report()

    def _ready(self, count: int) -> None:
        """Fill caches; what web refuses shows before it counts."""
        for side in self._sides:
            self._streams(side, count, 30)

    def _few(self, side: Side, number: int) -> None:
        """64 at once, 64 at random, and what a whole request costs web."""
        tokens, each = self._length.tokens, self._length.each
        self._note(side, "64", self._streams(side, FEW, tokens, each=each))
        moments = _moments(tokens * CHAT_MS / 1000, number)
        target = side.streaming("chat", tokens)
        cell = self._load(side, target, lambda loader: loader.at(moments), FEW)
        self._note(side, "random", _whole(side, cell, FEW * tokens))
        if side.fleet is not None:
            whole = self._load(
                side, side.whole, lambda one: one.steady(clients=FEW, seconds=1.0), FEW
            )
            each_s = whole.cpu_s["web"] / len(whole.load.answers)
            self._scores.note(side.name, "64", web_ms=each_s * 1000)

    def _slow(self, side: Side) -> None:
        """1,000 slow streams, and the memory that they take."""
        if side.fleet is not None:
            side.fleet.restart_web(SLOW)
            self._load(side, side.whole, lambda loader: loader.burst(8), 8)
        grown: list[float] = []

        async def watched(loader: Loader) -> Load:
            grown.clear()  # a fleet that refused was widened and begins anew
            watch = asyncio.create_task(self._watch(side, self._own_mb(side), grown))
            try:
                return await loader.burst(SLOW)
            finally:
                watch.cancel()
                with suppress(asyncio.CancelledError):
                    await watch

        tokens = self._length.slow
        cell = self._load(side, side.streaming("slow", tokens), watched, SLOW)
        self._note(side, "1000", _whole(side, cell, SLOW * tokens))
        at_once = cell.load.most_open()
        stream_mb = max(grown, default=0.0) / max(1, at_once)
        self._scores.note(side.name, "1000", stream_mb=stream_mb, at_once=at_once)

    async def _watch(self, side: Side, before: float, grown: list[float]) -> None:
        while True:
            await asyncio.sleep(2.0)
            now = await asyncio.to_thread(self._own_mb, side)
            grown.append(now - before)

    def _own_mb(self, side: Side) -> float:
        now = Snapshot.take()
        return sum(pss_mb(part.pids(now)) for part in side.own().values())

    def _streams(self, side: Side, count: int, tokens: int, *, each: int = 1) -> Sample:
        """``count`` clients at once, who read ``each`` streams in a row."""

        def work(loader: Loader) -> Awaitable[Load]:
            return loader.burst(count, each=each)

        cell = self._load(side, side.streaming("chat", tokens), work, count)
        return _whole(side, cell, count * each * tokens)

    def _load(
        self,
        side: Side,
        target: Target,
        work: Callable[[Loader], Awaitable[Load]],
        at_once: int,
    ) -> Sample:
        return self._bench.load(side, target, work, at_once=at_once)

    def _note(self, side: Side, load: str, cell: Sample) -> None:
        tokens = cell.load.tokens()
        width = {"64": FEW, "random": FEW, "512": MANY, "1000": SLOW}[load]
        p50, p99 = cell.load.first_ms(width)
        self._scores.note(
            side.name,
            load,
            tok_s=tokens / cell.load.seconds,
            first_p50=p50,
            first_p99=p99,
        )
        self._scores.note_cpu(side.name, load, cell, 1e6 / tokens)

    def _details(self, load: str) -> dict[str, object]:
        length = self._length
        rounds = {"512": length.many, "1000": 1}.get(load, length.rounds)
        return {
            "rounds": rounds,
            "tokens": length.slow if load == "1000" else length.tokens,
            "widened": self._widened[load],
            "is_prioritized": self._bench.is_prioritized,
            "load_average": self._scores.load_average(),
        }

    def _against_uvicorn(self, board: Board) -> None:
        scores, both = self._scores, ("genie", "uvicorn")
        for load, goal in (("64", TOK_S_64), ("512", TOK_S_512)):
            board.higher(
                f"tok_s_{load}",
                scores.ratio("uvicorn", load, "tok_s"),
                goal,
                spread=scores.spread("uvicorn", load, "tok_s"),
                tok_s=scores.values(both, load, "tok_s"),
                first_p50_ms=scores.values(both, load, "first_p50"),
                **self._details(load),
            )
        board.lower(
            "own_cpu_64",
            scores.ratio("uvicorn", "64", "own"),
            OWN_CPU,
            spread=scores.spread("uvicorn", "64", "own"),
            cpu_us=scores.cpu(both, ["64", "512"]),
            **self._details("64"),
        )
        self._first(board)
        for metric, goal in (("p50", RANDOM_P50_MS), ("p99", RANDOM_P99_MS)):
            board.lower(
                f"random_added_{metric}_ms",
                scores.added("uvicorn", "random", f"first_{metric}"),
                goal,
                first_ms=scores.values(both, "random", f"first_{metric}"),
                **self._details("random"),
            )

    def _first(self, board: Board) -> None:
        """The first token of 64 at once, in what taking half of them in costs web."""
        scores = self._scores
        added = scores.added("uvicorn", "64", "first_p50")
        web_ms = scores.median("genie", "64", "web_ms")
        board.lower(
            "first_64_vs_work",
            added / (FEW / 2 * web_ms),
            FIRST,
            added_ms=short(added),
            web_ms_a_request=short(web_ms),
            **self._details("64"),
        )

    def _against_old(self, board: Board) -> None:
        scores, both = self._scores, ("genie", "old")
        for load in self._length.loads:
            for metric in METRICS:
                name = f"{metric}_{load}"
                more: dict[str, object] = {
                    "spread": scores.spread("old", load, metric),
                    "values": scores.values(both, load, metric),
                }
                if metric == "cpu":
                    more["cpu_us"] = scores.cpu(both, [load])
                tell = board.higher if metric == "tok_s" else board.lower
                value = scores.ratio("old", load, metric)
                goal = AGAINST.get(name)
                tell(f"vs_old_{name}", value, goal, **more, **self._details(load))

    def _alone(self, board: Board) -> None:
        """Without anybody beside it: what a token costs."""
        for load in ("64", "512"):
            value = self._scores.median("genie", load, "cpu")
            parts = self._scores.cpu(["genie"], [load])
            details = self._details(load)
            board.lower(f"cpu_us_{load}", value, None, cpu_us=parts, **details)

    def _memory(self, board: Board) -> None:
        names = [side.name for side in self._sides]
        board.lower(
            "stream_mb_1000",
            self._scores.median("genie", "1000", "stream_mb"),
            STREAM_MB,
            stream_mb=self._scores.values(names, "1000", "stream_mb"),
            at_once=self._scores.values(names, "1000", "at_once"),
            **self._details("1000"),
        )

    def _show(self) -> None:
        rows = [
            self._scores.row(side.name, load, METRICS)
            for load in self._length.loads
            for side in self._sides
        ]
        titles = ("load", "side", "tokens/s", "first p50", "first p99", "CPU µs", "own")
        show_table((*titles, f"of it ({', '.join(INFRA)} are not own)"), rows)


def _whole(side: Side, cell: Sample, wanted: int) -> Sample:
    """The cell, if every token of its streams came."""
    found = cell.load.tokens()
    if found != wanted:
        raise RuntimeError(f"{side.name}: {found} tokens came of {wanted}")
    return cell


def _moments(spread_s: float, seed: int) -> list[float]:
    """A moment at random for each of 64 streams."""
    chance = random.Random(seed)
    return sorted(chance.uniform(0, spread_s) for _ in range(FEW))


if __name__ == "__main__":
    raise SystemExit(main())
