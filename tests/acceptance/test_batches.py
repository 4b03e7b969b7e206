"""Batches on a whole fleet: with our SDK, OpenAI's, and while processes die."""

import json
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from openai import OpenAI

from fixtures.batches import jsonl, line
from fixtures.fleet import Fleet, wait_until
from fixtures.nodes import PostgresNode, RabbitNode
from genie import Batch, Client
from genie.contracts.batch import BatchState
from genie.errors import JobFailed, Unavailable

CATALOG = Path(__file__).with_name("batch-catalog.toml")
LINES = 2_000
LONG_LINES = 10_000
VICTIMS = ("atlas", "borealis", "brain", "brain-2", "web")


@pytest.fixture(scope="module")
def fleet(
    rabbitmq: RabbitNode, postgres: PostgresNode, rabbitmq_url: str, postgres_url: str
) -> Iterator[Fleet]:
    """Web, two brains, beat and two workers with a quick echo model."""
    with Fleet(
        broker_url=rabbitmq_url,
        database_url=postgres_url,
        environ={"GENIE_CATALOG": str(CATALOG)},
        heartbeat_s=2.0,
    ) as started:
        started.start_brain("brain-2")
        started.start_worker("atlas")
        started.start_worker("borealis")
        started.wait_ready("echo:small", workers=2)
        yield started


@pytest.fixture
def openai(fleet: Fleet) -> Iterator[OpenAI]:
    """The official client."""
    with OpenAI(base_url=f"{fleet.url}/v1", api_key=fleet.api_key) as client:
        yield client


def test_the_official_client_runs_a_batch(openai: OpenAI) -> None:
    data = jsonl(line(n) for n in range(5))
    file = openai.files.create(file=("work.jsonl", data), purpose="batch")
    batch = openai.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"ticket": "7"},
    )
    wait_until(lambda: ended(openai, batch.id), 60, "the batch has ended")
    batch = openai.batches.retrieve(batch.id)
    assert batch.status == "completed"
    assert batch.output_file_id is not None
    answers = openai.files.content(batch.output_file_id).text.splitlines()
    found = {row["custom_id"]: row for row in map(json.loads, answers)}
    assert sorted(found) == [f"line-{n}" for n in range(5)]
    message = found["line-3"]["response"]["body"]["choices"][0]["message"]
    assert message["content"].startswith("text 3")
    assert batch.id in [one.id for one in openai.batches.list()]
    assert file.id in [one.id for one in openai.files.list(purpose="batch")]
    assert openai.files.delete(file.id).deleted


def ended(openai: OpenAI, batch_id: str) -> bool:
    ends = ("completed", "failed", "expired", "cancelled")
    return openai.batches.retrieve(batch_id).status in ends


def test_the_official_client_cancels_a_batch(openai: OpenAI) -> None:
    data = jsonl(line(n) for n in range(3_000))
    file = openai.files.create(file=("work.jsonl", data), purpose="batch")
    batch = openai.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
    )

    def is_under_way() -> bool:
        counts = openai.batches.retrieve(batch.id).request_counts
        return counts is not None and counts.completed > 0

    wait_until(is_under_way, 60, "some lines are done")
    assert openai.batches.cancel(batch.id).status == "cancelling"
    wait_until(lambda: ended(openai, batch.id), 60, "the batch has ended")
    batch = openai.batches.retrieve(batch.id)
    assert batch.status == "cancelled"
    names = [
        json.loads(row)["custom_id"]
        for file_id in (batch.output_file_id, batch.error_file_id)
        if file_id is not None
        for row in openai.files.content(file_id).text.splitlines()
    ]
    assert sorted(names) == sorted(f"line-{n}" for n in range(3_000))


def test_prompts_come_back_under_their_names(fleet: Fleet) -> None:
    with fleet.client() as client:
        batch = client.batch({"a": "first", "b": "second"}, persona="chat")
        results = {one.custom_id: one for one in batch.results()}
    assert {name: one.text.split()[0] for name, one in results.items()} == {
        "a": "first",
        "b": "second",
    }


def test_a_file_with_mistakes_says_which_lines(fleet: Fleet, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(jsonl([line(1), line(1)]))
    with fleet.client() as client:
        batch = client.batch(path)
        with pytest.raises(JobFailed, match="line 2"):
            list(batch.results())


@pytest.mark.timeout(600)
def test_a_batch_survives_kills_of_worker_brain_and_web(fleet: Fleet) -> None:
    """Each of 2,000 lines once, while a process is killed every few seconds."""
    run_under_fire(fleet, LINES, seed=20260101)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_a_long_batch_survives_kills_of_worker_brain_and_web(fleet: Fleet) -> None:
    """The same with 10,000 lines."""
    run_under_fire(fleet, LONG_LINES, seed=20260102)


def run_under_fire(fleet: Fleet, lines: int, *, seed: int) -> None:
    sys.stdout.write(f"seed {seed}\n")
    over = threading.Event()
    killer = threading.Thread(target=kill_on, args=(fleet, over, random.Random(seed)))
    with fleet.client() as client:
        prompts = {f"line-{n}": f"text {n}" for n in range(lines)}
        batch = client.batch(prompts, model="echo:small", max_tokens=2)
        killer.start()
        try:
            wait_until(lambda: has_ended(batch), 1500, "the batch has ended", every_s=1)
        finally:
            over.set()
            killer.join(60)
        wait_until(fleet.is_ready, 60, "web is back")
        check_all(client, batch, prompts)


def has_ended(batch: Batch) -> bool:
    try:
        return batch.done()
    except Unavailable:
        return False


def kill_on(fleet: Fleet, over: threading.Event, chance: random.Random) -> None:
    """Kill one process after another, each started again at once."""
    starts: dict[str, Callable[[], None]] = {
        "web": fleet.start_web,
        "brain": fleet.start_brain,
        "brain-2": partial(fleet.start_brain, "brain-2"),
    }
    victims: list[str] = []
    while not over.wait(chance.uniform(3.0, 7.0)):
        victims = victims or chance.sample(VICTIMS, len(VICTIMS))
        name = victims.pop()
        fleet.kill(name)
        sys.stdout.write(f"killed {name}\n")
        if name in starts:
            starts[name]()
            continue
        wait_until(fleet.is_ready, 60, "web is back for the worker to join")
        fleet.start_worker(name)


def check_all(client: Client, batch: Batch, prompts: dict[str, str]) -> None:
    assert batch.status is BatchState.COMPLETED
    counts = batch.counts
    assert (counts.total, counts.completed, counts.failed) == (
        len(prompts),
        len(prompts),
        0,
    )
    results = list(batch.results())
    doubled = [
        name for name, n in Counter(one.custom_id for one in results).items() if n > 1
    ]
    assert not doubled
    assert {one.custom_id: one.text for one in results} == prompts
