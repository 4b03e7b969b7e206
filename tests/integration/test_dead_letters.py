"""Dead letters on a real broker: why a message died, looked at without moving it."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import kombu
import pytest

from cloud_app.bus.dead_letters import DeadLetter, DeadLetters
from fixtures.fleet import wait_until
from genie import topology
from genie.contracts.inference import InferenceTask, JobState, WorkClass
from genie.errors import BrokerDown
from integration.test_worker_dataplane import task
from integration.worker_rig import Asker, Rig

QUEUES = (topology.SHARED, topology.org_queue("nobody"))


@dataclass
class Desk:
    """The dead letters of one broker."""

    dead: DeadLetters

    def seen(self) -> list[DeadLetter]:
        found: list[DeadLetter] = []

        def look(letter: DeadLetter) -> bool:
            found.append(letter)
            return False

        self.dead.visit(QUEUES, look)
        return found

    def clear(self) -> int:
        return self.dead.visit(QUEUES, lambda _letter: True)

    def wait(self, count: int) -> list[DeadLetter]:
        wait_until(lambda: len(self.seen()) >= count, 10, f"{count} dead letters")
        return self.seen()


@pytest.fixture
def desk(rabbitmq_url: str) -> Iterator[Desk]:
    """An empty desk."""
    desk = Desk(DeadLetters(rabbitmq_url))
    desk.clear()
    yield desk
    desk.clear()


def test_a_message_no_worker_can_read_dies_with_its_headers_and_reason(
    rabbitmq_url: str, asker: Asker, desk: Desk
) -> None:
    with Rig(rabbitmq_url, "ann"):
        asker.publish(task(asker), b"no task")
        asker.publish(task(asker), b"no task either")
        letters = desk.wait(2)
        assert asker.outcome(asker.ask()).state is JobState.COMPLETED
    assert [one.body for one in letters] == [b"no task", b"no task either"]
    assert {one.reason for one in letters} == {"rejected"}
    assert {(one.id, one.org, one.queue) for one in letters} == {
        ("bad", "acme", topology.SHARED)
    }
    assert letters[0].source == "genie.echo:small.interactive"
    assert letters[0].died_at is not None
    assert abs(letters[0].died_at.timestamp() - time.time()) < 60


def test_looking_moves_nothing_and_one_letter_can_go(
    rabbitmq_url: str, asker: Asker, desk: Desk
) -> None:
    bodies = [b"1", b"2", b"3"]
    with Rig(rabbitmq_url, "ann"):
        for body in bodies:
            asker.publish(task(asker), body)
        desk.wait(3)
    for _ in range(3):
        assert [one.body for one in desk.seen()] == bodies
    assert desk.dead.visit(QUEUES, lambda letter: letter.body == b"2") == 1
    assert [one.body for one in desk.seen()] == [b"1", b"3"]


def test_work_given_back_too_often_dies_as_over_its_delivery_limit(
    rabbitmq_url: str, asker: Asker, desk: Desk
) -> None:
    job = asker.ask(work_class=WorkClass.JOB)
    queue = topology.model_queue(topology.SHARED, "echo:small", WorkClass.JOB)
    connection: kombu.Connection = kombu.Connection(rabbitmq_url)
    with connection:
        channel = connection.channel()
        for _ in range(topology.DELIVERY_LIMIT + 1):
            message = None
            while message is None:
                message = channel.basic_get(queue)
            channel.basic_reject(message.delivery_tag, requeue=True)
    (letter,) = desk.wait(1)
    assert (letter.id, letter.reason) == (job, "delivery_limit")
    found: InferenceTask = letter.task()
    assert found.job_id == job


def test_a_broker_that_is_away_is_said_soon() -> None:
    began = time.monotonic()
    with pytest.raises(BrokerDown):
        DeadLetters("amqp://127.0.0.1:9/").visit(QUEUES, lambda _letter: True)
    assert time.monotonic() - began < 5
