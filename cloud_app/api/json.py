"""JSON of the web: strict to read (no NaN, no lone surrogates), quick to write."""

from typing import Any

import msgspec
from flask import Request, Response
from flask.json.provider import JSONProvider

from genie.api_types import ApiObject

_encoder = msgspec.json.Encoder()

encode = _encoder.encode
"""Plain values, contracts and API objects as compact JSON."""


def loads(data: str | bytes) -> Any:
    """JSON as plain values; raises `ValueError` with the place of the mistake."""
    try:
        return msgspec.json.decode(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error


def dumps(value: object) -> str:
    """The same as a text."""
    return encode(value).decode()


def response(value: ApiObject, status: int = 200) -> Response:
    """An API object as the response to a request."""
    return Response(encode(value), status, mimetype="application/json")


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
