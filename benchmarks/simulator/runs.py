"""One run: a fleet, a policy, a list of arrivals; what every request experienced."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.simulator.arrivals import Arrival
from benchmarks.simulator.clock import Clock
from benchmarks.simulator.policies import Fleet, Make
from benchmarks.simulator.step_times import StepTimes
from benchmarks.simulator.worker import Request, Room, Worker

MakeWorker = Callable[[Clock, str, StepTimes, Room], Worker]

SATURATING = 2000
"""Requests that wait at once when a GPU's capacity is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What the requests of a run experienced, in seconds.

    ``least`` is what the least used worker served, as a share of the mean; ``saved``
    the share of all prompts' tokens that needed no reading.
    """

    ttft_p50_s: float
    ttft_p99_s: float
    e2e_p99_s: float
    ended: int
    least: float
    saved: float


def run(
    gpus: Sequence[StepTimes],
    room: Room,
    arrivals: Sequence[Arrival],
    make: Make,
    seed: int = 0,
    kind: MakeWorker = Worker,
) -> Result:
    """Play ``arrivals`` to workers with these ``gpus`` under a policy, to the end."""
    clock = Clock()
    workers = [kind(clock, f"w{i}", gpu, room) for i, gpu in enumerate(gpus)]
    policy = make(Fleet(clock, workers, seed))
    done: list[Request] = []

    def end(_worker: Worker, request: Request) -> None:
        done.append(request)
        if len(done) == len(arrivals):
            clock.stop()

    for worker in workers:
        worker.on_done.append(end)
    for number, arrival in enumerate(arrivals):
        request = Request(arrival=arrival, number=number)
        clock.at(arrival.at, partial(policy.arrive, request))
    clock.run()
    return result(done, [one.name for one in workers])


def result(done: Sequence[Request], workers: Sequence[str]) -> Result:
    """The quantiles of a run, and how evenly these workers shared it."""
    served = Counter(one.worker for one in done)
    ttft = sorted(one.ttft_s for one in done)
    e2e = sorted(one.e2e_s for one in done)
    return Result(
        ttft_p50_s=quantile(ttft, 0.5),
        ttft_p99_s=quantile(ttft, 0.99),
        e2e_p99_s=quantile(e2e, 0.99),
        ended=len(done),
        least=min(served[one] for one in workers) * len(workers) / len(done),
        saved=sum(one.reused for one in done) / sum(one.arrival.prompt for one in done),
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of them do not exceed.

    >>> quantile([1.0, 2.0, 3.0, 4.0], 0.5)
    2.0
    """
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def capacity(gpu: StepTimes, room: Room, arrivals: Sequence[Arrival]) -> float:
    """Requests/s one worker ends when it never lacks any: measured, not computed."""
    clock = Clock()
    worker = Worker(clock, "w", gpu, room)
    step = max(1, len(arrivals) // SATURATING)
    several = arrivals[::step][:SATURATING]
    for number, arrival in enumerate(several):
        worker.submit(Request(arrival=arrival, number=number))
    clock.run()
    return len(several) / clock.now
