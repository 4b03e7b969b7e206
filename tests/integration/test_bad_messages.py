"""P10: a bad message blocks nothing and kills nobody, wherever it is put."""

import gzip
import json
import pickle
import queue
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import kombu
import psutil
import pytest

from cloud_app.bus import DeadLetters, OutcomeConsumer, ReplyRouter
from fixtures.fleet import wait_until
from genie import topology
from genie.contracts import codec
from genie.contracts.inference import (
    InferenceTask,
    JobState,
    Outcome,
    RecordedEvent,
    WorkClass,
)
from genie.errors import CodecError
from genie.messaging import envelope
from integration.test_messaging import outcome
from integration.test_messaging import task as any_task
from integration.test_worker_dataplane import dead_letters, task, worker_process
from integration.worker_rig import MODEL, Asker

FEW, MANY = 60, 2_000
SEED = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Bad:
    """A message as somebody else might publish it."""

    body: bytes
    content_type: str = "application/json"
    headers: dict[str, object] = field(default_factory=dict)


def changed(body: bytes, change: Callable[[dict[str, object]], object]) -> bytes:
    """The same message with its task changed."""
    args, kwargs, embed = json.loads(body)
    change(kwargs["task"])
    return json.dumps([args, kwargs, embed]).encode()


def kinds(good: InferenceTask) -> dict[str, Bad]:
    """Fifteen kinds of bad messages, made from a good one."""
    body = envelope.pack(good)
    deep = b"[" * 100_000
    packed = gzip.compress(b"\0" * 50_000_000)
    return {
        "empty": Bad(body=b""),
        "no text": Bad(body=b"\xff\xfe\x00"),
        "no json": Bad(body=b"{not json"),
        "cut short": Bad(body=body[: len(body) // 2]),
        "another shape": Bad(body=b'{"task": {}}'),
        "null": Bad(body=b"null"),
        "no field": Bad(body=changed(body, lambda task: task.clear())),
        "one field missing": Bad(body=changed(body, lambda task: task.pop("org"))),
        "unknown class": Bad(
            body=changed(body, lambda task: task.update(work_class=1))
        ),
        "wrong type": Bad(body=changed(body, lambda task: task.update(org=["a"]))),
        "another model": Bad(body=changed(body, lambda task: task.update(model="m"))),
        "deep": Bad(body=deep, headers={"task": None, "id": 7}),
        "over the limit": Bad(
            body=changed(body, lambda task: task.update(prompt="x" * 2_000_000))
        ),
        "compressed": Bad(body=packed, headers={"compression": "application/x-gzip"}),
        "pickled": Bad(
            body=pickle.dumps([[], {}, {}]),
            content_type="application/x-python-serialize",
            headers={"eta": "2000-01-01T00:00:00+00:00"},
        ),
    }


def generated(good: InferenceTask, count: int, seed: int) -> list[Bad]:
    """So many messages with bytes cut, swapped or put in that nobody can read."""
    chance, body = random.Random(seed), envelope.pack(good)
    found: list[Bad] = []
    while len(found) < count:
        one = mutated(chance, body)
        if is_bad(one):
            found.append(Bad(body=one))
    return found


def mutated(chance: random.Random, body: bytes) -> bytes:
    at, length = chance.randrange(len(body)), chance.randint(1, 20)
    put_in = chance.randbytes(chance.randint(0, 8))
    return body[:at] + put_in + body[at + length :]


def is_bad(body: bytes) -> bool:
    try:
        envelope.unpack(body)
    except CodecError:
        return True
    return False


class Sender:
    """Publishes bad messages."""

    def __init__(self, url: str) -> None:
        self._connection: kombu.Connection = kombu.Connection(url)
        self._channel = self._connection.channel()

    def close(self) -> None:
        self._connection.release()

    def send(self, bad: Bad, *, to: str) -> None:
        message = self._channel.prepare_message(
            bad.body,
            content_type=bad.content_type,
            content_encoding="binary",
            headers=bad.headers,
            properties={"delivery_mode": 2},
        )
        self._channel.basic_publish(message, exchange="", routing_key=to)


@pytest.fixture
def sender(rabbitmq_url: str) -> Iterator[Sender]:
    """Somebody who means no good."""
    sender = Sender(rabbitmq_url)
    yield sender
    sender.close()


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=[pytest.mark.chaos])])
def test_a_worker_serves_every_good_message_among_as_many_bad_ones(
    rabbitmq_url: str, sender: Sender, count: int
) -> None:
    wanted = any_task(MODEL)
    bad = [*kinds(wanted).values(), *generated(wanted, count, SEED)]
    states: list[JobState] = []
    dead: list[bytes] = []
    with worker_process(rabbitmq_url, "ann", ms_per_token=0) as worker:
        for start in range(0, len(bad), FEW):
            some = bad[start : start + FEW]
            states += served_among(rabbitmq_url, sender, some)
            dead += dead_letters(rabbitmq_url, len(some))
        assert worker.poll() is None
        memory_mib = psutil.Process(worker.pid).memory_info().rss / 2**20
    sys.stdout.write(f"P10: seed={SEED} bad={len(bad)} good={len(states)}\n")
    assert states == [JobState.COMPLETED] * len(bad)
    assert sorted(dead) == sorted(one.body for one in bad)
    assert memory_mib < 200  # nobody inflated what was compressed


