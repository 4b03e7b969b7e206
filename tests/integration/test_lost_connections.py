"""What is left of a connection that was lost: all letters, and nothing else."""

import contextlib
import gc
import socket
import threading
import time
import uuid
from functools import partial

import kombu
import pytest
from pika import SelectConnection

from fixtures.fleet import wait_until
from fixtures.links import WAIT_S as ANSWER_S
from fixtures.links import declared
from fixtures.nodes import RabbitNode
from fixtures.proxy import Proxy
from genie import topology
from genie.messaging import broker
from genie.messaging.link import BrokerMessage, LinkEvents, Publication
from genie.messaging.publisher import Letter, Publisher
from genie.messaging.queues import QueueSpec
from integration.worker_rig import Asker, Rig

WAIT_S = 20.0
LOSSES = 4


def test_links_that_lose_their_connections_keep_none(
    rabbitmq: RabbitNode, rabbitmq_url: str
) -> None:
    ups: list[float] = []
    publisher = Publisher(rabbitmq_url, name="lost.post")
    events = LinkEvents(up=lambda: ups.append(time.monotonic()))
    link = broker.connect(rabbitmq_url, "lost", events)
    publisher.start()
    link.start()
    for number in range(LOSSES):
        publisher.send(Letter(key=topology.OUTCOMES, body=b"{}"))
        wait_until(lambda: len(ups) > number, WAIT_S, "it is up")  # noqa: B023  # at once
        wait_until(
            lambda: is_listed(rabbitmq, rabbitmq_url, connections=2), WAIT_S, "both up"
        )
        close_all(rabbitmq, rabbitmq_url)
    wait_until(lambda: len(ups) > LOSSES, WAIT_S, "it is back")
    assert 1 <= len(alive()) <= 2
    publisher.stop()
    link.close()
    wait_until(lambda: alive() == [], WAIT_S, "nothing is left")


def test_letters_survive_that_the_broker_closes_their_connection(
    rabbitmq: RabbitNode, rabbitmq_url: str
) -> None:
    name = f"kept-{uuid.uuid4().hex[:6]}"
    declared(rabbitmq_url, QueueSpec(name=name))
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
                publisher.send(Letter(key=name, body=b"%d" % sent))
                sent += 1
        time.sleep(0.004)
    publisher.stop(WAIT_S)
    with kombu.Connection(rabbitmq_url) as connection:
        channel = connection.channel()
        got = [int(m.body) for m in iter(partial(channel.basic_get, name, True), None)]
    assert list(dict.fromkeys(got)) == list(range(sent))


def test_a_worker_whose_network_is_cut_keeps_no_connection(
    rabbitmq: RabbitNode, rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        Proxy(rabbitmq.port) as proxy,
        Asker(rabbitmq_url) as asker,
        Rig(proxy.of(rabbitmq_url), "ann") as rig,
    ):
        lost: list[float] = []
        monkeypatch.setattr(rig.serving, "lost", lambda: lost.append(time.monotonic()))
        asker.outcome(asker.ask())
        before = len(alive())
        for number in range(LOSSES):
            proxy.cut()
            wait_until(lambda: len(lost) > number, WAIT_S, "it is noticed")  # noqa: B023  # at once
            rig.wait_connected()
            asker.outcome(asker.ask())
        assert len(alive()) <= before


def test_what_came_before_a_loss_cannot_be_settled_after_it(rabbitmq_url: str) -> None:
    name = f"settle-{uuid.uuid4().hex[:6]}"
    heard: list[BrokerMessage] = []
    declared(rabbitmq_url, QueueSpec(name=name))
    link = broker.connect(
        rabbitmq_url,
        "settle",
        LinkEvents(up=lambda: _consume(link, name, heard)),
    )
    assert link.wait_up(WAIT_S)
    assert link.send(Publication(key=name, body=b"x"))
    wait_until(lambda: len(heard) == 1, WAIT_S, "it comes")
    link.reset()
    wait_until(lambda: len(heard) == 2, WAIT_S, "it comes again")
    link.ack(heard[0])  # its number may be another message's by now
    link.ack(heard[1])
    link.close(ANSWER_S)
    assert declared(rabbitmq_url, QueueSpec(name=name)).waiting == 0
    assert [one.redelivered for one in heard] == [False, True]


def _consume(link: object, name: str, heard: list[BrokerMessage]) -> None:
    link.consume(name, heard.append, places=1)  # type: ignore[attr-defined]  # itself


def test_a_peer_that_confirms_nothing_is_given_up(
    rabbitmq: RabbitNode, rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genie.messaging.amqp.CONFIRM_S", 0.5)
    name = f"silent-{uuid.uuid4().hex[:6]}"
    declared(rabbitmq_url, QueueSpec(name=name))
    sent = threading.Event()
    with Proxy(rabbitmq.port) as proxy:
        publisher = Publisher(proxy.of(rabbitmq_url), name="silent")
        publisher.start()
        publisher.send(Letter(key=name, body=b"1", confirmed=True, on_sent=sent.set))
        assert sent.wait(WAIT_S)
        sent.clear()
        proxy.pause()
        publisher.send(Letter(key=name, body=b"2", confirmed=True, on_sent=sent.set))
        assert not sent.wait(2.0)
        proxy.resume()
        assert sent.wait(WAIT_S)
        publisher.stop()


def test_who_waits_for_a_broker_makes_it_no_busier() -> None:
    tries: list[float] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            with contextlib.suppress(OSError):  # the server is closed
                while True:
                    server.accept()[0].close()
                    tries.append(time.monotonic())

        threading.Thread(target=refuse, daemon=True).start()
        port = server.getsockname()[1]
        link = broker.connect(f"amqp://guest:guest@127.0.0.1:{port}/", "hurried")
        for _ in range(8):  # each connects at once, and the next retry waits longer
            assert not link.wait_up(WAIT_S)
        before = len(tries)
        time.sleep(2.0)  # the retry comes after 2.5 s at the earliest
        assert len(tries) == before
        link.close()
        server.shutdown(socket.SHUT_RDWR)


def alive() -> list[object]:
    gc.collect()
    return [
        one
        for one in gc.get_objects()
        if type(one) is SelectConnection and not one.is_closed
    ]


def close_all(rabbitmq: RabbitNode, url: str) -> None:
    vhost = url.rpartition("/")[2]
    rabbitmq.ctl("close_all_connections", "--vhost", vhost, "the test says so")


def is_listed(rabbitmq: RabbitNode, url: str, *, connections: int = 1) -> bool:
    """The broker learns of a connection a moment after it has answered."""
    vhost = url.rpartition("/")[2]
    listed = rabbitmq.ctl("list_connections", "vhost").splitlines()
    return sum(line.strip() == vhost for line in listed) >= connections
