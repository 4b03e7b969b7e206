"""Consuming, acking and publishing with what our messages need of AMQP, and no more.

py-amqp decodes seventeen headers of every message that comes, which nobody reads here,
and encodes anew what is the same for every message that goes; together that took half
of a worker's processor time. Frames that repeat are kept encoded, deliveries are read
with two `struct` calls. On the in-memory transport all of it is kombu's own.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from amqp import spec
from amqp.basic_message import Message
from amqp.exceptions import RecoverableConnectionError
from amqp.method_framing import frame_handler
from amqp.serialization import dumps

from genie.messaging.envelope import CONTENT_TYPE

if TYPE_CHECKING:
    from kombu.transport.base import StdChannel

METHOD, HEADER, BODY, END = 1, 2, 3, b"\xce"
SMALL_BYTES = 65_536
"""Larger messages may need several frames: the library's work, in the thread that
reads the connection."""

KEPT = 4096
"""Encoded frames that are kept: a few for each queue this process speaks to."""

_sig = struct.Struct(">HH")
_frame = struct.Struct(">BHI")
_tag = struct.Struct(">QB")
_size = struct.Struct(">Q")
_content = struct.Struct(">HHQ")
_ack = struct.Struct(">HHQB")

DELIVER, CANCEL = _sig.pack(*spec.Basic.Deliver), _sig.pack(*spec.Basic.Cancel)
NO_WAIT, WITH_ANSWER = b"\x01", b"\x00"

Frame = tuple[int, int, bytes]


@dataclass(slots=True)
class Arrived:
    """A message that came: ``tag`` settles it on the channel it came on."""

    body: bytes | str
    tag: int
    redelivered: bool


Hear = Callable[[Arrived], None]


def subscribe(
    channel: "StdChannel",
    queue: str,
    hear: Hear,
    *,
    tag: str,
    no_ack: bool = False,
    priority: int | None = None,
) -> None:
    """Consume; does not wait for the broker's word, which is an error if there is one.

    Every subscription of a channel needs a tag of its own: the broker counts acks by
    tag, and would give a later consumer of that name more than its prefetch.
    """
    hearers = getattr(channel, "hearers", None)
    if hearers is None:
        channel.basic_consume(
            queue, no_ack=no_ack, callback=_from_memory(hear), consumer_tag=tag
        )
        return
    hearers[tag] = hear
    head, tail = _consume(queue, no_ack, priority)
    payload = b"".join((head, _short(tag), tail))
    _write(channel, _framed(METHOD, _number(channel), payload))


def hang_up(channel: "StdChannel", tag: str) -> None:
    """Consume no more; on AMQP what is under way goes back to its queue."""
    hearers = getattr(channel, "hearers", None)
    if hearers is None:
        channel.basic_cancel(tag)
        return
    hearers.pop(tag, None)
    payload = CANCEL + _short(tag) + NO_WAIT
    _write(channel, _framed(METHOD, _number(channel), payload))


def let_go(channel: "StdChannel", tag: str) -> None:
    """Consume no more, once what is under way has been heard; waits for the broker."""
    channel.basic_cancel(tag)
    getattr(channel, "hearers", {}).pop(tag, None)


def leave(channel: "StdChannel", tag: str) -> None:
    """Consume no more; waits for nothing, and what is under way is heard later."""
    if getattr(channel, "hearers", None) is None:
        channel.basic_cancel(tag)
        return
    payload = CANCEL + _short(tag) + WITH_ANSWER
    _write(channel, _framed(METHOD, _number(channel), payload))


def is_shared(channel: "StdChannel") -> bool:
    """True when any thread may `ack` and `publish` on this channel."""
    return bool(getattr(channel, "is_shared", False))


def ack(channel: "StdChannel", tag: int, *, is_held: bool = False) -> None:
    """The message is done with.

    ``is_held`` on a shared channel: it leaves with what is written next, or by `flush`.
    """
    if not hasattr(channel, "hearers"):
        channel.basic_ack(tag)
        return
    payload = _ack.pack(*spec.Basic.Ack, tag, 0)
    frame = _framed(METHOD, _number(channel), payload)
    if is_held:
        channel.wire.hold(frame)
    else:
        _write(channel, frame)


def flush(channel: "StdChannel") -> None:
    """Write what was held back on a shared channel."""
    channel.wire.flush()


def publish(
    channel: "StdChannel",
    body: bytes,
    *,
    key: str,
    exchange: str = "",
    confirmed: bool,
    headers: Mapping[str, Any] | None = None,
    correlation_id: str | None = None,
    waits: bool = True,
) -> bool:
    """A message to an exchange; on a shared channel from any thread.

    ``confirmed`` ones are durable, and no queue to go to is an error.
    Without ``waits`` a full socket is no reason to wait: False is given, and the rest
    leaves with the next `BufferedTransport.flush`. Whoever counts what is published on
    a channel holds a lock around both.
    """
    if not headers and correlation_id is None:
        properties, coded = _properties(confirmed), _plain(confirmed)
    else:
        properties = _properties(confirmed) | {"correlation_id": correlation_id}
        properties["application_headers"] = dict(headers or {})
        coded = b""
    if not hasattr(channel, "hearers") or len(body) > SMALL_BYTES:
        message = _message(channel, body, properties)
        channel.basic_publish(message, exchange, key, mandatory=confirmed)
        return True
    number, coded = _number(channel), coded or _coded(properties)
    head = _content.pack(spec.Basic.Publish[0], 0, len(body)) + coded
    parts = [_publish(number, exchange, key, confirmed), _framed(HEADER, number, head)]
    if body:
        parts.append(_framed(BODY, number, body))
    return _write(channel, b"".join(parts), waits=waits)


def _message(channel: "StdChannel", body: bytes, properties: dict[str, Any]) -> Any:
    """The library's own, which wants to be given these three by name."""
    return channel.prepare_message(
        body,
        content_type=properties.pop("content_type"),
        content_encoding=properties.pop("content_encoding"),
        headers=properties.pop("application_headers"),
        properties=properties,
    )


