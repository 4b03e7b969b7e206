"""The cloud's bus, and letters to it, while the broker is away or refuses."""

import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

import kombu
import pytest

from cloud_app.bus import Bus, PublishUnconfirmed, ReplyRouter
from fixtures.fleet import wait_until
from fixtures.links import counted, declared
from fixtures.nodes import RabbitNode
from fixtures.proxy import Proxy
from genie.contracts.inference import (
    WorkClass,
)
from genie.errors import BrokerDown
from genie.messaging import broker, envelope
from genie.messaging.link import Publication
from genie.messaging.publisher import Letter, Publisher
from genie.messaging.queues import QueueSpec, control_queue
from genie.messaging.tasks import make_celery
from integration.test_messaging import WAIT_S, Taker, task


def test_what_is_asked_of_a_queue_that_is_gone_is_in_doubt(rabbitmq_url: str) -> None:
    bus, replies, model = Bus(rabbitmq_url), ReplyRouter(rabbitmq_url), "vanished"
    bus.publish(task(model))
    with kombu.Connection(rabbitmq_url) as connection:
        connection.default_channel.queue_delete(f"genie.{model}.interactive")
    sent = task(model)
    inbox = replies.expect(sent.job_id)
    bus.ask(sent, replies)
    assert inbox.get(WAIT_S) == PublishUnconfirmed()
    bus.publish(sent)  # which declares the queue anew
    depth = bus.depths([("genie", model, WorkClass.INTERACTIVE)])[0]
    assert depth.waiting == 1
    replies.close()
    bus.close()


def test_what_was_not_confirmed_when_the_connection_broke_is_in_doubt(
    rabbitmq: RabbitNode, rabbitmq_url: str
) -> None:
    bus, sent = Bus(rabbitmq_url), task("cut")
    bus.publish(sent)
    with Proxy(rabbitmq.port) as proxy:
        replies = ReplyRouter(proxy.of(rabbitmq_url))
        inbox, other = replies.expect("job-1"), replies.expect("job-2")
        proxy.pause()  # on its way for ever
        assert replies.publish(
            Publication(key="x", body=b"", confirmed=True, correlation_id="job-1")
        )
        proxy.cut()
        proxy.resume()
        assert inbox.get(WAIT_S) == PublishUnconfirmed()
        assert other.get(0.1) is None
        replies.close()
    bus.close()


def test_a_confirmed_letter_is_never_confirmed_into_nowhere(rabbitmq_url: str) -> None:
    name = f"nowhere-{uuid.uuid4().hex[:6]}"
    missing = QueueSpec(name=name)
    publisher = Publisher(rabbitmq_url, name="worker")
    publisher.start()
    with kombu.Connection(rabbitmq_url) as connection:
        channel = connection.default_channel
        for body in (b"first", b"second"):
            sent = threading.Event()
            publisher.send(
                Letter(
                    key=name,
                    queue=missing,
                    body=body,
                    confirmed=True,
                    on_sent=sent.set,
                )
            )
            assert sent.wait(WAIT_S)
            found = channel.basic_get(name, no_ack=True)
            assert found is not None
            assert found.body == body.decode()
            channel.queue_delete(name)  # the next letter finds no queue again
    publisher.stop()


def test_a_letter_the_broker_refuses_is_sent_again_until_it_is_taken(
    rabbitmq_url: str,
) -> None:
    name = f"full-{uuid.uuid4().hex[:6]}"
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}
    publisher = Publisher(rabbitmq_url, name="worker")
    publisher.start()
    with kombu.Connection(rabbitmq_url) as connection:
        channel = connection.default_channel
        channel.queue_declare(name, durable=True, auto_delete=False, arguments=full)
        first, second = threading.Event(), threading.Event()
        for done in (first, second):
            letter = Letter(key=name, body=b"{}", confirmed=True, on_sent=done.set)
            publisher.send(letter)
        assert first.wait(WAIT_S)
        assert not second.wait(0.5)
        channel.queue_purge(name)
        assert second.wait(WAIT_S)
        channel.queue_delete(name)
    publisher.stop()


