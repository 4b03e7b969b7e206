"""B1: submit to result through RabbitMQ, against raw pika RPC and Celery.

Four sides take turns, one request at a time: raw pika direct reply-to; this fleet from
a client at the broker (durable, confirmed, recorded) and through HTTP with keep-alive
(authenticated, routed, committed to PostgreSQL); Celery's ``delay().get()``. The fleet
runs in its production shape with the echo engine.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(1, str(Path(__file__).parents[1] / "tests"))

from benchmarks.common import celery_echo, pika_echo, site
from benchmarks.common.figures import Board, Rounds, is_quick, p50
from cloud_app.bus import Bus, ReplyRouter

VS_PIKA, HTTP_VS_PIKA, CELERY_VS_US = 1.6, 3.0, 2.5
TEXT = "one two three"

Side = Callable[[], object]


def main() -> int:
    """Measure, print, and say whether it could measure."""
    quick = is_quick(__doc__)
    rounds, calls = (3, 60) if quick else (9, 400)
    with (
        site.site() as here,
        site.program("python", pika_echo.__file__, here.bare_url),
        site.program(*celery_echo.WORKER, **{celery_echo.ADDRESS: here.bare_url}),
    ):
        return measure(here, rounds, calls)


def measure(here: site.Site, rounds: int, calls: int) -> int:
    """All sides in turns, then the figures."""
    bus, replies = Bus(here.broker_url), ReplyRouter(here.broker_url)
    caller, app = pika_echo.Caller(here.bare_url), celery_echo.make(here.bare_url)
    with here.fleet.client() as client:
        sides: dict[str, Side] = {
            "pika": lambda: caller.call(TEXT.encode()),
            "broker": lambda: site.ask(bus, replies, TEXT),
            "http": lambda: client.ask(TEXT, max_tokens=1),
            "celery": lambda: app.tasks["echo"].delay(TEXT).get(timeout=30),
        }
        times = take_turns(sides, rounds, calls)
    caller.close()
    replies.close()
    bus.close()
    return report(times, calls)


def take_turns(sides: dict[str, Side], rounds: int, calls: int) -> Rounds:
    """The p50 of each side in each round, in milliseconds."""
    times = Rounds()
    for side in sides.values():
        for _ in range(20):  # connections open, caches warm
            side()
    for _ in range(rounds):
        for name, side in sides.items():
            times.note(name, p50([timed_ms(side) for _ in range(calls)]))
    return times


def timed_ms(side: Side) -> float:
    """Milliseconds of one call."""
    started = time.perf_counter()
    side()
    return (time.perf_counter() - started) * 1000


def report(times: Rounds, calls: int) -> int:
    """Tables and JSON lines."""
    times.show("p50 in ms")
    details = {"p50_ms": times.medians(), "rounds": times.count(), "calls": calls}
    board = Board("roundtrip")
    board.lower("vs_pika", times.ratio("broker", "pika"), VS_PIKA, **details)
    board.lower("http_vs_pika", times.ratio("http", "pika"), HTTP_VS_PIKA, **details)
    board.higher("celery_vs_us", times.ratio("celery", "broker"), CELERY_VS_US)
    return board.report()


if __name__ == "__main__":
    raise SystemExit(main())
