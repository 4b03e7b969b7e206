"""A large file goes through web and brain and never sits in the memory of either.

The short form runs with every test run, the long one, a gigabyte, with ``make soak``.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.fleet import Fleet, wait_until
from fixtures.peaks import MIB, watched
from genie import Batch, Client
from genie.contracts.batch import BatchState

CATALOG = Path(__file__).with_name("large-catalog.toml")
LINE_BYTES = 100_000
GROWS_MIB = 96.0
"""What a process may grow, whatever the file: pieces of a megabyte, a chunk of lines as
jobs and messages, a page of answers of 100 KB each, its own warmth."""

SHORT_MIB, LONG_MIB = 200, 1_000


@pytest.fixture
def fleet(rabbitmq_url: str, postgres_url: str) -> Iterator[Fleet]:
    """Web, brain, beat and one worker with a quick model."""
    with Fleet(
        broker_url=rabbitmq_url,
        database_url=postgres_url,
        environ={"GENIE_CATALOG": str(CATALOG), "GENIE_BATCH_IN_FLIGHT": "50"},
        heartbeat_s=2.0,
    ) as started:
        started.start_worker("atlas")
        started.wait_ready("echo:large")
        yield started


def write(path: Path, mebibytes: int) -> int:
    """A file of requests with prompts of 100 KB; how many."""
    word = "x" * LINE_BYTES  # one word, hence one token of the echo engine
    lines = mebibytes * MIB // (LINE_BYTES + 200)
    with path.open("w", encoding="utf-8") as out:
        for number in range(lines):
            message = {"role": "user", "content": f"{number} {word}"}
            body = {"model": "chat", "messages": [message], "max_tokens": 1}
            line = {"custom_id": f"line-{number}", "method": "POST"}
            url = "/v1/chat/completions"
            out.write(json.dumps(line | {"url": url, "body": body}) + "\n")
    return lines


@pytest.mark.timeout(300)
def test_a_file_larger_than_their_memory_may_grow_runs_as_a_batch(
    fleet: Fleet, tmp_path: Path
) -> None:
    run_large(fleet, tmp_path, SHORT_MIB)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_gigabyte_runs_as_a_batch(fleet: Fleet, tmp_path: Path) -> None:
    run_large(fleet, tmp_path, LONG_MIB)


def run_large(fleet: Fleet, folder: Path, mebibytes: int) -> None:
    path = folder / "large.jsonl"
    lines = write(path, mebibytes)
    with fleet.client() as client:
        client.files.upload(b"{}")  # what a process loads once is not the file's
        with watched(fleet, "web", "brain") as peaks:
            batch = client.batch(path)
            wait_until(
                lambda: batch.refresh().counts.completed > 0, 600, "a line is answered"
            )
            assert read_back(client, batch) == digest(path)
            batch.cancel()
            wait_until(batch.done, 600, "the batch has ended", every_s=0.5)
        assert batch.status is BatchState.CANCELLED
        names = {one.custom_id for one in batch.results()}
    sys.stdout.write(f"{mebibytes} MiB: before {peaks.before}, most {peaks.most}\n")
    assert len(names) == lines
    assert max(peaks.grown.values()) < GROWS_MIB, peaks.grown


def is_under_way(batch: Batch) -> bool:
    assert not batch.done(), batch
    return batch.counts.completed > 0


def read_back(client: Client, batch: Batch) -> str:
    read = hashlib.sha256()
    for line in client.files.lines(batch.details.input_file_id or ""):
        read.update(f"{line}\n".encode())
    return read.hexdigest()


def digest(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
