"""B9: kill -9 of one of four workers, the broker and web, at six tenths of capacity.

Streams come at random moments; async jobs run beside them, some sent twice. A window
after the kill of a worker is compared with one before it in the same round, and the
time until its requests are begun elsewhere with raw pika's, measured in the same round.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(1, str(Path(__file__).parents[1] / "tests"))

from benchmarks.common import site
from benchmarks.common.figures import Board, Rounds, is_quick, p50, p99
from benchmarks.common.redelivery import Probes, of_pika
from benchmarks.common.traffic import Told, Traffic
from fixtures.chaos import Load, Verdict, judge
from fixtures.fleet import wait_until
from genie import logs

REDELIVERY, BYSTANDERS = 1.5, 1.3
WORKERS, SLOTS = 4, 16
MS_PER_TOKEN, TOKENS = 50.0, 80
STREAM_S = TOKENS * MS_PER_TOKEN / 1000
LOAD, JOBS_LOAD = 0.6, 0.03
RATE = (LOAD - JOBS_LOAD) * WORKERS * SLOTS / STREAM_S
PROBES, PROBE_TOKENS = 8, 30
SEED = 9
JOBS_PAUSE_S = (0.3, 0.7)
BACK_S = 60.0

Restart = Callable[[], float]
"""Kills something and starts it; when it was up again, in monotonic seconds."""


def main() -> int:
    """Measure, print, and say whether it could measure."""
    quick = is_quick(__doc__)
    logs.configure(level="ERROR")  # stdout is for figures, and losses are on purpose
    rounds, window_s = (1, 5.0) if quick else (4, 10.0)
    environ = {"GENIE_WEB_THREADS": "192"}
    with site.site(
        ms_per_token=MS_PER_TOKEN,
        heartbeat_s=2.0,
        workers=WORKERS,
        slots=SLOTS,
        environ=environ,
    ) as here:
        measured = Measured(here, window_s)
        with (
            Traffic(here.fleet, rate=RATE, tokens=TOKENS, seed=SEED) as traffic,
            Load(here.fleet, clients=1, seed=SEED, pause_s=JOBS_PAUSE_S) as jobs,
        ):
            time.sleep(STREAM_S)  # until as many run as will
            for _ in range(rounds):
                measured.worker_round(traffic)
            measured.outages(traffic)
        with here.fleet.client() as client:
            verdict = judge(client, jobs.accepted)
        return measured.report(verdict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """Something everybody needs was away; ``touched`` ran then or were asked for."""

    down_s: float
    back_s: float
    touched: list[Told]

    def details(self) -> dict[str, object]:
        """How the streams ended; read it when all of them have."""
        return {
            "down_s": round(self.down_s, 2),
            "streams": len(self.touched),
            "whole": sum(one.is_whole for one in self.touched),
            "doubled": sum(one.is_doubled for one in self.touched),
            "errors": dict(Counter(one.error for one in self.touched if one.error)),
        }


class Measured:
    """What was seen, window by window."""

    def __init__(self, here: site.Site, window_s: float) -> None:
        self._here, self._window_s = here, window_s
        self._probes = Probes(here, tokens=PROBE_TOKENS)
        self._rounds = Rounds()
        self._ours: list[float] = []
        self._calm: list[Told] = []
        self._killed: list[Told] = []
        self._hit: list[Told] = []
        self._outages: dict[str, Outage] = {}

    def worker_round(self, traffic: Traffic) -> None:
        """A window without a fault, raw pika's redelivery, a window with a kill."""
        self._calm += self._window(traffic)
        self._note("pika", of_pika(self._here.bare_url, PROBES))
        at = time.monotonic()
        victim, took = self._probes.after_kill(PROBES)
        self._note("genie", took)
        self._ours += took
        self._hit += traffic.asked(at - STREAM_S, at)  # a quarter of them was there
        self._killed += self._window(traffic)
        self._here.fleet.start_worker(victim)
        self._here.fleet.wait_ready(site.MODEL, workers=WORKERS)

    def outages(self, traffic: Traffic) -> None:
        """Web killed and started, then the broker."""
        self._wait_over([*self._killed, *self._hit], "the rounds")
        self._outage("web", traffic, self._restart_web)
        self._outage("broker", traffic, self._restart_broker)

    def report(self, verdict: Verdict) -> int:
        """Tables and JSON lines."""
        self._probes.close()
        self._rounds.show("")
        board = Board("failover")
        streams = [*self._calm, *self._killed, *self._hit]
        lost = verdict.lost + sum(not one.is_whole for one in streams)
        doubled = len(verdict.doubled) + len(verdict.wrong)
        doubled += sum(one.is_doubled for one in streams)
        counted = {"streams": len(streams), "jobs": verdict.ends.total()}
        board.lower("lost", lost, 0, **counted)
        board.lower("doubled", doubled, 0, **counted)
        board.lower(
            "redelivery_vs_pika",
            self._rounds.ratio("genie_ms", "pika_ms"),
            REDELIVERY,
            rounds=self._rounds.count(),
            medians=self._rounds.medians(1),
            worst_ms=round(max(self._ours) * 1000, 1),
        )
        calm, killed = firsts(self._calm), firsts(self._killed)
        board.lower(
            "bystander_ttft_p99",
            p99(killed) / p99(calm),
            BYSTANDERS,
            ms={"calm": round(p99(calm) * 1000), "killed": round(p99(killed) * 1000)},
            requests=[len(calm), len(killed)],
        )
        pause = max((one.pause_s for one in self._hit), default=0.0)
        board.lower("longest_pause_s", pause, None, streams=len(self._hit))
        for name, outage in self._outages.items():
            board.lower(f"{name}_back_s", outage.back_s, None, **outage.details())
        return board.report()

    def _note(self, side: str, took_s: list[float]) -> None:
        self._rounds.note(f"{side}_ms", p50(took_s) * 1000)
        self._rounds.note(f"{side}_first_ms", min(took_s) * 1000)

    def _window(self, traffic: Traffic) -> list[Told]:
        began = time.monotonic()
        time.sleep(self._window_s)
        return traffic.asked(began, began + self._window_s)

    def _outage(self, name: str, traffic: Traffic, restart: Restart) -> None:
        began = time.monotonic()
        up_at = restart()
        told: list[Told] = []

        def is_answered() -> bool:
            told[:] = traffic.asked(up_at, time.monotonic())
            return any(one.times for one in told)

        wait_until(is_answered, BACK_S, f"an answer after {name} is back", every_s=0.02)
        first = min(one.times[0] for one in told if one.times)
        touched = traffic.asked(began - STREAM_S, up_at)
        self._wait_over(touched, name)
        self._outages[name] = Outage(
            down_s=up_at - began, back_s=first - up_at, touched=touched
        )

    def _wait_over(self, told: Iterable[Told], what: str) -> None:
        def are_over() -> bool:
            return all(one.is_over for one in told)

        wait_until(are_over, BACK_S, f"the streams of {what} have ended")

    def _restart_broker(self) -> float:
        self._here.rabbit.kill()
        self._here.rabbit.start()
        return time.monotonic()

    def _restart_web(self) -> float:
        self._here.fleet.kill("web")
        self._here.fleet.start_web()
        wait_until(self._here.fleet.is_ready, BACK_S, "web is back")
        return time.monotonic()


def firsts(told: Iterable[Told]) -> list[float]:
    """Seconds to the first text of each stream that had any."""
    return [one.first_s for one in told if one.first_s is not None]


if __name__ == "__main__":
    raise SystemExit(main())
