"""Frames of AMQP where our messages need little of them: encoded at once, read in part.

pika encodes and decodes every property of a message, and does one consume or cancel of
a channel at a time; together that is half of a worker's work with a request.
"""

import functools
import struct

import pika
from pika import frame, spec

from genie.messaging.envelope import CONTENT_TYPE
from genie.messaging.link import Headers, Publication

KEPT = 4096
"""Encoded frames that are kept: a few for each queue this process speaks to."""

FRAME_BYTES = 8
"""Of each frame, besides what is in it."""

METHOD, HEADER, BODY = 1, 2, 3
KINDS = METHOD, HEADER, BODY, 8  # heartbeats

SIZE_AT = 11
"""Where a content header has the size of its body: frame head 7, class 2, weight 2."""

HEAD = struct.Struct(">BHI")
_sig = struct.Struct(">I")
TAG = struct.Struct(">QB")
_size = struct.Struct(">Q")

DELIVER, CONSUME_OK, CANCEL, CANCEL_OK, QOS_OK, ACK, NACK = (
    _sig.pack(method.INDEX)
    for method in (
        spec.Basic.Deliver,
        spec.Basic.ConsumeOk,
        spec.Basic.Cancel,
        spec.Basic.CancelOk,
        spec.Basic.QosOk,
        spec.Basic.Ack,
        spec.Basic.Nack,
    )
)


class PartialMessage:
    """A message of which some frames are here."""

    __slots__ = ("_left", "consumer", "head", "parts", "redelivered", "tag")

    def __init__(self, payload: bytes) -> None:
        self.consumer, at = text(payload, 4)
        self.tag, redelivered = TAG.unpack_from(payload, at)
        self.redelivered = bool(redelivered)
        self.head, self.parts = b"", list[bytes]()
        self._left = 0

    def add(self, kind: int, payload: bytes) -> bool:
        """Take one more frame; true when it is the last."""
        if kind == HEADER:
            self.head = payload
            self._left = _size.unpack_from(payload, 4)[0]
        else:
            self.parts.append(payload)
            self._left -= len(payload)
        return self._left <= 0


def text(payload: bytes, at: int) -> tuple[str, int]:
    """A short text, and where it ends."""
    end = at + 1 + payload[at]
    return payload[at + 1 : end].decode(), end


def headers(head: bytes) -> Headers:
    """The headers of a message, from the frame that has its properties."""
    properties = spec.BasicProperties()
    properties.decode(head, 12)  # class, weight and size come before
    return properties.headers or {}


def encoded(number: int, publication: Publication, frame_max: int) -> bytes:
    """A publication's frames, all at once and from any thread."""
    body, is_sure = publication.body, publication.confirmed
    most = frame_max - FRAME_BYTES
    publish = _publish(number, publication.exchange, publication.key, is_sure)
    if publication.headers or publication.correlation_id or publication.expires_ms:
        header = frame.Header(number, len(body), _properties(publication)).marshal()
    else:
        plain = _plain_header(number, is_sure)
        size = _size.pack(len(body))
        header = plain[:SIZE_AT] + size + plain[SIZE_AT + _size.size :]
    pieces = (
        frame.Body(number, body[at : at + most]).marshal()
        for at in range(0, len(body), most)
    )
    return b"".join((publish, header, *pieces))


@functools.lru_cache(KEPT)
def _publish(number: int, exchange: str, key: str, mandatory: bool) -> bytes:
    method = spec.Basic.Publish(exchange=exchange, routing_key=key, mandatory=mandatory)
    return bytes(frame.Method(number, method).marshal())


@functools.lru_cache(64)
def _plain_header(number: int, is_sure: bool) -> bytes:
    plain = Publication(key="", body=b"", confirmed=is_sure)
    return bytes(frame.Header(number, 0, _properties(plain)).marshal())


def _properties(publication: Publication) -> pika.BasicProperties:
    expires_ms = publication.expires_ms
    return pika.BasicProperties(
        content_type=CONTENT_TYPE,
        content_encoding="utf-8",
        delivery_mode=2 if publication.confirmed else 1,
        headers=dict(publication.headers),
        correlation_id=publication.correlation_id,
        expiration=None if expires_ms is None else str(expires_ms),
    )
