"""What leaves a connection when, and in which order, whichever thread wrote it."""

import threading
from collections.abc import Callable
from typing import Any

import pika
import pytest
from pika import frame, spec

from genie.messaging.frames import FRAME_BYTES, encoded
from genie.messaging.link import Publication
from genie.messaging.wire import Wire, _Protocol

FRAME_MAX = 4_096
BODY_BYTES = FRAME_MAX - FRAME_BYTES


class Socket:
    """Takes so many bytes, as a kernel does."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.room = 1_000_000
        self.is_broken = False

    def send(self, data: bytes) -> int:
        if self.is_broken:
            raise BrokenPipeError
        taken = data[: self.room]
        if not taken:
            raise BlockingIOError
        self.room -= len(taken)
        self.writes.append(taken)
        return len(taken)


class Transport:
    """pika's, with what it still has to write."""

    def __init__(self) -> None:
        self.waiting = b""

    def write(self, data: bytes) -> None:
        self.waiting += data

    def get_write_buffer_size(self) -> int:
        return len(self.waiting)


class Thread:
    """The broker's thread, whose turns the test takes."""

    def __init__(self) -> None:
        self.is_here = False
        self.actions: list[Callable[[], None]] = []

    def call(self, action: Callable[[], None]) -> None:
        self.actions.append(action)

    def turn(self) -> None:
        self.is_here = True
        while self.actions:
            self.actions.pop(0)()
        self.is_here = False


class Site:
    """A wire, and everything it leads to."""

    def __init__(self, *, is_plain: bool = True) -> None:
        self.socket, self.transport, self.thread = Socket(), Transport(), Thread()
        self.cuts: list[str] = []
        plain: Any = self.socket if is_plain else None
        transport: Any = self.transport
        thread: Any = self.thread
        self.wire = Wire(transport, plain, lambda: self.cuts.append("cut"), thread)


def test_what_any_thread_writes_leaves_at_once() -> None:
    site = Site()
    site.wire.write(b"a")
    site.wire.write(b"b")
    assert (site.socket.writes, site.thread.actions) == ([b"a", b"b"], [])


def test_what_was_gathered_leaves_in_one_write_with_what_others_wrote() -> None:
    site = Site()
    with site.wire.corked():
        site.wire.write(b"a")
        other = threading.Thread(target=site.wire.write, args=(b"b",))
        other.start()
        other.join(5)
        with site.wire.corked():
            site.wire.write(b"c")
        assert site.socket.writes == []
    assert site.socket.writes == [b"abc"]


def test_what_the_socket_does_not_take_is_left_to_the_brokers_thread() -> None:
    site = Site()
    site.socket.room = 2
    site.wire.write(b"abc")
    site.wire.write(b"d")
    assert (site.socket.writes, site.wire.get_write_buffer_size()) == ([b"ab"], 2)
    site.thread.turn()
    assert (site.transport.waiting, site.wire.get_write_buffer_size()) == (b"cd", 2)
    site.socket.room = 100
    site.wire.write(b"e")  # not before what pika still has
    site.thread.turn()
    assert (site.socket.writes, site.transport.waiting) == ([b"ab"], b"cde")


def test_over_tls_the_brokers_thread_writes_all() -> None:
    site = Site(is_plain=False)
    site.wire.write(b"a")
    site.wire.write(b"b")
    assert site.transport.waiting == b""
    site.thread.turn()
    assert site.transport.waiting == b"ab"


def test_a_broken_socket_is_found_by_who_reads_it() -> None:
    site = Site()
    site.socket.is_broken = True
    site.wire.write(b"a")
    assert (site.cuts, site.transport.waiting) == (["cut"], b"")


@pytest.mark.parametrize("size", [0, 1, BODY_BYTES, BODY_BYTES + 1, 3 * BODY_BYTES])
@pytest.mark.parametrize("headers", [{}, {"org": "acme", "retries": 0, "none": None}])
@pytest.mark.parametrize("confirmed", [True, False])
def test_a_publication_is_encoded_as_pika_does(
    size: int, headers: dict[str, object], confirmed: bool
) -> None:
    publication = Publication(
        exchange="genie",
        key="m.job",
        body=b"x" * size,
        confirmed=confirmed,
        headers=headers,
    )
    properties = pika.BasicProperties(
        content_type="application/json",
        content_encoding="utf-8",
        delivery_mode=2 if confirmed else 1,
        headers=headers,
    )
    publish = spec.Basic.Publish(
        exchange="genie", routing_key="m.job", mandatory=confirmed
    )
    expected = frame.Method(3, publish).marshal()
    expected += frame.Header(3, size, properties).marshal()
    for at in range(0, size, BODY_BYTES):
        piece = publication.body[at : at + BODY_BYTES]
        expected += frame.Body(3, piece).marshal()
    assert encoded(3, publication, FRAME_MAX) == expected


def test_what_a_cork_holds_back_does_not_count_as_behind() -> None:
    site = Site()
    with site.wire.corked():
        site.wire.write(b"a")
        assert not site.wire.is_behind
    site.socket.room = 0
    site.wire.write(b"b")
    assert site.wire.is_behind


class Reader:
    """Reads frames of channel 1; pika has the others."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.wire = Site().wire
        transport: Any = self  # what pika's connection and its transport have to do
        self.protocol = _Protocol(transport, transport)

    def read(self, _kind: int, number: int, payload: bytes) -> bool:
        if number == 1:
            self.heard.append(payload)
        return number == 1

    def data_received(self, data: bytes) -> None:
        self.heard.append(b"pika:" + data)

    def quiet(self) -> None:
        self.heard.append(b"quiet")


def test_frames_are_read_in_order_however_they_arrive() -> None:
    ours, pikas = frame.Body(1, b"ours").marshal(), frame.Body(2, b"x").marshal()
    arriving = pikas + ours + pikas
    reader = Reader()
    for at in range(len(arriving)):
        reader.protocol.data_received(arriving[at : at + 1])
    heard = [one for one in reader.heard if one != b"quiet"]
    assert heard == [b"pika:" + pikas, b"ours", b"pika:" + pikas]


def test_what_is_no_frame_is_left_to_pika() -> None:
    reader = Reader()
    reader.protocol.data_received(b"AMQP\x00\x00\x09\x01")
    assert reader.heard == [b"pika:AMQP\x00\x00\x09\x01", b"quiet"]
