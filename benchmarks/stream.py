"""B3: 64 concurrent SSE streams of a paced engine, against the engine alone.

client -> web -> broker -> worker -> engine at 10 ms a token, and the same engine with
as many slots inside this process. CPU a token counts web, worker and engine; it is
compared with raw pika sending one message a token.
"""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(1, str(Path(__file__).parents[1] / "tests"))

from benchmarks.common import pika_echo, pika_tokens, site
from benchmarks.common.figures import Board, Rounds, is_quick, p50
from benchmarks.common.sse import Reader, Run
from fixtures.fleet import widen
from genie.contracts.inference import Message, Sampling, WorkClass
from workers.engine.echo import EchoEngine
from workers.engine.protocol import EngineEvent, EngineRequest, Finish

THROUGHPUT, ADDED_TRIPS, CPU_SHARE = 0.97, 4.0, 0.25
STREAMS = 64
MS_PER_TOKEN = 10.0
WEB_THREADS = STREAMS + 16


def main() -> int:
    """Measure, print, and say whether it could measure."""
    quick = is_quick(__doc__)
    rounds, tokens, each = (1, 64, 1) if quick else (5, 128, 3)
    environ = {"GENIE_WEB_THREADS": str(WEB_THREADS)}
    with (
        site.site(ms_per_token=MS_PER_TOKEN, heartbeat_s=2.0, environ=environ) as here,
        site.program("python", pika_echo.__file__, here.bare_url),
    ):
        widen(here.fleet, here.database_url, site.MODEL, STREAMS)
        measured = Measured(here, tokens=tokens, each=each)
        for _ in range(rounds):
            measured.round()
        return measured.report()


class Measured:
    """All sides, in turns."""

    def __init__(self, here: site.Site, *, tokens: int, each: int) -> None:
        self._here, self._tokens, self._each = here, tokens, each
        self._reader = Reader(here.fleet.url, here.fleet.api_key, tokens=tokens)
        self._caller = pika_echo.Caller(here.bare_url)
        self._pids = [here.fleet.pid(name) for name in ("web", site.WORKER)]
        self._rounds = Rounds()
        self._reader.run(width=4, each=1)  # connections open, caches warm

    def round(self) -> None:
        """Each side once."""
        rounds = self._rounds
        before = site.cpu_s(*self._pids)
        fleet = self._reader.run(width=STREAMS, each=self._each)
        spent_s = site.cpu_s(*self._pids) - before
        alone = in_process(width=STREAMS, each=self._each, tokens=self._tokens)
        single_s = one_by_one(self._here.bare_url, self._tokens)
        trip_ms = p50([self._trip_ms() for _ in range(200)])
        rounds.note("fleet_tok_s", fleet.tokens / fleet.seconds)
        rounds.note("engine_tok_s", alone.tokens / alone.seconds)
        added_ms = (p50(fleet.first_token_s) - p50(alone.first_token_s)) * 1000
        rounds.note("added_ttft_ms", added_ms)
        rounds.note("pika_trip_ms", trip_ms)
        rounds.note("cpu_us_token", spent_s / fleet.tokens * 1e6)
        rounds.note("pika_us_token", single_s / (STREAMS * self._tokens) * 1e6)

    def report(self) -> int:
        """Tables and JSON lines."""
        rounds = self._rounds
        rounds.show("")
        details: dict[str, object] = {
            "streams": STREAMS,
            "tokens": self._tokens,
            "rounds": rounds.count(),
            "medians": rounds.medians(1),
        }
        board = Board("stream")
        share = rounds.ratio("fleet_tok_s", "engine_tok_s")
        board.higher("throughput_share", share, THROUGHPUT, **details)
        trips = rounds.ratio("added_ttft_ms", "pika_trip_ms")
        board.lower("added_ttft_in_pika_trips", trips, ADDED_TRIPS, **details)
        cpu = rounds.ratio("cpu_us_token", "pika_us_token")
        board.lower("cpu_vs_message_per_token", cpu, CPU_SHARE, **details)
        return board.report()

    def _trip_ms(self) -> float:
        started = time.perf_counter()
        self._caller.call(b"one")
        return (time.perf_counter() - started) * 1000


def in_process(*, width: int, each: int, tokens: int) -> Run:
    """The same streams on an engine inside this process."""
    engine = EchoEngine(slots=width, ms_per_token=MS_PER_TOKEN)
    started = time.monotonic()
    with ThreadPoolExecutor(width) as pool:
        rows = pool.map(lambda at: _stream(engine, at, each, tokens), range(width))
        waits = [wait for row in rows for wait in row]
    seconds = time.monotonic() - started
    engine.close()
    return Run(
        tokens=width * each * tokens, seconds=seconds, first_token_s=tuple(waits)
    )


def _stream(engine: EchoEngine, at: int, each: int, tokens: int) -> list[float]:
    """Seconds to the first token of each stream, one after the other."""
    return [_one_stream(engine, f"{at}-{turn}", tokens) for turn in range(each)]


def _one_stream(engine: EchoEngine, name: str, tokens: int) -> float:
    first: list[float] = []
    ended = threading.Event()

    def hear(event: EngineEvent) -> None:
        if not first:
            first.append(time.monotonic())
        if isinstance(event, Finish):
            ended.set()

    request = EngineRequest(
        id=name,
        scope="bench",
        work_class=WorkClass.INTERACTIVE,
        sampling=Sampling(max_tokens=tokens),
        deadline_s=60.0,
        messages=(Message(role="user", content="one two three"),),
    )
    asked = time.monotonic()
    engine.submit(request, hear)
    if not ended.wait(60):
        raise TimeoutError("the engine in this process did not end a stream")
    return first[0] - asked


def one_by_one(url: str, tokens: int) -> float:
    """CPU seconds of raw pika for the same tokens, one message each."""
    program = [sys.executable, pika_tokens.__file__, url]
    shape = [str(STREAMS), str(tokens)]
    consumer = subprocess.Popen(
        [*program, "consume", *shape], stdout=subprocess.PIPE, text=True
    )
    publisher = subprocess.run(
        [*program, "publish", *shape, str(MS_PER_TOKEN)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=120,
    )
    heard, _ = consumer.communicate(timeout=60)
    return float(publisher.stdout) + float(heard)


if __name__ == "__main__":
    raise SystemExit(main())
