"""JSON of the web: strict to read (no NaN, no lone surrogates), quick to write."""

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any, TypeVar, get_args

import msgspec
from flask import Request, Response
from flask.json.provider import JSONProvider

from genie.api_types import ApiObject, CursorPage

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


A = TypeVar("A", bound=ApiObject)
P = TypeVar("P", bound=CursorPage[Any])


def of_record(kind: type[A], record: object, **given: object) -> A:
    """An answer of the record's fields of the same names, and of those given.

    A moment is said in seconds since 1970: whole ones or with milliseconds, as the
    answer's type has it.
    """
    for name, is_whole in _fields(kind):
        if name not in given and hasattr(record, name):
            value = getattr(record, name)
            if isinstance(value, datetime):
                value = int(value.timestamp()) if is_whole else unix(value)
            given[name] = value
    return kind(**given)


def cursor_page(kind: type[P], answers: Sequence[Any], limit: int) -> P:
    """One page; ``answers`` is one longer than ``limit`` when there are more."""
    data = tuple(answers[:limit])
    ids = (data[0].id, data[-1].id) if data else (None, None)
    more = len(answers) > limit
    return kind(data=data, first_id=ids[0], last_id=ids[1], has_more=more)


@cache
def _fields(kind: type[ApiObject]) -> tuple[tuple[str, bool], ...]:
    """The name of each field, and whether it holds whole numbers."""
    return tuple(
        (field.name, int in (field.type, *get_args(field.type)))
        for field in msgspec.structs.fields(kind)
    )


def unix(at: datetime | None) -> float | None:
    """A moment in seconds since 1970, to the millisecond."""
    return None if at is None else round(at.timestamp(), 3)


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
