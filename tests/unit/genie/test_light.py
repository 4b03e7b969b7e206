"""Our short way of speaking AMQP says, byte for byte, what the library says."""

import socket
import struct
from types import SimpleNamespace
from typing import Any

import amqp
import pytest
from amqp import spec
from amqp.basic_message import Message
from amqp.exceptions import RecoverableConnectionError, UnexpectedFrame
from amqp.method_framing import frame_writer
from amqp.serialization import dumps

from genie.messaging import light
from genie.messaging.frames import BufferedTransport
from genie.messaging.light import Arrived

FRAME_MAX = 131_072


class Wire:
    """A connection that keeps what is written on it."""

    def __init__(self) -> None:
        self.frame_max = FRAME_MAX
        self.bytes_sent = self.bytes_recv = 0
        self.written = b""
        self.transport = self
        self.channels: dict[int, Any] = {}

    def write_soon(self, frame: bytes) -> bool:
        self.write(frame)
        return False

    def write(self, frame: bytes) -> None:
        self.written += bytes(frame)

    def channel(self, number: int = 3) -> Any:
        made = SimpleNamespace(
            channel_id=number, connection=self, hearers={}, wire=self
        )
        self.channels[number] = made
        return made


def by_library(
    sig: tuple[int, int], form: str, said: tuple[Any, ...], content: Any = None
) -> bytes:
    """What py-amqp writes for a method."""
    wire = Wire()
    frame_writer(wire, wire)(1, 3, sig, dumps(form, said), content)
    return wire.written


@pytest.mark.parametrize("body", [b"", b"{}", "snow ☃".encode() * 99])
@pytest.mark.parametrize("headers", [{}, {"org": "acme", "attempt": 2, "parent": None}])
@pytest.mark.parametrize("is_confirmed", [True, False])
def test_a_publish_is_what_the_library_writes(
    body: bytes, headers: dict[str, Any], is_confirmed: bool
) -> None:
    wire = Wire()
    correlation_id = "job-1" if headers else None
    light.publish(
        wire.channel(),
        body,
        key="k",
        exchange="genie",
        confirmed=is_confirmed,
        headers=headers,
        correlation_id=correlation_id,
    )
    message = Message(
        body,
        content_type="application/json",
        content_encoding="utf-8",
        delivery_mode=2 if is_confirmed else 1,
        application_headers=headers,
        correlation_id=correlation_id,
    )
    said = (0, "genie", "k", is_confirmed, False)
    assert wire.written == by_library(spec.Basic.Publish, "Bssbb", said, message)
    assert wire.bytes_sent == 1


def test_consuming_hanging_up_and_acking_are_what_the_library_writes() -> None:
    wire = Wire()
    channel = wire.channel()
    light.subscribe(channel, "q", print, tag="t", priority=7)
    light.ack(channel, 2**40)
    light.hang_up(channel, "t")
    flags = (False, False, False, True)
    said = (0, "q", "t", *flags, {"x-priority": 7})
    assert wire.written == (
        by_library(spec.Basic.Consume, "BssbbbbF", said)
        + by_library(spec.Basic.Ack, "Lb", (2**40, False))
        + by_library(spec.Basic.Cancel, "sb", ("t", True))
    )
    assert channel.hearers == {}


def test_leaving_asks_for_an_answer_and_hears_on() -> None:
    wire = Wire()
    channel = wire.channel()
    light.subscribe(channel, "q", print, tag="t")
    wire.written = b""
    light.leave(channel, "t")
    assert wire.written == by_library(spec.Basic.Cancel, "sb", ("t", False))
    assert channel.hearers == {"t": print}


def test_a_closed_channel_is_an_error_the_publisher_knows() -> None:
    for number in (None, 1):  # closed before, or while it was looked at
        channel = SimpleNamespace(channel_id=number, connection=None, hearers={})
        with pytest.raises(RecoverableConnectionError):
            light.ack(channel, 1)


def deliver(tag: str, number: int, *bodies: bytes, again: bool = False) -> list[Any]:
    """The frames of a delivery whose body comes in pieces."""
    args = dumps("sLbss", (tag, number, again, "", "key"))
    head = struct.pack(">HHQ", 60, 0, sum(map(len, bodies)))
    coded = Message(application_headers={"a": 1})._serialize_properties()
    return [
        (1, 3, struct.pack(">HH", *spec.Basic.Deliver) + args),
        (2, 3, head + coded),
        *((3, 3, body) for body in bodies),
    ]


def test_deliveries_are_heard_in_whatever_pieces_they_come() -> None:
    wire, heard = Wire(), list[Arrived]()
    usual: list[Any] = []
    wire.channel().hearers["t"] = heard.append
    on_frame = light.handler(wire, lambda *said: usual.append(said))
    frames = [
        *deliver("t", 1, b"whole"),
        *deliver("t", 2, b"in ", b"two", again=True),
        *deliver("t", 3),
        *deliver("other", 4, b"not ours"),
        (1, 3, struct.pack(">HH", *spec.Basic.CancelOk) + dumps("s", ("x",))),
    ]
    done = [on_frame(frame) for frame in frames]
    assert heard == [
        Arrived(b"whole", 1, False),
        Arrived(b"in two", 2, True),
        Arrived(b"", 3, False),
    ]
    assert [said[1] for said in usual] == [spec.Basic.Deliver, spec.Basic.CancelOk]
    assert usual[0][3].body == b"not ours"
    assert sum(done) == len(heard) + len(usual)