def handler(connection: Any, callback: Callable[..., None]) -> Callable[[Frame], bool]:
    """py-amqp's hook for what to do with a frame: its own, but for `subscribe`."""
    usual = frame_handler(connection, callback)
    coming: dict[int, _Coming] = {}

    def on_frame(frame: Frame) -> bool:
        kind, number, payload = frame
        if kind == METHOD and payload.startswith(DELIVER):
            message = _Coming(connection.channels[number], payload)
            if message.hear is None:
                return bool(usual(frame))
            connection.bytes_recv += 1  # a sign of life, as the library counts them
            coming[number] = message
            return False
        if kind not in (HEADER, BODY) or number not in coming:
            return bool(usual(frame))
        if not coming[number].add(kind, payload):
            return False
        coming.pop(number).arrive()
        return True

    return on_frame


class _Coming:
    """A message of which some frames are here."""

    __slots__ = ("_left", "_parts", "_redelivered", "_tag", "hear")

    def __init__(self, channel: Any, payload: bytes) -> None:
        end = 5 + payload[4]
        hearers: dict[str, Hear] = getattr(channel, "hearers", {})
        self.hear = hearers.get(payload[5:end].decode())
        self._tag, self._redelivered = _tag.unpack_from(payload, end)
        self._parts: list[bytes] = []
        self._left = 0

    def add(self, kind: int, payload: bytes) -> bool:
        """Take one more frame; true when it is the last."""
        if kind == HEADER:
            self._left = _size.unpack_from(payload, 4)[0]
        else:
            self._parts.append(payload)
            self._left -= len(payload)
        return self._left <= 0

    def arrive(self) -> None:
        if self.hear is not None:
            body = b"".join(self._parts)
            self.hear(Arrived(body, self._tag, bool(self._redelivered)))


def _from_memory(hear: Hear) -> Callable[[Any], None]:
    def hear_message(message: Any) -> None:
        is_again = bool(message.delivery_info.get("redelivered"))
        hear(Arrived(message.body, message.delivery_tag, is_again))

    return hear_message


def _number(channel: "StdChannel") -> int:
    number: int | None = channel.channel_id
    if number is None:
        raise RecoverableConnectionError("the channel is closed")
    return number


def _write(channel: "StdChannel", frames: bytes, *, waits: bool = True) -> bool:
    connection = channel.connection
    if connection is None:
        raise RecoverableConnectionError("the channel is closed")
    connection.bytes_sent += 1
    if not waits:
        return bool(channel.wire.write_soon(frames))
    channel.wire.write(frames)
    return True


def _framed(kind: int, number: int, payload: bytes) -> bytes:
    return _frame.pack(kind, number, len(payload)) + payload + END


@lru_cache(KEPT)
def _consume(queue: str, no_ack: bool, priority: int | None) -> tuple[bytes, bytes]:
    """What stands before and after the consumer's tag."""
    arguments = {} if priority is None else {"x-priority": priority}
    flags = (False, no_ack, False, True)  # not local, no ack, exclusive, no wait
    head = _sig.pack(*spec.Basic.Consume) + bytes(dumps("Bs", (0, queue)))
    return head, bytes(dumps("bbbbF", (*flags, arguments)))


def _short(text: str) -> bytes:
    coded = text.encode()
    return bytes((len(coded),)) + coded


@lru_cache(KEPT)
def _publish(number: int, exchange: str, key: str, mandatory: bool) -> bytes:
    said = dumps("Bssbb", (0, exchange, key, mandatory, False))
    return _framed(METHOD, number, _sig.pack(*spec.Basic.Publish) + said)


@lru_cache(2)
def _plain(durable: bool) -> bytes:
    return _coded(_properties(durable))


def _coded(properties: dict[str, Any]) -> bytes:
    return bytes(Message(**properties)._serialize_properties())  # the library's coding


def _properties(durable: bool) -> dict[str, Any]:
    return {
        "content_type": CONTENT_TYPE,
        "content_encoding": "utf-8",
        "delivery_mode": 2 if durable else 1,
        "application_headers": {},
    }
