"""What is left of a connection that was lost: nothing, and without the collector."""

import gc
import socket
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import kombu
import pytest
from amqp.exceptions import RecoverableConnectionError

from fixtures.fleet import wait_until
from fixtures.nodes import RabbitNode
from fixtures.proxy import Proxy
from genie import topology
from genie.messaging import broker, closing, frames, light
from genie.messaging.confirms import Confirms
from genie.messaging.publisher import Letter, Publisher
from genie.messaging.pump import Pump
from genie.messaging.tasks import make_celery
from integration.worker_rig import Asker, Rig

WAIT_S = 20.0
LOSSES = 4


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    """Whatever goes, goes because nothing points at it any more."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@contextmanager
def of_celery(url: str) -> Iterator[kombu.Connection]:
    app = make_celery("test", broker_url=url)
    with app.connection_for_read() as connection:
        yield connection


def of_ours(url: str) -> kombu.Connection:
    return broker.connection(url, name="test")


def used(connection: kombu.Connection) -> list[weakref.ref[Any]]:
    """Consume, confirm and publish on a connection; its parts that must not stay."""
    name = f"used-{uuid.uuid4().hex[:6]}"
    broker.connect(connection)
    channel, confirming = connection.channel(), connection.channel()
    queue = kombu.Queue(name, kombu.Exchange(""), name, expires=60)
    queue(channel).declare()
    light.subscribe(channel, name, partial(heard, channel), tag="test")
    if light.is_shared(confirming):  # Celery's waits for its confirms by itself
        confirms: Confirms[str] = Confirms(confirming)
        send = partial(light.publish, confirming, b"x", key=name, confirmed=True)
        confirms.send("one", send)
    confirming.basic_publish(confirming.prepare_message(b"y"), routing_key=name)
    parts = (connection.connection, channel, confirming, connection.connection.sock)
    return [weakref.ref(part) for part in parts]


def heard(_channel: object, _message: object) -> None:
    """A consumer that holds its channel, as all of ours do."""


@pytest.mark.parametrize("opened", [of_ours, of_celery])
def test_nothing_holds_a_connection_that_was_closed(
    rabbitmq_url: str, opened: Callable[[str], Any]
) -> None:
    with opened(rabbitmq_url) as connection:
        parts = used(connection)
    assert [part() for part in parts] == [None] * len(parts)


@pytest.mark.parametrize("opened", [of_ours, of_celery])
def test_nothing_holds_a_connection_that_the_broker_closed(
    rabbitmq: RabbitNode, rabbitmq_url: str, opened: Callable[[str], Any]
) -> None:
    with opened(rabbitmq_url) as connection:
        parts = used(connection)
        wait_until(lambda: is_listed(rabbitmq, rabbitmq_url), WAIT_S, "it is listed")
        close_all(rabbitmq, rabbitmq_url)
        with suppress(*connection.connection_errors, OSError):
            while True:
                connection.drain_events(timeout=WAIT_S)
        connection.collect()
    assert [part() for part in parts] == [None] * len(parts)


def test_a_closed_connection_refuses_and_does_not_open_itself(
    rabbitmq_url: str,
) -> None:
    with of_ours(rabbitmq_url) as connection:
        broker.connect(connection)
        channel, opened = connection.channel(), connection.connection
    for use in (
        opened.send_heartbeat,
        opened.channel,
        lambda: channel.basic_ack(1),
        lambda: channel.basic_publish(channel.prepare_message(b"x"), routing_key="x"),
        lambda: light.publish(channel, b"x", key="x", confirmed=False),
    ):
        with pytest.raises(RecoverableConnectionError):
            use()
    assert not opened.connected


def test_a_write_that_fails_leaves_the_loss_to_who_reads(rabbitmq_url: str) -> None:
    with of_ours(rabbitmq_url) as connection:
        broker.connect(connection)
        channel, opened = connection.channel(), connection.connection
        opened.sock.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionError):  # which one, the broker decides
            light.ack(channel, 1)
        assert connection.connection is opened, "kombu has opened another one"
        with pytest.raises(ConnectionResetError):
            frames.drain(connection)


def test_pumps_and_publishers_that_lose_their_connections_keep_none(
    rabbitmq: RabbitNode, rabbitmq_url: str
) -> None:
    publisher = Publisher(rabbitmq_url, name="lost.post")
    pump = Pump(rabbitmq_url, name="lost", on_connect=lambda _channel: None)
    publisher.start()
    pump.start()
    for _ in range(LOSSES):
        publisher.send(Letter(to=topology.OUTCOMES, body=b"{}"))
        wait_until(
            lambda: is_listed(rabbitmq, rabbitmq_url, connections=2), WAIT_S, "both up"
        )
        close_all(rabbitmq, rabbitmq_url)
    wait_until(lambda: pump.is_connected, WAIT_S, "it is back")
    assert 1 <= len(alive()) <= 2
    publisher.stop()
    pump.stop()
    assert alive() == []


def test_letters_survive_that_the_broker_closes_their_connection(
    rabbitmq: RabbitNode, rabbitmq_url: str
) -> None:
    name = f"kept-{uuid.uuid4().hex[:6]}"
    with of_ours(rabbitmq_url) as connection:
        channel = connection.channel()
        kombu.Queue(name, kombu.Exchange(""), name, expires=60_000)(channel).declare()
    publisher = Publisher(rabbitmq_url, name="kept.post")
    publisher.start()

    def close() -> None:
        for _ in range(LOSSES):
            close_all(rabbitmq, rabbitmq_url)

    closing_them = threading.Thread(target=close)
    closing_them.start()
    sent = 0
    while closing_them.is_alive():
        with publisher.gathered():
            for _ in range(4):
                publisher.send(Letter(to=name, body=b"%d" % sent))
                sent += 1
        time.sleep(0.004)
    publisher.stop(WAIT_S)
    with of_ours(rabbitmq_url) as connection:
        channel = connection.channel()
        got = [int(m.body) for m in iter(partial(channel.basic_get, name, True), None)]
    assert list(dict.fromkeys(got)) == list(range(sent))


def test_a_worker_whose_network_is_cut_keeps_no_connection(
    rabbitmq: RabbitNode, rabbitmq_url: str
) -> None:
    with (
        Proxy(rabbitmq.port) as proxy,
        Asker(rabbitmq_url) as asker,
        Rig(proxy.of(rabbitmq_url), "ann") as rig,
    ):
        asker.outcome(asker.ask())
        before = len(alive())
        for _ in range(LOSSES):
            proxy.cut()
            wait_until(lambda: not rig.plane.is_connected, WAIT_S, "it is noticed")
            assert rig.plane.wait_connected(WAIT_S)
            asker.outcome(asker.ask())
        assert len(alive()) <= before


def alive() -> list[object]:
    return [
        one for one in gc.get_objects() if issubclass(type(one), closing.Connection)
    ]


def close_all(rabbitmq: RabbitNode, url: str) -> None:
    vhost = url.rpartition("/")[2]
    rabbitmq.ctl("close_all_connections", "--vhost", vhost, "the test says so")


def is_listed(rabbitmq: RabbitNode, url: str, *, connections: int = 1) -> bool:
    """The broker learns of a connection a moment after it has answered."""
    vhost = url.rpartition("/")[2]
    listed = rabbitmq.ctl("list_connections", "vhost").splitlines()
    return sum(line.strip() == vhost for line in listed) >= connections