class Sock:
    """A socket that gives its bytes in pieces, then says it would block."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.sent: list[bytes] = []
        self.room, self.is_broken = 1_000_000, False

    def recv(self, _most: int) -> bytes:
        if not self.pieces:
            raise BlockingIOError
        return self.pieces.pop(0)

    def send(self, data: bytes, _flags: int) -> int:
        self._check()
        if self.room == 0:
            raise BlockingIOError
        self.sent.append(data[: self.room])
        return len(self.sent[-1])

    def sendall(self, data: bytes) -> None:
        self._check()
        self.sent.append(bytes(data))

    def shutdown(self, how: int) -> None:
        assert how == socket.SHUT_RDWR
        self.pieces = [b""]

    def _check(self) -> None:
        if self.is_broken:
            raise BrokenPipeError


def transport(*pieces: bytes) -> tuple[BufferedTransport, Sock]:
    made, sock = BufferedTransport("localhost"), Sock(*pieces)
    made.sock = sock
    made._setup_transport()
    return made, sock


def frame(payload: bytes) -> bytes:
    return struct.pack(">BHI", 1, 3, len(payload)) + payload + b"\xce"


@pytest.mark.parametrize("size", [1, 3, 7, 8, 11, 64])
def test_frames_are_read_however_the_bytes_come(size: int) -> None:
    data = frame(b"one") + frame(b"") + frame(b"three")
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    reading, _sock = transport(*pieces)
    assert [reading.read_frame()[2] for _ in range(3)] == [b"one", b"", b"three"]
    assert not reading.has_frame
    with pytest.raises(TimeoutError):
        reading.read_frame()


def test_half_a_frame_is_kept_for_next_time() -> None:
    data = frame(b"patience")
    reading, sock = transport(data[:9])
    with pytest.raises(TimeoutError):
        reading.read_frame()
    sock.pieces.append(data[9:])
    assert reading.read_frame()[2] == b"patience"


def test_a_frame_without_its_end_and_a_closed_socket_are_errors() -> None:
    reading, _sock = transport(frame(b"x")[:-1] + b"\x00")
    with pytest.raises(UnexpectedFrame):
        reading.read_frame()
    closed, _sock = transport(b"")
    closed.connected = True
    with pytest.raises(ConnectionResetError):
        closed.read_frame()
    assert not closed.connected
    assert issubclass(ConnectionResetError, amqp.Connection.connection_errors)


def test_corked_writes_leave_together_and_before_any_wait() -> None:
    writing, sock = transport(frame(b"answer"))
    shared = bytearray(b"one")
    writing.cork()
    writing.write(memoryview(shared))
    shared[:] = b"two"
    writing.write(memoryview(shared))
    assert sock.sent == []
    writing.read_frame()
    assert sock.sent == [b"onetwo"]
    writing.write(b"three")
    writing.uncork()
    writing.write(b"four")
    assert sock.sent == [b"onetwo", b"three", b"four"]


def test_who_must_not_wait_leaves_the_rest_to_who_may() -> None:
    writing, sock = transport()
    assert writing.write_soon(b"all")
    sock.room = 2
    assert not writing.write_soon(b"half")
    sock.room = 0
    assert not writing.write_soon(b"more")
    assert sock.sent == [b"all", b"ha"]
    writing.flush()
    assert b"".join(sock.sent) == b"allhalfmore"
    assert not writing.write_soon(b"later")
    writing.write(b"!")
    assert b"".join(sock.sent) == b"allhalfmorelater!"


@pytest.mark.parametrize("writes", ["flush", "uncork_soon"])
def test_a_write_that_failed_in_any_thread_is_the_end_for_who_reads(
    writes: str,
) -> None:
    writing, sock = transport()
    writing.connected = True
    sock.is_broken = True
    writing.hold(b"ack")
    with pytest.raises(BrokenPipeError):
        getattr(writing, writes)()
    # Not said by us: kombu would open another connection behind the reader's back.
    assert writing.connected
    with pytest.raises(ConnectionResetError):
        writing.read_frame()


def test_who_must_not_wait_joins_what_is_held_back() -> None:
    writing, sock = transport()
    writing.cork()
    assert writing.write_soon(b"one")
    writing.write(b"two")
    writing.uncork()
    assert sock.sent == [b"onetwo"]


def test_what_was_gathered_leaves_at_once_and_never_waits() -> None:
    writing, sock = transport()
    writing.cork()
    for part in (b"one", b"two", b"three"):
        assert writing.write_soon(part)
    assert sock.sent == []
    assert writing.uncork_soon()
    assert sock.sent == [b"onetwothree"]
    writing.cork()
    sock.room = 2
    assert writing.write_soon(b"four")
    assert not writing.uncork_soon()
    assert sock.sent[1:] == [b"fo"]
    writing.flush()
    assert b"".join(sock.sent[1:]) == b"four"
    assert writing.uncork_soon()


def test_what_is_held_leaves_first_with_what_is_written_next() -> None:
    writing, sock = transport()
    writing.hold(b"ack")
    assert sock.sent == []
    writing.write(b"next")
    assert sock.sent == [b"acknext"]
    writing.hold(b"last")
    writing.flush()
    assert sock.sent == [b"acknext", b"last"]


def test_a_held_ack_is_what_the_library_writes() -> None:
    held: list[bytes] = []
    wire = Wire()
    channel = wire.channel()
    channel.wire = SimpleNamespace(hold=held.append)
    light.ack(channel, 7, is_held=True)
    assert held == [by_library(spec.Basic.Ack, "Lb", (7, False))]
    assert wire.written == b""