def served_among(url: str, sender: Sender, bad: list[Bad]) -> list[JobState]:
    """How as many good requests ended, sent between the bad ones."""
    with Asker(url) as asker:
        asker.outcome(asker.ask("declares the queue"))
        to = topology.model_queue(topology.SHARED, MODEL, WorkClass.INTERACTIVE)
        jobs = []
        for one in bad:
            sender.send(one, to=to)
            jobs.append(asker.ask("fine"))
        return [asker.outcome(job).state for job in jobs]


def test_the_dead_say_that_they_were_rejected(
    rabbitmq_url: str, asker: Asker, sender: Sender
) -> None:
    wanted = task(asker)
    to = topology.model_queue(wanted.queue, wanted.model, wanted.work_class)
    letters = DeadLetters(rabbitmq_url)
    reasons: list[str] = []

    def look(letter: object) -> bool:
        reasons.append(letter.reason)  # type: ignore[attr-defined]  # a DeadLetter
        return True

    with worker_process(rabbitmq_url, "ann", ms_per_token=0):
        asker.outcome(asker.ask("declares the queue"))
        for one in kinds(wanted).values():
            sender.send(one, to=to)
        asker.outcome(asker.ask())
        wait_until(
            lambda: bool(letters.visit([topology.SHARED], look)), 10, "they are dead"
        )
    assert set(reasons) == {"rejected"}


def test_bad_outcomes_are_set_aside_and_good_ones_recorded(
    rabbitmq_url: str, sender: Sender
) -> None:
    seen: queue.SimpleQueue[str] = queue.SimpleQueue()

    def record(event: RecordedEvent) -> bool:
        seen.put(event.job_id)
        return True

    bad = list(kinds(any_task(MODEL)).values())
    consumer = OutcomeConsumer(rabbitmq_url, record)
    consumer.start()
    for number, one in enumerate(bad):
        sender.send(one, to=topology.OUTCOMES)
        good = codec.encode(outcome(f"job-{number}"))
        sender.send(Bad(body=good), to=topology.OUTCOMES)
    heard = [seen.get(timeout=20) for _ in bad]
    consumer.stop()
    assert heard == [f"job-{number}" for number in range(len(bad))]


def test_bad_replies_reach_nobody_and_good_ones_whom_they_are_for(
    rabbitmq_url: str, sender: Sender
) -> None:
    replies = ReplyRouter(rabbitmq_url)
    inbox = replies.expect("job-1")
    said = codec.encode(outcome("job-1"))
    packed = Bad(
        body=gzip.compress(said), headers={"compression": "application/x-gzip"}
    )
    for one in [*kinds(any_task(MODEL)).values(), packed]:
        sender.send(one, to=replies.name)
    sender.send(Bad(body=said), to=replies.name)
    began = time.monotonic()
    event = inbox.get(20)
    assert isinstance(event, Outcome)
    assert event.job_id == "job-1"
    assert inbox.get(0.5) is None  # the compressed one was not inflated
    replies.close()
    assert time.monotonic() - began < 20
