"""Contracts <-> JSON: defaults are left out, and an error names the field."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from threading import Lock
from typing import Any, TypeVar

import msgspec

from genie.contracts.base import Contract
from genie.contracts.inference import Event
from genie.errors import CodecError, TooLarge

C = TypeVar("C", bound=Contract)
T = TypeVar("T")

_encoder = msgspec.json.Encoder()
_events: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_lists: msgspec.json.Decoder[list[Event]] = msgspec.json.Decoder(list[Event])

# Recursion: brackets nested by the thousand must not end the thread that reads them.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}
_building = Lock()


def decoder(kind: type[T]) -> msgspec.json.Decoder[T]:
    """The decoder of a type; every use of msgspec with a type of ours begins here.

    msgspec notes what it learns of a type while it learns it. Two threads that need a
    type for the first time end the process (SIGSEGV, seen with 0.22), so one builds.
    """
    found = _decoders.get(kind)
    if found is None:
        with _building:
            found = _decoders.setdefault(kind, msgspec.json.Decoder(kind))
    return found


def encode(value: Contract, *, limit_bytes: int | None = None) -> bytes:
    """One contract as JSON; raises `TooLarge` over ``limit_bytes``.

    Raises `CodecError` for text that UTF-8 cannot hold (half a surrogate pair).

    >>> from genie.contracts.inference import Message
    >>> encode(Message(role="user", content="hi"))
    b'{"role":"user","content":"hi"}'
    """
    try:
        data = _encoder.encode(value)
    except UnicodeEncodeError as error:
        said = f"has text that is not valid Unicode at character {error.start}"
        raise CodecError(f"{type(value).__name__} {said}; remove it") from error
    if limit_bytes is not None and len(data) > limit_bytes:
        raise TooLarge(
            f"the message has {len(data)} bytes and the limit is {limit_bytes}; "
            "send less text in one request",
            param="messages",
        )
    return data


def decode(contract: type[C], data: bytes | str) -> C:
    """JSON as one contract; raises `CodecError` naming the field.

    >>> from genie.contracts.inference import Message
    >>> decode(Message, b'{"role": "user"}')
    Traceback (most recent call last):
    ...
    genie.errors.CodecError: Message: Object missing required field `content`
    """
    return read(decoder(contract), contract.__name__, data)


def decode_event(data: bytes | str) -> Event:
    """JSON as a started, chunk or outcome event; raises `CodecError`."""
    return read(_events, "event", data)


def decode_events(data: bytes | str) -> list[Event]:
    """One event, or a list of them in one message; raises `CodecError`."""
    if data[:1] not in (b"[", "["):
        return [decode_event(data)]
    return read(_lists, "events", data)


def read(by: msgspec.json.Decoder[T], name: str, data: bytes | str) -> T:
    """JSON as a decoder reads it; the `CodecError` begins with ``name``."""
    try:
        return by.decode(data)
    except _UNREADABLE as error:
        raise CodecError(f"{name}: {error}", param=field(error)) from error


def joined(bodies: Sequence[bytes]) -> bytes:
    """Encoded events as one message that `decode_events` reads.

    >>> joined([b'{"a":1}', b'{"a":2}'])
    b'[{"a":1},{"a":2}]'
    """
    return bodies[0] if len(bodies) == 1 else b"[" + b",".join(bodies) + b"]"


def builtins(value: Contract) -> Any:
    """A contract as plain dicts and lists, for JSON columns and task arguments."""
    return msgspec.to_builtins(value)


def shown(value: object) -> Any:
    """Anything for people to read, as JSON: its contracts with every field.

    Dicts and lists all the way down; moments and the like are left to the encoder.

    >>> from genie.contracts.inference import Fault
    >>> shown(Fault(code="timeout", message="too late"))
    {'code': 'timeout', 'message': 'too late', 'param': None, 'retryable': False}
    """
    if isinstance(value, Contract) and not value.__struct_config__.array_like:
        names = value.__struct_fields__
        return {name: shown(getattr(value, name)) for name in names}
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: shown(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, list | tuple):
        return [shown(one) for one in value]
    if isinstance(value, dict):
        return {name: shown(one) for name, one in value.items()}
    return value


def convert(contract: type[C], data: object) -> C:
    """Plain dicts and lists as one contract; raises `CodecError` naming the field."""
    decoder(contract)  # convert needs what the decoder learns of the type
    try:
        return msgspec.convert(data, contract)
    except msgspec.ValidationError as error:
        raise CodecError(f"{contract.__name__}: {error}", param=field(error)) from error


def field(error: Exception) -> str | None:
    """The field a msgspec error speaks of, as a dotted path, or None.

    >>> field(ValueError("Expected `str`, got `int` - at `$.messages[0].role`"))
    'messages[0].role'
    """
    text = str(error)
    path = (
        text.rpartition(" - at `$")[2].rstrip("`").lstrip(".") if "`$" in text else ""
    )
    for phrase in ("missing required field `", "unknown field `"):
        if phrase in text:
            name = text.partition(phrase)[2].partition("`")[0]
            return f"{path}.{name}" if path else name
    return path or None
