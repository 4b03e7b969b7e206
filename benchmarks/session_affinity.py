"""Should a conversation's next turn go back to the worker that served the last one?

Mooncake's recorded conversations (or drawn ones) on the fleet of route_quality, under
the product's credits: without a hint, with a load-blind hash, and with a hint that
waits in the worker's own queue for a share of the reading it would save. Played with
what an engine holds today (its slots) and with what one could hold with a store of keys
and values beside it. ``--quick`` plays fewer requests once at one load.
"""

import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.common.figures import Board, is_quick
from benchmarks.simulator import arrivals, runs, sessions, step_times
from benchmarks.simulator.arrivals import Arrival
from benchmarks.simulator.policies import Credits, Make
from benchmarks.simulator.runs import Result
from benchmarks.simulator.sessions import Hashed, Hinted, Remembering
from benchmarks.simulator.step_times import StepTimes
from benchmarks.simulator.worker import Room
from cloud_app.brain.capacity import CONTEXT, SLOTS
from workers.engine.torch import CUDA_BUDGET

LOADS = (0.5, 0.7, 0.85)
EACH_GPU = 4
ROOM = Room(slots=SLOTS["cuda"], budget=CUDA_BUDGET)
HELD = (ROOM.slots, 512)
"""Prompts an engine remembers: its slots; 0.9 TB of keys and values at 7B."""

READ_S = 64e-6
"""For a token, as an A100 reads: the middle one of the fleet."""

PLAIN, HASH = "no hint", "hash"
POLICIES: dict[str, Make] = {
    PLAIN: Credits,
    HASH: Hashed,
    **{
        f"hint {worth:g}": partial(Hinted, worth=worth, read_s=READ_S)
        for worth in (0.5, 1.0)
    },
}


def main() -> int:
    """Measure, print, and say whether it could measure."""
    quick = is_quick(__doc__)
    loads, count, rounds = ((0.7,), 2000, 1) if quick else (LOADS, 4000, 3)
    traces = arrivals.folder()
    gpus = step_times.load(traces)
    found = arrivals.load("mooncake", traces, count=20_000, seed=1)
    if not found[0].blocks:
        found = sessions.drawn(6000, seed=1)
    asked = arrivals.fitting(found, CONTEXT["cuda"])
    board = Board("session_affinity")
    for held in HELD:
        for load in loads:
            results = play(asked, load, gpus, held, count, rounds)
            show(held, load, results)
            note(board, held, load, results)
    return board.report()


def play(
    asked: Sequence[Arrival],
    load: float,
    gpus: dict[str, StepTimes],
    held: int,
    count: int,
    rounds: int,
) -> dict[str, list[Result]]:
    """Every policy's rounds at a load of what the fleet ends if it holds nothing."""
    fleet = [gpu for gpu in gpus.values() for _ in range(EACH_GPU)]
    rate = load * sum(
        EACH_GPU * runs.capacity(gpu, ROOM, asked) for gpu in gpus.values()
    )
    kind = partial(Remembering, prompts=held)
    results: dict[str, list[Result]] = {name: [] for name in POLICIES}
    for seed in range(rounds):
        heard = sessions.overlaid(asked, rate, count, seed)
        for name, make in POLICIES.items():
            results[name].append(runs.run(fleet, ROOM, heard, make, seed, kind))
    return results


def show(held: int, load: float, results: dict[str, list[Result]]) -> None:
    """A row a policy on stderr, medians of the rounds."""
    for name, rounds in results.items():
        p50 = statistics.median(one.ttft_p50_s for one in rounds)
        p99 = statistics.median(one.ttft_p99_s for one in rounds)
        saved = statistics.median(one.saved for one in rounds)
        sys.stderr.write(
            f"held {held:<5}load {load:<6}{name:<10}TTFT p50 {p50:>7.3f}"
            f"  p99 {p99:>8.3f} s  saved {saved:>6.1%}\n"
        )


def note(
    board: Board, held: int, load: float, results: dict[str, list[Result]]
) -> None:
    """Each way to hint against none, round by round."""
    plain = results[PLAIN]
    for name in list(results)[1:]:
        pairs = list(zip(results[name], plain, strict=True))
        p99 = statistics.median(a.ttft_p99_s / b.ttft_p99_s for a, b in pairs)
        p50 = statistics.median(a.ttft_p50_s / b.ttft_p50_s for a, b in pairs)
        where = {"held": held, "load": load, "policy": name}
        board.lower("ttft_p99_vs_no_hint", p99, None, **where, p50=round(p50, 3))


if __name__ == "__main__":
    sys.exit(main())
