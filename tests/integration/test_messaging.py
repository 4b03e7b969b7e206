"""The data plane's threads and the cloud's bus on a real broker, and in memory."""

import base64
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

import kombu
import pytest
from msgspec.structs import replace

from cloud_app.bus import Bus, OutcomeConsumer, ReplyRouter
from fixtures.fleet import wait_until
from fixtures.links import declared
from genie import topology
from genie.contracts import codec
from genie.contracts.inference import (
    AnswerExtras,
    Chunk,
    Event,
    InferenceTask,
    JobState,
    Message,
    Outcome,
    RecordedEvent,
    Sampling,
    WorkClass,
)
from genie.errors import DatabaseDown
from genie.messaging import broker, envelope, queues
from genie.messaging.link import BrokerMessage, LinkEvents, Publication
from genie.messaging.publisher import Letter, Publisher

WAIT_S = 10.0
WIDTH, TEXTS = 1_024, 100
"""Of embeddings as real models make them, and how many texts a request may hold."""


@pytest.fixture(params=["amqp", "memory"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return "memory://"
    found: str = request.getfixturevalue("rabbitmq_url")
    return found


@pytest.fixture
def bus(url: str) -> Iterator[Bus]:
    opened = Bus(url)
    yield opened
    opened.close()


def task(model: str, work_class: WorkClass = WorkClass.INTERACTIVE) -> InferenceTask:
    now = datetime.now(UTC)
    return InferenceTask(
        job_id=uuid.uuid4().hex,
        org="acme",
        queue="genie",
        model=model,
        work_class=work_class,
        created_at=now,
        deadline_at=now + timedelta(minutes=1),
        sampling=Sampling(),
        messages=(Message(role="user", content="hi"),),
    )


def outcome(job_id: str) -> Outcome:
    return Outcome(
        job_id=job_id,
        attempt_id="a1",
        worker_id="w1",
        worker="atlas",
        model="m",
        state=JobState.COMPLETED,
        at=datetime.now(UTC),
        text="done",
    )


class Taker:
    """Consumes one model queue and keeps what came."""

    def __init__(self, url: str, model: str, work_class: WorkClass) -> None:
        self.messages: queue.SimpleQueue[BrokerMessage] = queue.SimpleQueue()
        self._queue = queues.model_queue("genie", model, work_class)
        events = LinkEvents(up=self._declare)
        self.link = broker.connect(url, "taker", events)
        self.link.start()

    def _declare(self) -> None:
        self.link.declare(self._queue, self._consume)

    def _consume(self, _found: object) -> None:
        self.link.consume(self._queue.name, self.messages.put, places=1)

    def get(self) -> BrokerMessage:
        return self.messages.get(timeout=WAIT_S)

    def ack(self, message: BrokerMessage) -> None:
        self.link.ack(message)


@pytest.mark.parametrize("work_class", list(WorkClass))
def test_a_published_task_reaches_the_consumer_of_its_model_and_class(
    url: str, bus: Bus, work_class: WorkClass
) -> None:
    sent = task(f"m-{uuid.uuid4().hex[:6]}", work_class)
    bus.publish(sent)
    taker = Taker(url, sent.model, work_class)
    message = taker.get()
    assert envelope.unpack(message.body) == sent
    assert message.headers()["argsrepr"] == "-"
    taker.ack(message)
    taker.link.close()


def test_a_task_nobody_takes_waits_and_is_counted(bus: Bus) -> None:
    sent = task(f"m-{uuid.uuid4().hex[:6]}")
    bus.publish(sent)
    bus.publish(sent)
    depth = bus.depths([("genie", sent.model, WorkClass.INTERACTIVE)])[0]
    assert (depth.waiting, depth.consumers) == (2, 0)


def test_events_reach_the_inbox_of_their_job_in_order(url: str) -> None:
    replies = ReplyRouter(url)
    inbox = replies.expect("job-1")
    publisher = Publisher(url, name="worker")
    publisher.start()
    chunks = [
        Chunk(job_id="job-1", attempt_id="a", seq=n, text=str(n), tokens=1)
        for n in range(20)
    ]
    for chunk in chunks:
        publisher.send(Letter(key=replies.name, body=codec.encode(chunk)))
    got = [inbox.get(WAIT_S) for _ in chunks]
    assert got == chunks
    publisher.stop()
    replies.close()


def test_what_is_asked_is_answered_and_not_in_doubt(url: str, bus: Bus) -> None:
    replies, model = ReplyRouter(url), f"m-{uuid.uuid4().hex[:6]}"
    taker = Taker(url, model, WorkClass.INTERACTIVE)
    for _ in range(3):  # the first one declares the queue, the others are quicker
        sent = task(model)
        inbox = replies.expect(sent.job_id)
        bus.ask(sent, replies)
        message = taker.get()
        assert envelope.unpack(message.body) == sent
        assert message.headers()["argsrepr"] == "-"
        taker.ack(message)
        assert inbox.get(0.2) is None
    taker.link.close()
    replies.close()


def test_a_confirmed_letter_calls_back_once_the_broker_has_it(url: str) -> None:
    sent = threading.Event()
    consumer, seen = _outcomes(url, lambda event: True)
    publisher = Publisher(url, name="worker")
    publisher.start()
    body = codec.encode(outcome("job-2"))
    publisher.send(
        Letter(key=topology.OUTCOMES, body=body, confirmed=True, on_sent=sent.set)
    )
    assert sent.wait(WAIT_S)
    assert seen.get(timeout=WAIT_S).job_id == "job-2"
    publisher.stop()
    consumer.stop()


@pytest.mark.parametrize("confirmed", [True, False])
def test_an_outcome_larger_than_a_frame_arrives_in_its_turn(
    url: str, confirmed: bool
) -> None:
    consumer, seen = _outcomes(url, lambda event: True)
    publisher = Publisher(url, name="worker")
    publisher.start()
    large = replace(outcome("large"), text="x" * 4 * 65_536)
    events = [outcome("before"), large, outcome("after")]
    for event in events:
        body = codec.encode(event)
        letter = Letter(key=topology.OUTCOMES, body=body, confirmed=confirmed)
        publisher.send(letter)
    assert [seen.get(timeout=WAIT_S) for _ in events] == events
    publisher.stop()
    consumer.stop()


def test_gathered_letters_arrive_in_order_with_those_of_other_threads(url: str) -> None:
    consumer, seen = _outcomes(url, lambda event: True)
    publisher = Publisher(url, name="worker")
    publisher.start()
    confirmed: list[str] = []

    def send(job_id: str) -> None:
        body = codec.encode(outcome(job_id))
        told = partial(confirmed.append, job_id)
        publisher.send(
            Letter(key=topology.OUTCOMES, body=body, confirmed=True, on_sent=told)
        )

    send("first")  # its line is open then
    assert seen.get(timeout=WAIT_S).job_id == "first"
    wait_until(lambda: confirmed == ["first"], WAIT_S, "the first is confirmed")
    with publisher.gathered():
        send("one")
        other = threading.Thread(target=send, args=("other",))
        other.start()
        other.join(WAIT_S)
        assert not other.is_alive(), "it waited for who gathers"
        send("two")
        assert confirmed == ["first"] or url == "memory://"  # where nothing is written
    assert [seen.get(timeout=WAIT_S).job_id for _ in range(3)] == [
        "one",
        "other",
        "two",
    ]
    wait_until(lambda: len(confirmed) == 4, WAIT_S, "all are confirmed")
    publisher.stop(WAIT_S)
    consumer.stop()


def test_a_large_confirmed_letter_never_waits_for_the_confirm_of_another(
    url: str,
) -> None:
    consumer, seen = _outcomes(url, lambda event: True)
    publisher = Publisher(url, name="worker")
    publisher.start()
    vectors = (base64.b64encode(bytes(4 * WIDTH)).decode(),) * TEXTS
    embedded = replace(outcome("e"), extras=AnswerExtras(vectors=vectors))
    bodies = codec.encode(outcome("s")), codec.encode(embedded)
    assert len(bodies[1]) > 8 * 65_536
    sent: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(60):
        publisher.send(
            Letter(
                key=topology.OUTCOMES,
                body=bodies[number % 2],
                confirmed=True,
                on_sent=partial(sent.put, number),
            )
        )
        time.sleep(0.001)  # so that confirms arrive while a large one is written
    assert sorted(sent.get(timeout=WAIT_S) for _ in range(60)) == list(range(60))
    assert [seen.get(timeout=WAIT_S).job_id for _ in range(60)] == ["s", "e"] * 30
    publisher.stop()
    consumer.stop()


def test_many_confirmed_letters_go_at_once_and_in_order(url: str) -> None:
    consumer, seen = _outcomes(url, lambda event: True)
    publisher = Publisher(url, name="worker")
    job_ids = [f"job-{n}" for n in range(200)]
    sent: list[str] = []
    for job_id in job_ids:
        body = codec.encode(outcome(job_id))
        told = partial(sent.append, job_id)
        publisher.send(
            Letter(key=topology.OUTCOMES, body=body, confirmed=True, on_sent=told)
        )
    publisher.start()
    assert [seen.get(timeout=WAIT_S).job_id for _ in job_ids] == job_ids
    publisher.stop(WAIT_S)
    assert sorted(sent) == sorted(job_ids)
    consumer.stop()


def test_an_outcome_nobody_can_record_goes_to_the_dead_letters(url: str) -> None:
    def apply(event: RecordedEvent) -> bool:
        if event.job_id == "poison":
            raise ValueError("no column takes this")
        return True

    consumer, seen = _outcomes(url, apply)
    publisher = Publisher(url, name="worker")
    publisher.start()
    for job_id in ("poison", "job-5"):
        body = codec.encode(outcome(job_id))
        publisher.send(Letter(key=topology.OUTCOMES, body=body, confirmed=True))
    assert seen.get(timeout=WAIT_S).job_id == "job-5"
    publisher.stop()
    consumer.stop()


def test_what_cannot_be_recorded_together_is_recorded_one_by_one(url: str) -> None:
    together: list[int] = []

    def record(events: Sequence[RecordedEvent]) -> Sequence[int]:
        together.append(len(events))
        if any(event.job_id == "poison" for event in events):
            raise ValueError("no column takes this")
        return [at for at, event in enumerate(events) if event.job_id == "odd"]

    def apply(event: RecordedEvent) -> bool:
        if event.job_id == "poison":
            raise ValueError("no column takes this")
        return True

    consumer, seen = _outcomes(url, apply, record)
    publisher = Publisher(url, name="worker")
    for job_id in ("a", "odd", "b", "poison", "c"):
        body = codec.encode(outcome(job_id))
        publisher.send(Letter(key=topology.OUTCOMES, body=body, confirmed=True))
    publisher.start()
    publisher.stop(WAIT_S)
    wait_until(lambda: sum(together) == 5, WAIT_S, "all have come")
    consumer.stop()
    assert declared(url, queues.outcomes_queue()).waiting == 0
    applied = [seen.get_nowait().job_id for _ in range(seen.qsize())]
    assert "odd" in applied
    assert "poison" not in applied


def test_a_mistake_of_ours_does_not_end_a_consumer(url: str) -> None:
    heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def hear(message: BrokerMessage) -> None:
        if message.body == b"bad":
            raise ValueError("once")
        heard.put(message.body)

    spec = queues.model_queue("genie", "mistaken", WorkClass.INTERACTIVE)
    declared(url, spec)
    link = broker.connect(url, "mistaken")
    assert link.wait_up(WAIT_S)
    link.call(lambda: _ignored(link.consume(spec.name, hear)))
    for body in (b"bad", b"good"):
        assert link.send(Publication(key=spec.name, body=body))
    assert heard.get(timeout=WAIT_S) == b"good"
    link.close()


def _ignored(_tag: str) -> None:
    """A consumer that lives as long as its link."""


def test_an_outcome_waits_while_the_database_is_away(url: str) -> None:
    failures = iter([True, True, False])

    def apply(event: RecordedEvent) -> bool:
        if next(failures):
            raise DatabaseDown("gone")
        return True

    consumer, seen = _outcomes(url, apply)
    publisher = Publisher(url, name="worker")
    publisher.start()
    body = codec.encode(outcome("job-3"))
    publisher.send(Letter(key=topology.OUTCOMES, body=body, confirmed=True))
    assert seen.get(timeout=WAIT_S).job_id == "job-3"
    publisher.stop()
    consumer.stop()


def test_a_consumer_whose_queue_is_deleted_declares_it_and_goes_on(
    rabbitmq_url: str,
) -> None:
    consumer, seen = _outcomes(rabbitmq_url, lambda event: True)
    with kombu.Connection(rabbitmq_url) as other:
        other.channel().queue_delete(topology.OUTCOMES)
    publisher = Publisher(rabbitmq_url, name="worker")
    publisher.start()
    body = codec.encode(outcome("job-6"))
    queue = queues.outcomes_queue()
    publisher.send(
        Letter(key=topology.OUTCOMES, queue=queue, body=body, confirmed=True)
    )
    assert seen.get(timeout=WAIT_S).job_id == "job-6"
    publisher.stop()
    consumer.stop()


def test_a_bad_outcome_blocks_nothing(url: str) -> None:
    consumer, seen = _outcomes(url, lambda event: True)
    publisher = Publisher(url, name="worker")
    publisher.start()
    for body in (b"{", b"[]", b'{"kind":"outcome"}', codec.encode(outcome("job-4"))):
        publisher.send(Letter(key=topology.OUTCOMES, body=body, confirmed=True))
    assert seen.get(timeout=WAIT_S).job_id == "job-4"
    publisher.stop()
    consumer.stop()


def _outcomes(
    url: str,
    apply: Callable[[RecordedEvent], bool],
    together: Callable[[Sequence[RecordedEvent]], Sequence[int]] | None = None,
) -> tuple[OutcomeConsumer, "queue.SimpleQueue[Event]"]:
    seen: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def record(event: RecordedEvent) -> bool:
        changed = apply(event)
        seen.put(event)
        return changed

    declared(url, queues.outcomes_queue())
    consumer = OutcomeConsumer(url, record, together)
    consumer.start()
    return consumer, seen
