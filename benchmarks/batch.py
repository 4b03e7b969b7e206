"""B10: a batch on an idle fleet, beside interactive work, and through kills.

One worker with a paced echo engine of 32 slots. The same requests run on the same
engine inside this process; interactive streams are timed alone and beside a batch;
then brain and worker are killed in the middle of one.
"""

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(1, str(Path(__file__).parents[1] / "tests"))

import psycopg

from benchmarks.common import site
from benchmarks.common.figures import Board, Rounds, is_quick
from benchmarks.common.loader import Load, Loader, Target
from cloud_app.batches.lines import CHUNK_LINES
from fixtures.engines import EchoEngine
from fixtures.fleet import wait_until
from genie import Batch, Client
from genie.contracts.batch import BatchState
from genie.contracts.inference import Message, Sampling, WorkClass
from workers.engine.protocol import EngineEvent, EngineRequest, Finish

THROUGHPUT, TTFT, REPEATED = 0.95, 1.2, 1.0
SLOTS = 32
MS_PER_TOKEN = 20.0
TOKENS = 32
END_S = 500.0
STREAMS = 4


def main() -> int:
    """Measure, print, and say whether it could measure."""
    quick = is_quick(__doc__)
    lines, rounds, each = (300, 1, 4) if quick else (10_000, 5, 20)
    with (
        site.site(ms_per_token=MS_PER_TOKEN, heartbeat_s=2.0, slots=SLOTS) as here,
        here.fleet.client() as client,
    ):
        board = Board("batch")
        idle(board, client, lines)
        beside(board, here, client, rounds, each)
        killed(board, here, client, min(lines, 1_000))
        return board.report()


def idle(board: Board, client: Client, lines: int) -> None:
    """Lines a second, upload and result files included, against the engine alone."""
    engine_per_s = in_process(min(lines, 2_000))
    started = time.monotonic()
    batch = submit(client, lines)
    finish(batch)
    fleet_per_s = lines / (time.monotonic() - started)
    board.higher(
        "vs_engine",
        fleet_per_s / engine_per_s,
        THROUGHPUT,
        lines=lines,
        slots=SLOTS,
        lines_per_s={"engine": round(engine_per_s, 1), "fleet": round(fleet_per_s, 1)},
    )


def beside(
    board: Board, here: site.Site, client: Client, rounds: int, each: int
) -> None:
    """Time to first token of a few streams, alone and beside a batch, in turns."""
    first_p99_ms(here, 1)  # caches warm
    seen = Rounds()
    for _ in range(rounds):
        seen.note("alone_ms", first_p99_ms(here, each))
        with running(client):
            seen.note("beside_ms", first_p99_ms(here, each))
    seen.show("TTFT p99 in ms")
    ratio = seen.ratio("beside_ms", "alone_ms")
    details = {"p99_ms": seen.medians(1), "streams": STREAMS, "rounds": rounds}
    board.lower("interactive_ttft", ratio, TTFT, **details)


def first_p99_ms(here: site.Site, each: int) -> float:
    """p99 to the first token of a few clients, who read so many streams in a row."""
    question = {
        "model": "chat",
        "messages": [{"role": "user", "content": "one two three"}],
        "max_tokens": 8,
        "stream": True,
    }
    port = urlsplit(here.fleet.url).port or 80
    key, path = here.fleet.api_key, "/v1/chat/completions"
    target = Target.post(port, path, question, key=key, expect=b"data: [DONE]")

    async def streams() -> Load:
        loader = Loader(target)
        try:
            return await loader.burst(STREAMS, each=each)
        finally:
            loader.close()

    load = asyncio.run(streams())
    load.check("batch")
    return load.first_ms()[1]


def killed(board: Board, here: site.Site, client: Client, lines: int) -> None:
    """Lines run twice when brain and worker die in the middle, in chunks."""
    batch = submit(client, lines)
    wait_until(lambda: in_flight(client) > 0, 60, "lines run")
    here.fleet.kill("brain")
    here.fleet.kill(site.WORKER)
    here.fleet.start_brain()
    here.fleet.start_worker(site.WORKER)
    finish(batch)
    names = [one.custom_id for one in batch.results() if one.result is not None]
    repeated = attempts(here, batch) - lines
    board.lower(
        "repeated_chunks",
        max(0, repeated) / CHUNK_LINES,
        REPEATED,
        lines=lines,
        repeated_lines=repeated,
        lost=lines - len(set(names)),
        doubled=len(names) - len(set(names)),
    )


def submit(client: Client, lines: int) -> Batch:
    """A batch whose answers are all equally long."""
    prompts = {f"line-{n}": f"one two three {n}" for n in range(lines)}
    return client.batch(prompts, model=site.MODEL, max_tokens=TOKENS)


def finish(batch: Batch) -> None:
    """Wait until it has completed."""
    batch.wait(END_S)
    if batch.status is not BatchState.COMPLETED:
        raise RuntimeError(f"the batch is {batch.status.value}")


@contextmanager
def running(client: Client) -> Iterator[None]:
    """A batch that fills the worker until the block ends."""
    batch = submit(client, 5_000)
    wait_until(lambda: in_flight(client) >= SLOTS - 2, 60, "the batch fills the worker")
    try:
        yield
    finally:
        batch.cancel()
        batch.wait(120)
        wait_until(lambda: in_flight(client) == 0, 60, "the worker is idle")


def in_flight(client: Client) -> int:
    """Requests on the worker, as last reported."""
    return sum(model.in_flight for w in client.workers() for model in w.models)


def attempts(here: site.Site, batch: Batch) -> int:
    """How often workers began a line of the batch."""
    address = here.database_url.replace("+psycopg", "")
    sql = "SELECT sum(attempts) FROM job WHERE metadata->>'batch_id' = %s"
    with psycopg.connect(address) as session:
        row = session.execute(sql, [batch.id]).fetchone()
    return int(row[0]) if row and row[0] is not None else 0


def in_process(lines: int) -> float:
    """Lines a second of the same engine inside this process."""
    engine = EchoEngine(slots=SLOTS, ms_per_token=MS_PER_TOKEN)
    started = time.monotonic()
    with ThreadPoolExecutor(SLOTS) as pool:
        list(pool.map(lambda at: _one(engine, f"line-{at}"), range(lines)))
    seconds = time.monotonic() - started
    engine.close()
    return lines / seconds


def _one(engine: EchoEngine, name: str) -> None:
    ended = threading.Event()

    def hear(event: EngineEvent) -> None:
        if isinstance(event, Finish):
            ended.set()

    request = EngineRequest(
        id=name,
        scope="bench",
        work_class=WorkClass.BATCH,
        sampling=Sampling(max_tokens=TOKENS),
        deadline_s=60.0,
        messages=(Message(role="user", content="one two three"),),
    )
    engine.submit(request, hear)
    if not ended.wait(60):
        raise TimeoutError("the engine in this process did not end a line")


if __name__ == "__main__":
    raise SystemExit(main())
