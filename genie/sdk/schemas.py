"""Turns a type into an answer's JSON schema, and the answer into a value of it.

A pydantic model, a dataclass, a TypedDict or a msgspec Struct is a schema; so is JSON
schema itself, as a mapping. pydantic is used only when a program brings its models.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast, runtime_checkable

import msgspec

from genie.contracts import codec
from genie.errors import AnswerMismatch

Schema = type | Mapping[str, object]


@runtime_checkable
class _PydanticModel(Protocol):
    """The methods of every pydantic model class that we use."""

    def model_json_schema(self) -> dict[str, object]:
        """The model's schema."""

    def model_validate_json(self, text: str) -> object:
        """The text as an instance; raises ValueError."""


def response_format(schema: Schema) -> dict[str, object]:
    """The ``response_format`` of a request.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class City:
    ...     name: str
    >>> wanted = response_format(City)["json_schema"]
    >>> wanted["name"], wanted["schema"]["$defs"]["City"]["required"]
    ('City', ['name'])
    """
    name = schema.__name__ if isinstance(schema, type) else "answer"
    wanted = {"name": name, "schema": json_schema(schema), "strict": True}
    return {"type": "json_schema", "json_schema": wanted}


def json_schema(schema: Schema) -> Mapping[str, object]:
    """The JSON schema of a type; raises TypeError for a type without one."""
    if isinstance(schema, Mapping):
        return schema
    if isinstance(schema, _PydanticModel):
        return schema.model_json_schema()
    return cast(dict[str, object], msgspec.json.schema(schema))


def parse(schema: Schema, text: str) -> object:
    """The answer as a value of its schema; raises `AnswerMismatch`.

    >>> parse({"type": "object"}, '{"name": "Berlin"}')
    {'name': 'Berlin'}
    """
    try:
        return _reader(schema)(text)
    except ValueError as error:  # both libraries' errors are ValueErrors
        raise AnswerMismatch(
            "the answer does not match its schema, most likely because it was cut off; "
            "allow a larger max_tokens",
            text=text,
        ) from error


def _reader(schema: Schema) -> Callable[[str], object]:
    if isinstance(schema, Mapping):
        return msgspec.json.decode
    if isinstance(schema, _PydanticModel):
        return schema.model_validate_json
    wanted: Any = schema  # msgspec's types know classes, not values that are some
    return lambda text: codec.decoder(wanted).decode(text)