def test_letters_that_an_alarm_holds_up_arrive_once(
    rabbitmq: RabbitNode, rabbitmq_url: str
) -> None:
    name, sent = f"alarm-{uuid.uuid4().hex[:6]}", [threading.Event() for _ in range(4)]
    publisher = Publisher(rabbitmq_url, name="worker")
    publisher.start()
    rabbitmq.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
    try:
        for done in sent:
            queue = QueueSpec(name=name)
            publisher.send(
                Letter(
                    key=name, queue=queue, body=b"x", confirmed=True, on_sent=done.set
                )
            )
        assert not sent[-1].wait(1.0)
    finally:
        rabbitmq.ctl("set_vm_memory_high_watermark", "0.4")
    assert all(done.wait(WAIT_S) for done in sent)
    assert declared(rabbitmq_url, QueueSpec(name=name)).waiting == len(sent)
    publisher.stop()


def test_a_worker_listens_while_its_connection_is_up(rabbitmq_url: str) -> None:
    bus = Bus(rabbitmq_url)
    assert not bus.is_listening("ann")
    (queue,) = make_celery("workers", control_queue("ann")).conf.task_queues
    with kombu.Connection(rabbitmq_url) as connection:
        channel = connection.default_channel
        queue(channel).declare()
        channel.basic_consume(queue.name, callback=print, consumer_tag="ann")
        assert bus.is_listening("ann")
    wait_until(lambda: not bus.is_listening("ann"), 5, "its end is known")
    bus.close()


def test_a_broker_that_is_down_refuses_within_a_second(
    free_port: Callable[[], int],
) -> None:
    bus = Bus(f"amqp://guest:guest@127.0.0.1:{free_port()}//")
    started = datetime.now(UTC)
    with pytest.raises(BrokerDown, match="nothing was accepted"):
        bus.publish(task("m"))
    assert (datetime.now(UTC) - started).total_seconds() < 2
    bus.close()


def test_a_connection_that_died_refuses_nothing(
    rabbitmq: RabbitNode, rabbitmq_url: str
) -> None:
    bus = Bus(rabbitmq_url)
    bus.publish(task("before-a-restart"))
    rabbitmq.restart()
    bus.publish(task("after-a-restart"))
    bus.close()


def test_a_queue_somebody_deleted_is_declared_again(rabbitmq_url: str) -> None:
    bus, first, second = Bus(rabbitmq_url), task("deleted"), task("deleted")
    bus.publish(first)
    with kombu.Connection(rabbitmq_url) as connection:
        connection.default_channel.queue_delete("genie.deleted.interactive")
    bus.publish(second)
    depth = bus.depths([("genie", "deleted", WorkClass.INTERACTIVE)])[0]
    assert depth.waiting == 1
    bus.close()


def test_publishing_and_consuming_go_on_after_the_broker_restarted(
    rabbitmq: RabbitNode, rabbitmq_url: str
) -> None:
    bus = Bus(rabbitmq_url)
    before, after = task("restarted"), task("restarted")
    taker = Taker(rabbitmq_url, "restarted", WorkClass.INTERACTIVE)
    bus.publish(before)
    message = taker.get()
    taker.ack(message)
    rabbitmq.restart()
    assert taker.link.wait_up(WAIT_S)
    bus.publish(after)
    jobs = {envelope.unpack(taker.get().body).job_id}
    assert jobs <= {before.job_id, after.job_id}
    taker.link.close()
    bus.close()


def test_a_link_may_go_to_another_virtual_host_than_the_address_names(
    rabbitmq: RabbitNode, rabbitmq_url: str
) -> None:
    other = rabbitmq.vhost("of-an-org").rpartition("/")[2]
    spec = QueueSpec(name="only-there")
    link = broker.connect(rabbitmq_url, "test", vhost=other)
    assert link.wait_up(WAIT_S)
    counted(link, spec)
    link.close()
    listed = rabbitmq.ctl("list_queues", "--vhost", other, "name")
    here = rabbitmq.ctl(
        "list_queues", "--vhost", rabbitmq_url.rpartition("/")[2], "name"
    )
    assert "only-there" in listed
    assert "only-there" not in here
