"""B2: requests one worker process carries in a CPU second.

Requests go to this fleet's worker (its engine's process counts too; every request is
decoded, run and reported with a confirm, then acked), to raw pika's consume and ack,
and to a solo Celery worker whose result nobody wants, as it comes: durable messages,
acked before they run. CPU is what the kernel counted for each process, in hundredths
of a second.
"""

import sys
import threading
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(1, str(Path(__file__).parents[1] / "tests"))

import pika
from celery import Celery

from benchmarks.common import celery_echo, pika_echo, site
from benchmarks.common.figures import Board, Rounds, is_quick
from cloud_app.bus import Bus
from fixtures.fleet import wait_until
from genie import topology
from genie.contracts import codec
from genie.contracts.inference import Outcome

VS_PIKA, VS_CELERY = 0.5, 4.0
PIKA_TIMES = 10
"""Pika gets so many times more messages, to be counted as exactly."""

TEXT = "one two three"
PATIENCE_S = 300.0

Run = Callable[[int], None]


def main() -> int:
    """Measure, print, and say whether it could measure."""
    quick = is_quick(__doc__)
    rounds, requests = (2, 1000) if quick else (5, 4000)
    with (
        site.site() as here,
        site.program("python", pika_echo.__file__, here.bare_url) as pika,
        site.program(
            *celery_echo.WORKER, **{celery_echo.ADDRESS: here.bare_url}
        ) as celery,
    ):
        pids = {
            "genie": here.fleet.pid(site.WORKER),
            "pika": pika.pid,
            "celery": celery.pid,
        }
        return measure(here, pids, rounds, requests)


def measure(here: site.Site, pids: dict[str, int], rounds: int, requests: int) -> int:
    """All sides in turns, then the figures."""
    # Without a brain the outcomes are ours to count; the worker goes on with what it
    # was last told.
    here.fleet.kill("brain")
    here.fleet.kill("beat")
    bus, caller = Bus(here.broker_url), pika_echo.Caller(here.bare_url)
    app, outcomes = celery_echo.make(here.bare_url), Outcomes(here.broker_url)
    sides: dict[str, Run] = {
        "genie": lambda count: by_worker(bus, outcomes, count),
        "pika": lambda count: by_pika(caller, count),
        "celery": lambda count: by_celery(app, count),
    }
    speeds = Rounds()
    for run in sides.values():
        run(50)  # connections open, caches warm
    for _ in range(rounds):
        for name, run in sides.items():
            count = requests * PIKA_TIMES if name == "pika" else requests
            before = site.cpu_s(pids[name])
            run(count)
            speeds.note(name, count / (site.cpu_s(pids[name]) - before))
    return report(speeds, requests)


class Outcomes:
    """Counts the outcomes that arrive, in the brain's place."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._count = self._wanted = 0
        threading.Thread(target=self._run, name="outcomes", daemon=True).start()

    def wait(self, count: int) -> None:
        """Return once so many more have come since the last call."""
        wanted = self._wanted = self._wanted + count
        wait_until(lambda: self._count >= wanted, PATIENCE_S, "all are reported")

    def _run(self) -> None:
        channel = pika.BlockingConnection(pika.URLParameters(self._url)).channel()
        for _method, _properties, body in channel.consume(
            topology.OUTCOMES, auto_ack=True
        ):
            self._count += isinstance(codec.decode_event(body), Outcome)


def by_worker(bus: Bus, outcomes: Outcomes, count: int) -> None:
    """Requests to this fleet's worker, until all outcomes are there."""
    for _ in range(count):
        bus.publish(site.task(TEXT))
    outcomes.wait(count)


def by_pika(caller: pika_echo.Caller, count: int) -> None:
    """Messages to the pika consumer; the last one says that all were acked."""
    for _ in range(count):
        caller.send(TEXT.encode())
    caller.call(TEXT.encode())


def by_celery(app: Celery, count: int) -> None:
    """Tasks without results; the last one says that all were run."""
    echo = app.tasks["echo"]
    for _ in range(count):
        echo.apply_async((TEXT,), ignore_result=True)
    echo.delay(TEXT).get(timeout=PATIENCE_S)


def report(speeds: Rounds, requests: int) -> int:
    """Tables and JSON lines."""
    speeds.show("requests per CPU second")
    details: dict[str, object] = {
        "per_cpu_s": speeds.medians(0),
        "rounds": speeds.count(),
        "requests": requests,
    }
    board = Board("tasks_per_core")
    board.higher("vs_pika", speeds.ratio("genie", "pika"), VS_PIKA, **details)
    board.higher("vs_celery", speeds.ratio("genie", "celery"), VS_CELERY, **details)
    return board.report()


if __name__ == "__main__":
    raise SystemExit(main())
