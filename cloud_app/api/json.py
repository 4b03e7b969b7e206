"""JSON of the web: strict to read (no NaN, no lone surrogates), quick to write."""

from typing import Any

import msgspec
from flask import Request
from flask.json.provider import JSONProvider

_encoder = msgspec.json.Encoder()


def loads(data: str | bytes) -> Any:
    """JSON as plain values; raises `ValueError` with the place of the mistake."""
    try:
        return msgspec.json.decode(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error


def dumps(value: object) -> str:
    """Plain values and contracts as compact JSON."""
    return _encoder.encode(value).decode()


class StrictJson(JSONProvider):
    """How this app reads and writes JSON."""

    def loads(self, s: str | bytes, **_kwargs: Any) -> Any:
        """JSON as plain values."""
        return loads(s)

    def dumps(self, obj: Any, **_kwargs: Any) -> str:
        """Plain values as JSON."""
        return dumps(obj)


class JsonRequest(Request):
    """A request whose body is JSON even when a client forgot to say so."""

    @property
    def is_json(self) -> bool:
        """Always: curl sends form types unless told otherwise, and means JSON."""
        return True

    def get_json(self, *args: Any, **kwargs: Any) -> Any:
        """The body as plain values; a text, which would be read again, is none."""
        value = super().get_json(*args, **kwargs)
        return None if isinstance(value, str) else value
