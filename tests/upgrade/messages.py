"""Print what a release writes on the wire, made by its own code.

`record` runs this with the Python of the release before, so the names below are that
release's. Of each kind there is a document with every field at another value than its
default, the same with each value that an enumeration may have, and at the end one with
only what has no default. Printed with them is the JSON schema of each kind: which
fields that release knows.
"""

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import msgspec
from msgspec import inspect

KINDS = {
    "task": "genie.contracts.inference:InferenceTask",
    "started": "genie.contracts.inference:Started",
    "given_back": "genie.contracts.inference:GivenBack",
    "chunk": "genie.contracts.inference:Chunk",
    "outcome": "genie.contracts.inference:Outcome",
    "written": "genie.contracts.inference:Written",
    "usage": "genie.contracts.inference:Usage",
    "timing": "genie.contracts.inference:Timing",
    "extras": "genie.contracts.inference:Extras",
    "fault": "genie.contracts.inference:Fault",
    "registration": "genie.contracts.fleet:Registration",
    "registered": "genie.contracts.fleet:Registered",
    "heartbeat": "genie.contracts.fleet:Heartbeat",
    "heartbeat_reply": "genie.contracts.fleet:HeartbeatReply",
    "identity": "workers.identity:Identity",
    "manifest": "workers.files.files.manifest:Manifest",
}
"""What travels, what columns hold, and what a worker keeps in files."""

TURNS = 8
"""No enumeration has more values."""

LEAST = -1
"""Only what has no default."""

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)

PLAIN: dict[type[inspect.Type], Callable[[Any], object]] = {
    inspect.BoolType: lambda default: not default,
    inspect.IntType: lambda default: (default if isinstance(default, int) else 0) + 3,
    inspect.FloatType: lambda default: (
        (default if isinstance(default, float) else 0.0) + 0.25
    ),
    inspect.StrType: lambda _: "words ✓",
    inspect.DateTimeType: lambda _: NOW,
}


def found(name: str) -> Any:
    """What a name like ``module:Class`` stands for."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def value(kind: inspect.Type, default: object, *, turn: int) -> object:
    """A value of a type that is not its default."""
    if type(kind) in PLAIN:
        return PLAIN[type(kind)](default)
    match kind:
        case inspect.EnumType(cls=cls):
            choices = sorted(cls, key=lambda one: one == default)
            return choices[turn % len(choices)]
        case inspect.VarTupleType(item_type=item):
            return (value(item, None, turn=turn),)
        case inspect.DictType(value_type=item):
            return {"a": value(item, None, turn=turn)}
        case inspect.UnionType(types=types):
            some = next(one for one in types if one != inspect.NoneType())
            return value(some, None, turn=turn)
        case inspect.StructType(cls=cls):
            return made(cls, turn=turn)
    raise TypeError(f"no value for {kind}; add one here")


def made(contract: type[msgspec.Struct], *, turn: int) -> msgspec.Struct:
    """A contract with every field given, or with only those that need it.

    ``turn`` chooses among the values of enumerations.
    """
    info = inspect.type_info(contract)
    if not isinstance(info, inspect.StructType):
        raise TypeError(f"{contract} is no contract")
    given = {
        field.name: value(field.type, field.default, turn=turn)
        for field in info.fields
        if turn != LEAST or field.required
    }
    return contract(**given)


def texts() -> dict[str, list[str]]:
    """The documents of every kind, as that release writes them."""
    encode = found("genie.codec:encode")
    return {
        kind: list(
            dict.fromkeys(
                encode(made(found(name), turn=turn)).decode()
                for turn in (*range(TURNS), LEAST)
            )
        )
        for kind, name in KINDS.items()
    }


def schemas() -> dict[str, Any]:
    """The JSON schema of every kind."""
    contracts = [found(name) for name in KINDS.values()]
    template = "#/$defs/{name}"
    refs, parts = msgspec.json.schema_components(contracts, ref_template=template)
    return {"kinds": dict(zip(KINDS, refs, strict=True)), "$defs": bare(parts)}


def bare(schema: Any) -> Any:
    """A schema without its words."""
    if isinstance(schema, list):
        return [bare(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    rest = {name: bare(one) for name, one in schema.items()}
    if isinstance(rest.get("type"), str) or "enum" in rest:
        rest.pop("description", None)
        rest.pop("title", None)
    return rest


def main() -> None:
    """Print documents, the body of a task's message, and schemas."""
    task = made(found(KINDS["task"]), turn=0)
    body = found("genie.messaging.envelope:pack")(task).decode()
    said = {"documents": texts(), "body": body, "schemas": schemas()}
    text = json.dumps(said, indent=1, ensure_ascii=False, sort_keys=True)
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    main()
